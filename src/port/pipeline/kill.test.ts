import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { withMetadata } from '../../graph/model.ts';
import { writeModelFile } from '../../graph/onnx/write.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-kill-'));
  const network = withMetadata(randomNetwork(['bn-relu', 'residual'], 'gap', 4), {
    'bonsai.backbone': '{"name":"tiny"}',
  });
  await writeModelFile(network, join(folder, 'base.onnx'));
  await writeFile(join(folder, 'port.mjs'), PROGRAM);
});
afterAll(() => rm(folder, { recursive: true }));

/** Ports in a process of its own, as users do, and prints the digests of the family and what was said. */
const PROGRAM = `
import { portFamily, standardSteps } from '${new URL('../../../dist/port/pipeline/pipeline.js', import.meta.url).href}';
import { readModelFile } from '${new URL('../../../dist/graph/onnx/read.js', import.meta.url).href}';
const [base, workDirectory] = process.argv.slice(2);
const split = (count) => ({
  count,
  labels: Uint8Array.from({ length: count }, (_, i) => i % 5),
  images: Uint8Array.from({ length: count * 128 }, (_, at) =>
    at % 8 === (Math.floor(at / 128) % 5) + 1 ? 255 : (at * 2654435761) % 64),
});
const dataset = {
  name: 'stripes', classes: ['a', 'b', 'c', 'd', 'e'], shape: [2, 8, 8],
  train: split(80), validation: split(20), test: split(40), normalization: { mean: [0, 0], std: [1, 1] },
};
const notices = [];
const one = { count: 1, mean: 1, median: 1, min: 1, max: 1 };
const family = await portFamily(await readModelFile(base), dataset, {
  ratios: [0.25, 0.5], criteria: ['l2', 'taylor'], pruning: { align: 1 }, keep: 'all', seed: 1, workDirectory,
  recipe: () => ({
    phases: [{ epochs: 30 }], batch: 8, learningRate: 0.01, schedule: 'cosine',
    augmentation: { shiftPixels: 1 },
    optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 0 },
  }),
  distillation: { temperature: 2, weight: 0.5 },
  target: { fingerprint: 't', cpuModel: 'c', architecture: 'a', cpus: 1, runtime: 'r', runtimeVersion: '1' },
  clock: { nowMs: () => performance.now(), epochMs: () => 0 },
  onNotice: (notice) => notices.push(notice),
}, { ...standardSteps({ threads: 1 }), latency: async () => one, write: async () => {} });
console.log(JSON.stringify({ notices, digests: family.variants.map(({ digest }) => digest) }));
`;

interface Outcome {
  readonly notices: string[];
  readonly digests: string[];
}

/** @param until the process is killed as soon as this is so; absent: never */
async function port(work: string, until?: () => Promise<boolean>): Promise<Outcome | undefined> {
  const child = spawn(process.execPath, [join(folder, 'port.mjs'), join(folder, 'base.onnx'), work], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  let isOver = false;
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => {
      isOver = true;
      resolve();
    });
  });
  while (until !== undefined && !isOver) {
    if (await until()) child.kill('SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  await ended;
  return output === '' ? undefined : JSON.parse(output);
}

it('a porting that is killed again and again ends with the family of one that was not, byte by byte', async () => {
  const [killed, whole] = [join(folder, 'killed'), join(folder, 'whole')];
  await mkdir(killed);
  const files = () => readdir(killed);
  // In the middle of the first training, in the middle of the second, and between two steps after it.
  const moments: (() => Promise<boolean>)[] = [
    async () => (await files()).some((name) => name.endsWith('.checkpoint')),
    async () => {
      const names = await files();
      return (
        names.filter((name) => name.startsWith('fine-tune')).length >= 2 &&
        names.some((name) => name.endsWith('.checkpoint'))
      );
    },
    async () => (await files()).filter((name) => name.startsWith('evaluate')).length >= 3,
  ];
  for (const moment of moments) expect(await port(killed, moment)).toBeUndefined();
  const resumed = await port(killed);
  const uninterrupted = await port(whole);
  expect(resumed!.digests).toHaveLength(5);
  expect(resumed!.digests).toEqual(uninterrupted!.digests);
  expect(uninterrupted!.notices).toEqual([]);
  expect(existsSync(join(killed, 'throughput'))).toBe(false);
  // Nothing is left of checkpoints and parts.
  const names = await files();
  expect(
    names.filter((name) => !/^[a-z-]+-[0-9a-f]{24}\.step$/.test(name) && !name.endsWith('.tmp')),
  ).toEqual([]);
}, 180_000);
