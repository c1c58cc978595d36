import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import S3rver from 's3rver';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { writeConstantFamily } from './constant-family.fixture.ts';

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

let folder: string;
let store: S3rver;
let url: string;
let environment: NodeJS.ProcessEnv;
let child: ChildProcess | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-bucket-'));
  store = new S3rver({
    address: '127.0.0.1',
    port: 0,
    silent: true,
    directory: join(folder, 's3rver'),
    configureBuckets: [{ name: 'edge-models', configs: [] }],
  });
  const { port } = await store.run();
  url = `s3://edge-models/fleet?endpoint=http://127.0.0.1:${port}`;
  environment = {
    ...process.env,
    AWS_ACCESS_KEY_ID: 'S3RVER',
    AWS_SECRET_ACCESS_KEY: 'S3RVER',
    XDG_CACHE_HOME: join(folder, 'cache'),
  };
});

afterEach(async () => {
  if (child !== undefined && child.exitCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await store.close();
  await rm(folder, { recursive: true, force: true });
});

function bonsai(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [main, ...args],
      { cwd: folder, env: environment },
      (error, stdout, stderr) => {
        resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
      },
    );
  });
}

/** Nine processes one after the other. */
const SLOW_MS = 180_000;

test('a repository is pushed, looked at, pulled and served by commands', { timeout: SLOW_MS }, async () => {
  await writeConstantFamily(join(folder, 'models'), 'digits', [
    [0.9, 10],
    [0.8, 20],
  ]);
  const pushed = await bonsai('repo', 'push', 'models', url, '--json');
  expect(JSON.parse(pushed.stdout)).toEqual([
    expect.objectContaining({ outcome: 'published', uploadedNetworks: 2 }),
  ]);
  expect((await bonsai('repo', 'list', url)).stdout).toBe('digits: 2 versions\n');
  expect((await bonsai('repo', 'show', url, 'digits')).stdout).toMatch(/90\.00/);
  expect((await bonsai('repo', 'verify', url)).stdout).toBe('digits/1: ok\ndigits/2: ok\n');
  expect((await bonsai('repo', 'pull', url, 'pulled')).code).toBe(0);
  const file = 'digits/bonsai.json';
  expect(await readFile(join(folder, 'pulled', file), 'utf8')).toBe(
    await readFile(join(folder, 'models', file), 'utf8'),
  );

  const ports = ['--port', '0', '--grpc-port', 'off', '--metrics-port', '0', '--control-port', 'off'];
  child = spawn(process.execPath, [main, 'serve', url, '--json', '--log-level', 'error', ...ports], {
    cwd: folder,
    env: environment,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = await once(createInterface(child.stdout!), 'line');
  const { http, metrics } = JSON.parse(line) as { http: string; metrics: string };
  const inputs = [{ name: 'image', datatype: 'FP32', shape: [1, 1], data: [0.5] }];
  const answer = await fetch(`${http}/v2/models/digits/infer`, {
    method: 'POST',
    body: JSON.stringify({ inputs }),
  });
  expect(await answer.json()).toMatchObject({ model_version: '1', outputs: [{ data: [1] }] });
  expect(await (await fetch(metrics)).text()).toMatch(/^bonsai_repository_up 1$/m);
  child.kill('SIGTERM');
  expect(await once(child, 'exit')).toEqual([0, null]);
});

test('what is wrong with a bucket is told in one line', { timeout: SLOW_MS }, async () => {
  const missing = await bonsai('repo', 'list', url.replace('edge-models', 'nobodys'));
  expect(missing).toMatchObject({ code: 1, stdout: '' });
  expect(missing.stderr).toMatch(
    /^bonsai: \[store_refused\] s3:\/\/nobodys\/fleet: there is no bucket "nobodys"/,
  );
  const empty = await bonsai('serve', url, '--port', '0');
  expect(empty.stderr).toMatch(/nothing/i);
  expect(empty.code).toBe(1);
  const wrong = await bonsai('repo', 'pull', 'edge-models', 'models');
  expect(wrong).toMatchObject({ code: 2, stderr: expect.stringMatching(/Expected a bucket such as s3:/) });
});
