import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { describeTarget } from '../../engine/target.ts';
import { withMetadata } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';
import { pruningOf } from '../../transform/prune/prune.ts';
import { digestOf } from '../step-cache.ts';
import { stripes } from '../stripes.fixture.ts';
import { portFamily, standardSteps } from './pipeline.ts';
import { LINEAGE_KEY } from './steps.ts';
import type { Family, PortOptions, PortProgress } from './types.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-port-'));
});
afterEach(() => rm(folder, { recursive: true }));

const base = withMetadata(randomNetwork(['bn-relu', 'residual'], 'gap', 4), {
  'bonsai.backbone': '{"name":"tiny"}',
});
const dataset = stripes();
const target = describeTarget({ cpus: 1 });

function optionsWith(more: Partial<PortOptions> = {}): PortOptions {
  return {
    ratios: [0.25, 0.5],
    pruning: { align: 1 },
    recipe: () => ({
      phases: [{ epochs: 1 }],
      batch: 8,
      learningRate: 0.01,
      schedule: 'constant',
      optimizer: { name: 'sgd', momentum: 0.9, nesterov: false, weightDecay: 0 },
    }),
    seed: 1,
    target,
    workDirectory: folder,
    keep: 'all',
    clock: { nowMs: () => 0, epochMs: () => 0 },
    ...more,
  };
}

test('a network becomes a family in order of accuracy, with lineage, costs and profiles', async () => {
  const written: Family[] = [];
  const family = await portFamily(base, dataset, optionsWith(), {
    ...standardSteps({ threads: 1, latencyRuns: 5 }),
    write: async (given) => void written.push(given),
    throughput: async ({ byteLength }) => {
      const rps = 1e6 / byteLength;
      return {
        throughputRps: { count: 1, mean: rps, median: rps, min: rps, max: rps },
        concurrency: 2,
      };
    },
  });
  const { variants, models } = family;
  // Each variant is written as soon as it is there, and all in the end.
  expect(written.map((each) => [each.variants.length, each.state])).toEqual([
    [1, 'growing'],
    [2, 'growing'],
    [3, 'growing'],
    [3, 'complete'],
  ]);
  expect(written[3]).toBe(family);
  expect(variants.map(({ version }) => version)).toEqual([1, 2, 3]);
  for (let i = 1; i < variants.length; i++) {
    const [better, worse] = [variants[i - 1]!, variants[i]!];
    expect(better.accuracy.test).toBeGreaterThanOrEqual(worse.accuracy.test);
    if (better.accuracy.test === worse.accuracy.test) expect(better.macs).toBeLessThanOrEqual(worse.macs);
  }
  for (const variant of variants) {
    const bytes = models.get(variant.version)!;
    expect(digestOf(bytes)).toBe(variant.digest);
    expect(variant.accuracy.testCount).toBe(dataset.test.count);
    expect(variant.profiles[target.fingerprint]).toMatchObject({ latencyMs: { count: 5 }, concurrency: 2 });
    const model = readModel(bytes);
    expect(JSON.parse(model.metadata.get(LINEAGE_KEY)!)).toMatchObject({
      backbone: 'tiny',
      dataset: 'stripes',
      accuracy: variant.accuracy,
    });
    expect(pruningOf(model)?.ratio).toBe(variant.lineage.pruning?.ratio);
  }
  // By default each variant is pruned from the nearest that there is: 0.25, half of the range, comes first.
  const byRatio = (ratio?: number) => variants.find((variant) => variant.lineage.pruning?.ratio === ratio)!;
  expect(byRatio(0.25).lineage.parent).toBe(byRatio(undefined).digest);
  expect(byRatio(0.5).lineage.parent).toBe(byRatio(0.25).digest);
  expect(byRatio(0.5).macs).toBeLessThan(byRatio(0.25).macs);
  expect(family.frontier[0]).toBe(1);
});

test('a throughput that varied is kept and said to be doubtful', async () => {
  const notices: string[] = [];
  const given = optionsWith({ ratios: [], onNotice: (message) => notices.push(message) });
  await portFamily(base, dataset, given, {
    ...standardSteps({ threads: 1, latencyRuns: 2 }),
    write: async () => {},
    throughput: async () => ({
      throughputRps: { count: 3, mean: 100, median: 100, min: 80, max: 120 },
      concurrency: 2,
    }),
  });
  expect(notices).toEqual([expect.stringMatching(/of base varied by 1\.50 .* bonsai profile/)]);
});

test('a second run reuses every step, a damaged result is made again, and the family stays the same', async () => {
  const steps = { ...standardSteps({ threads: 1, latencyRuns: 2 }), write: async () => {} };
  const states: string[] = [];
  const onProgress = ({ step, state }: PortProgress) => void states.push(`${step} ${state}`);
  const first = await portFamily(base, dataset, optionsWith({ chain: 'base' }), steps);
  expect((await readdir(folder)).filter((name) => !name.endsWith('.step'))).toEqual([]);

  const second = await portFamily(base, dataset, optionsWith({ chain: 'base', onProgress }), steps);
  expect(second).toEqual(first);
  expect(states.filter((state) => !state.endsWith('reused'))).toEqual([]);

  const tuned = (await readdir(folder)).find((name) => name.startsWith('fine-tune'))!;
  const bytes = await readFile(join(folder, tuned));
  bytes[bytes.length >> 1]! ^= 1;
  await writeFile(join(folder, tuned), bytes);
  states.length = 0;
  expect(await portFamily(base, dataset, optionsWith({ chain: 'base', onProgress }), steps)).toEqual(first);
  expect(states.filter((state) => state === 'fine-tune finished')).toHaveLength(1);
});

