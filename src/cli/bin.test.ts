import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { digestOf } from '../repository/digest.ts';
import { writeTask } from '../repository/store.ts';

const bin = fileURLToPath(new URL('../../dist/cli/bin.js', import.meta.url));

function isGone(url: string): Promise<boolean> {
  return fetch(`${url}/v2/health/live`).then(
    () => false,
    () => true,
  );
}

describe('the launcher', () => {
  let root: string;
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-bin-'));
    const b = new GraphBuilder('identity');
    b.output(b.op('Identity', [b.input('x', 'float32', ['N'])], {}, { outputs: ['y'] }), 'float32', ['N']);
    const bytes = writeModel(modelOf(b.finish()));
    const variant = {
      ...{ version: 1, digest: digestOf(bytes), sizeBytes: bytes.byteLength, macs: 1, parameters: 1 },
      ...{ accuracy: { test: 1, testCount: 1 }, lineage: {}, profiles: {} },
    };
    const spec = (name: string) => [{ name, dtype: 'float32' as const, shape: [-1] }];
    await writeTask(
      root,
      { schemaVersion: 1, task: 'echo', inputs: spec('x'), outputs: spec('y'), variants: [variant] },
      new Map([[1, bytes]]),
    );
  });
  afterAll(() => rm(root, { recursive: true, force: true }));

  it('ends the server when npx ends, which passes no signal on', async () => {
    // Starts what it is given, and does nothing else any more.
    const starter = `require('node:child_process').spawn(process.execPath, process.argv.slice(1), { stdio: 'inherit' })`;
    const flags = ['--json', '--port', '0', '--metrics-port', '0'];
    const npx = spawn(process.execPath, ['-e', starter, bin, 'serve', root, ...flags], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: {
        ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('MALLOC_'))),
        npm_command: 'exec',
      },
    });
    const url = await new Promise<string>((resolve) => {
      createInterface({ input: npx.stdout }).once('line', (line) => resolve(JSON.parse(line).http));
    });
    expect((await fetch(`${url}/v2/models/echo/ready`)).status).toBe(200);
    npx.kill('SIGKILL');
    await expect.poll(() => isGone(url), { timeout: 20_000 }).toBe(true);
  });

  it.each(['SIGTERM', 'SIGKILL'] as const)('ends the server with itself by %s', async (signal) => {
    const flags = ['--json', '--port', '0', '--metrics-port', '0'];
    const launcher = spawn(process.execPath, [bin, 'serve', root, ...flags], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('MALLOC_'))),
    });
    const ended = new Promise((resolve) => launcher.once('exit', (code, by) => resolve(by ?? code)));
    const url = await new Promise<string>((resolve) => {
      createInterface({ input: launcher.stdout }).once('line', (line) => resolve(JSON.parse(line).http));
    });
    expect((await fetch(`${url}/v2/models/echo/ready`)).status).toBe(200);
    launcher.kill(signal);
    expect(await ended).toBe(signal === 'SIGTERM' ? 0 : 'SIGKILL');
    await expect.poll(() => isGone(url), { timeout: 20_000 }).toBe(true);
  });
});
