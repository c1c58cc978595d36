import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { float32Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { digestOf } from '../repository/digest.ts';
import { writeTask } from '../repository/store.ts';
import { MANIFEST_SCHEMA_VERSION } from '../repository/types.ts';
import type { ReadyLine } from './server-process.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

let folder: string;
let root: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-quota-'));
  root = join(folder, 'models');
  await writeSlowDoubler();
});
afterAll(() => rm(folder, { recursive: true }));

/** y = 2x, with a detour of some ms that contributes 0. */
async function writeSlowDoubler(): Promise<void> {
  const width = 256;
  const b = new GraphBuilder('doubler');
  const x = b.input('x', 'float32', [1, 1]);
  let detour = b.op('MatMul', [x, b.constant(float32Tensor([1, width], new Float32Array(width)))]);
  const w = b.constant(float32Tensor([width, width], new Float32Array(width * width).fill(1e-9)));
  for (let i = 0; i < 120; i++) detour = b.op('Relu', [b.op('MatMul', [detour, w])]);
  const zero = b.op('ReduceMean', [detour], { axes: [1], keepdims: 1 });
  b.output(b.op('Add', [b.op('Add', [x, x]), zero], {}, { outputs: ['y'] }), 'float32', [1, 1]);
  const bytes = writeModel(modelOf(b.finish()));
  const tensor = { dtype: 'float32', shape: [1, 1] } as const;
  const variant = {
    version: 1,
    digest: digestOf(bytes),
    sizeBytes: bytes.byteLength,
    macs: 1,
    parameters: 0,
  };
  await writeTask(
    root,
    {
      schemaVersion: MANIFEST_SCHEMA_VERSION,
      task: 'double',
      inputs: [{ name: 'x', ...tensor }],
      outputs: [{ name: 'y', ...tensor }],
      variants: [{ ...variant, accuracy: { test: 0.9, testCount: 10 }, lineage: {}, profiles: {} }],
    },
    new Map([[1, bytes]]),
  );
}

async function served<T>(
  options: { args?: readonly string[]; environment?: Readonly<Record<string, string>> },
  use: (server: ReadyLine) => Promise<T>,
): Promise<T> {
  const ports = ['--port', '0', '--grpc-port', 'off', '--metrics-port', '0', '--control-port', 'off'];
  const args = [main, 'serve', root, '--exit-with-parent', '--json', ...ports, ...(options.args ?? [])];
  const env = { ...process.env, ...options.environment };
  const child = spawn(process.execPath, args, { cwd: folder, env, stdio: ['pipe', 'pipe', 'ignore'] });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  try {
    for await (const line of createInterface({ input: child.stdout }))
      if (line.startsWith('{"ready":true')) return await use(JSON.parse(line) as ReadyLine);
    throw new Error('The server did not start.');
  } finally {
    child.stdin.end();
    await ended;
  }
}

async function gauge({ metrics }: ReadyLine, name: string): Promise<number> {
  const text = await (await request(metrics)).body.text();
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1]);
}

async function double({ http }: ReadyLine, value: number): Promise<number> {
  const inputs = [{ name: 'x', datatype: 'FP32', shape: [1, 1], data: [value] }];
  const body = JSON.stringify({ inputs });
  const answer = await request(`${http}/v2/models/double/infer`, { method: 'POST', body });
  const { outputs } = (await answer.body.json()) as { outputs: { data: number[] }[] };
  return outputs[0]!.data[0]!;
}

describe('serve --cpu-quota', () => {
  it('holds the process to its quota under more load than it can answer, and answers all', async () => {
    const quota = 0.3;
    await served({ args: ['--cpu-quota', String(quota)] }, async (server) => {
      const startMs = performance.now();
      const before = await gauge(server, 'process_cpu_seconds_total');
      const clients = Array.from({ length: 8 }, async (_, client) => {
        const pairs: [number, number][] = [];
        for (let n = 1000 * client; performance.now() < startMs + 3_000; n++)
          pairs.push([2 * n, await double(server, n)]);
        return pairs;
      });
      const pairs = (await Promise.all(clients)).flat();
      const usedS = (await gauge(server, 'process_cpu_seconds_total')) - before;
      const ratio = usedS / ((performance.now() - startMs) / 1000) / quota;
      expect(pairs.map(([, answer]) => answer)).toEqual(pairs.map(([expected]) => expected));
      expect(ratio).toBeGreaterThan(0.5);
      expect(ratio).toBeLessThan(1.3);
    });
  }, 60_000);

  it('may come from the environment, over the file, and be the budget that metrics tell', async () => {
    await writeFile(join(folder, 'bonsai.yaml'), 'serve:\n  cpu-quota: 0.75\n');
    const budget = (server: ReadyLine) => gauge(server, 'bonsai_cpu_budget_cores');
    try {
      expect(await served({}, budget)).toBe(0.75);
      expect(await served({ environment: { BONSAI_CPU_QUOTA: '0.5' } }, budget)).toBe(0.5);
    } finally {
      await rm(join(folder, 'bonsai.yaml'));
    }
  }, 60_000);

  it.each([
    [['--cpu-quota', '0'], /Expected a number of CPUs above 0 such as 0\.5, got "0"/],
    [['--cpu-quota', 'half'], /Expected a number of CPUs above 0/],
    [['--cpu-quota', '1.5', '--cpus', '0'], /--cpu-quota 1\.5 is more than the 1 CPU that --cpus names/],
    [
      ['--cpu-quota', String(availableParallelism() + 1)],
      /is more than the \d+ CPUs? that this process may use/,
    ],
    [['--cpu-quota', '0.5', '--one-model-per-process'], /--cpu-quota holds one process/],
  ])(
    'refuses %s',
    async (args, reason) => {
      const stderr = await new Promise<string>((resolve, reject) => {
        execFile(
          process.execPath,
          [main, 'serve', root, ...args],
          { cwd: folder },
          (error, _stdout, text) => {
            if (error === null) reject(new Error('It was not refused.'));
            else resolve(text.replace(/\s+/g, ' '));
          },
        );
      });
      expect(stderr).toMatch(reason);
    },
    30_000,
  );
});