test.each(['base', 'nearest', 'previous'] as const)(
  'a ratio that changes no width is skipped (chain: %s)',
  async (chain) => {
    const notices: string[] = [];
    const { variants } = await portFamily(
      base,
      dataset,
      // Groups of 6 channels, kept in pairs: 6 · 0.95 = 2.85 pairs → 3; 6 · 0.75 = 2.25 and 6 · 0.5 = 1.5 pairs → 2.
      optionsWith({
        ratios: [0.05, 0.25, 0.5],
        chain,
        pruning: { align: 2 },
        onNotice: (message) => notices.push(message),
      }),
      { ...standardSteps({ threads: 1, latencyRuns: 1 }), write: async () => {} },
    );
    expect(notices.sort()).toEqual([
      'Ratio 0.05 removes nothing at alignment 2: skipped.',
      'Ratio 0.5 has the widths of ratio 0.25 at alignment 2: skipped.',
    ]);
    expect(variants.map(({ lineage }) => lineage.pruning?.ratio).sort()).toEqual([0.25, undefined]);
  },
);

test('criteria that see data are gathered once for each network and kept; rounds share the epochs', async () => {
  const steps = { ...standardSteps({ threads: 1, latencyRuns: 1 }), write: async () => {} };
  const states: string[] = [];
  const epochs: number[] = [];
  const options = optionsWith({
    ratios: [0.5],
    pruning: { align: 1, criterion: 'taylor', scope: 'global' },
    iterations: { schedule: 'linear', iterations: 2 },
    onProgress: ({ step, state }: PortProgress) => void states.push(`${step} ${state}`),
  });
  const given = {
    ...steps,
    train: async (...args: Parameters<typeof steps.train>) => {
      epochs.push(args[2].phases[0]!.epochs);
      return steps.train(...args);
    },
  };
  const first = await portFamily(base, dataset, options, given);
  const finished = (step: string) => states.filter((state) => state === `${step} finished`).length;
  // The base's scores serve for the outlook and for the first round.
  expect(finished('importance')).toBe(2);
  expect(finished('reestimate')).toBe(2);
  expect(finished('fine-tune')).toBe(2);
  expect(epochs).toEqual([0.5, 0.5]);
  expect(first.variants.map(({ lineage }) => lineage.pruning).filter(Boolean)).toEqual([
    { criterion: 'taylor', scope: 'global', ratio: 0.5, align: 1 },
  ]);
  states.length = 0;
  expect(await portFamily(base, dataset, options, given)).toEqual(first);
  expect(states.filter((state) => !state.endsWith('reused'))).toEqual([]);
  const without = { ...steps, importance: undefined };
  await expect(portFamily(base, dataset, options, without)).rejects.toThrow(/step `importance`/);
});

test('bad ratios and an abort are typed errors', async () => {
  const steps = { ...standardSteps({ threads: 1 }), write: async () => {} };
  for (const ratios of [[0.5, 0.25], [0], [1]]) {
    await expect(portFamily(base, dataset, optionsWith({ ratios }), steps)).rejects.toMatchObject({
      code: 'invalid_argument',
    });
  }
  await expect(
    portFamily(base, dataset, optionsWith({ signal: AbortSignal.abort() }), steps),
  ).rejects.toMatchObject({ code: 'aborted' });
});

test('a twin in integers joins the family only if it measures faster than its parent', async () => {
  const notices: string[] = [];
  const standard = standardSteps({ threads: 1, latencyRuns: 2 });
  const measured = (median: number) => ({ count: 2, mean: median, median, min: median, max: median });
  let comparisons = 0;
  const steps = {
    ...standard,
    // The twin of the base, which comes first, takes half the time; that of ratio 0.5 takes longer.
    compare: async () => (comparisons++ === 0 ? [measured(2), measured(1)] : [measured(1), measured(1.1)]),
    write: async () => {},
  };
  const given = optionsWith({ ratios: [0.5], int8: true, onNotice: (message) => notices.push(message) });
  const family = await portFamily(base, dataset, given, steps);
  const { variants, models } = family;
  expect(variants).toHaveLength(3);
  const [twin, ...others] = variants.filter(({ lineage }) => lineage.quantization !== undefined);
  expect(others).toEqual([]);
  const parent = variants.find(({ lineage }) => lineage.parent === undefined)!;
  expect(twin).toMatchObject({
    macs: parent.macs,
    parameters: parent.parameters,
    lineage: { parent: parent.digest, quantization: { method: 'min-max', samples: dataset.train.count } },
  });
  const operators = readModel(models.get(twin!.version)!).graph.nodes.map((node) => node.opType);
  expect(operators).toContain('QuantizeLinear');
  expect(notices).toEqual([
    expect.stringMatching(/INT8 does not pay for ratio 0.5: 1.10 ms against 1.00 ms/),
  ]);
  // What was measured is kept: the second run compares nothing.
  expect(await portFamily(base, dataset, given, steps)).toEqual(family);
  expect(comparisons).toBe(2);
});
