import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const shared = join(process.env.BONSAI_SHARED ?? '../shared', 'data/mnist');
const folder = mkdtempSync(join(tmpdir(), 'bonsai-cli-download-'));
let server: Server;
let mirror: string;
let requests = 0;

beforeAll(async () => {
  server = createServer((request, response) => {
    requests++;
    const file = join(shared, basename(request.url!));
    if (existsSync(file)) response.end(readFileSync(file));
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  mirror = `http://127.0.0.1:${(server.address() as AddressInfo).port}/mnist`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, 'download', ...args], (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

it.skipIf(!existsSync(shared))(
  'downloads MNIST from a mirror, says how to use it, and only once',
  async () => {
    const out = join(folder, 'mnist');
    const first = await run('mnist', '--out', out, '--mirror', mirror);
    expect(first).toMatchObject({ code: 0 });
    expect(first.stdout).toMatch(/train-images-idx3-ubyte\.gz: SHA-256 [0-9a-f]{64}/);
    expect(first.stdout).toContain(`Use it with --data mnist:${out}`);
    expect(requests).toBe(4);
    const again = await run('mnist', '--out', out, '--mirror', mirror, '--json');
    expect(JSON.parse(again.stdout)).toMatchObject({ data: `mnist:${out}` });
    expect(requests).toBe(4);
  },
);

it('refuses a set that there is not, and a mirror that is no URL', async () => {
  expect(await run('imagenet', '--out', folder)).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/imagenet.*mnist, cifar10, cifar100, hymenoptera/),
  });
  expect(await run('mnist', '--out', folder, '--mirror', 'here')).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/mirror is "here", expected a URL/),
  });
});
