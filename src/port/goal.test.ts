import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { seededRandom } from '../base/random.ts';
import { elementCount, float32Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import type { Model } from '../graph/model.ts';
import { readModel } from '../graph/onnx/read.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { countCost } from '../ops/count.ts';
import type { SpeedGoal } from '../transform/prune/goal.ts';
import { distanceOf } from '../transform/prune/nearest.ts';
import { randomNetwork } from '../transform/prune/networks.fixture.ts';
import { chosen, type GoalIteration, goalBand, pruneToGoal, speedDefaults } from './goal.ts';
import { openStepCache } from './step-cache.ts';

const model = randomNetwork(
  ['projection', 'residual', 'concat', 'projection', 'conv', 'pool', 'conv'],
  'gap',
  8,
);
const macs = countCost(model).macs;

/**
 * A machine that needs a fixed time for each node and one for each multiply-accumulate, and whose whole networks take
 * half as long again as their parts, which the search does not know.
 */
function machine(seen: { segments: number; networks: number }) {
  const time = (bytes: Uint8Array) => {
    const network = readModel(bytes);
    return 0.02 * network.graph.nodes.length + (10 * countCost(network).macs) / macs;
  };
  return {
    segments: async (models: readonly Uint8Array[], onDone: (count: number) => void) => {
      seen.segments += models.length;
      onDone(models.length);
      return models.map(time);
    },
    network: async (bytes: Uint8Array) => {
      seen.networks++;
      return 1.5 * time(bytes);
    },
  };
}

const counters = () => ({ segments: 0, networks: 0 });
const whole = 1.5 * (0.02 * model.graph.nodes.length + 10);

test('a goal of no kind, or without its number, is refused before anything is measured', async () => {
  for (const [goal, message] of [
    [{ kind: 'speed', share: 0.5 }, /"speed"; there are flops, params, throughput, latency/],
    [{ kind: 'latency', perSecond: 5 }, /`latencyMs` of the goal is undefined/],
  ] as const) {
    const seen = counters();
    const asked = pruneToGoal(model, goal as never, { align: 1, measure: machine(seen) });
    await expect(asked).rejects.toThrow(message);
    await expect(asked).rejects.toMatchObject({ code: 'invalid_argument' });
    expect(seen).toEqual(counters());
  }
});

test.each([1.2, 2, 4])(
  'a network %f times as fast is found, at most a tenth faster than asked for',
  async (factor) => {
    const goal: SpeedGoal = { kind: 'throughput', perSecond: (1000 * factor) / whole };
    const seen = counters();
    const shares: number[] = [];
    const options = { align: 1, measure: machine(seen) };
    const result = await pruneToGoal(model, goal, {
      ...options,
      onProgress: ({ share }) => shares.push(share),
    });
    const { throughputPerSecond, before } = result.measured!;
    expect(throughputPerSecond).toBeGreaterThanOrEqual(goal.perSecond);
    expect(throughputPerSecond).toBeLessThanOrEqual(goal.perSecond * goalBand);
    expect(before.latencyMs).toBeCloseTo(whole, 6);
    // What is returned is what was measured.
    expect(await machine(counters()).network(writeModel(result.model))).toBeCloseTo(
      result.measured!.latencyMs,
      9,
    );
    expect(result.iterations.length).toBe(seen.networks);
    expect(result.iterations.at(-1)!.macs).toBeCloseTo(countCost(result.model).macs, 6);
    expect(shares).toEqual([...shares].sort((a, b) => a - b));
    expect(shares.at(-1)).toBe(1);
    expect(await pruneToGoal(model, goal, options)).toEqual(result);
  },
);

test('latency is the same goal the other way round', async () => {
  const options = { align: 1, measure: machine(counters()) };
  const latency = await pruneToGoal(model, { kind: 'latency', latencyMs: whole / 2 }, options);
  const throughput = await pruneToGoal(model, { kind: 'throughput', perSecond: 2000 / whole }, options);
  expect(latency.groups).toEqual(throughput.groups);
});

test('a network that meets the goal as it is comes back whole, without a table', async () => {
  const seen = counters();
  const result = await pruneToGoal(
    model,
    { kind: 'latency', latencyMs: whole + 1 },
    { measure: machine(seen) },
  );
  expect(result.model).toBe(model);
  expect(result.groups.every(({ channels, kept }) => kept === channels)).toBe(true);
  expect(seen).toEqual({ segments: 0, networks: 1 });
});

test('a goal beyond the narrowest widths is refused with the fastest that was measured', async () => {
  const goal: SpeedGoal = { kind: 'latency', latencyMs: 0.001 };
  await expect(pruneToGoal(model, goal, { align: 1, measure: machine(counters()) })).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringMatching(/latency=0\.001ms was not reached: the fastest of \d+ networks took \d/),
  });
});

test('shares are counted, not measured', async () => {
  const seen = counters();
  const result = await pruneToGoal(
    model,
    { kind: 'flops', share: 0.5 },
    { align: 1, measure: machine(seen) },
  );
  expect(seen).toEqual({ segments: 0, networks: 0 });
  expect(result.share).toBeCloseTo(countCost(result.model).macs / macs, 9);
  expect(result).toMatchObject({ iterations: [], align: 1 });
});

test('with alignment auto, of the widths for a share of the work those that measure fastest are taken', async () => {
  const seen = counters();
  const goal = { kind: 'flops', share: 0.5 } as const;
  const result = await pruneToGoal(chain(), goal, { measure: machine(seen) });
  expect(distanceOf(result.share!, goal.share)).toBeLessThan(0.2);
  if (result.align === 1) return; // An engine without blocks: nothing to choose.
  expect(seen).toEqual({ segments: 0, networks: result.iterations.length + 1 });
  const fastest = Math.min(...result.iterations.map(({ measuredMs }) => measuredMs));
  expect(result.measured!.latencyMs).toBeLessThanOrEqual(fastest * speedDefaults.tie);
  expect(result.macs!.after / result.macs!.before).toBeLessThan(0.6);
  const { latencyMs } = result.measured!;
  expect(await machine(counters()).network(writeModel(result.model))).toBeCloseTo(latencyMs, 9);
});

test('it can be stopped before and between measurements', async () => {
  const goal: SpeedGoal = { kind: 'latency', latencyMs: whole / 2 };
  await expect(pruneToGoal(model, goal, { align: 1, signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'aborted',
  });
  const controller = new AbortController();
  const { segments, network } = machine(counters());
  const measure = {
    segments,
    network: async (bytes: Uint8Array) => {
      controller.abort();
      return network(bytes);
    },
  };
  await expect(
    pruneToGoal(model, goal, { align: 1, measure, signal: controller.signal }),
  ).rejects.toMatchObject({ code: 'aborted' });
});

test('tables that the engine measured are kept by network and target', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'bonsai-goal-'));
  try {
    const small = randomNetwork(['conv'], 'gap', 2);
    const seen: string[] = [];
    const run = () =>
      pruneToGoal(
        small,
        { kind: 'latency', latencyMs: 1 },
        {
          align: 2,
          cache: openStepCache(folder),
          measure: { network: async (bytes) => 0.97 * (bytes.length / writeModel(small).length) + 0.04 },
          onProgress: ({ phase }) => seen.push(phase),
        },
        // A busy machine may measure a table by which nothing gets faster; kept it has to be all the same.
      ).catch((error: unknown) => String(error));
    const first = await run();
    expect(seen).toContain('segments');
    seen.length = 0;
    const second = await run();
    expect(seen).not.toContain('segments');
    expect(second).toEqual(first);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('of the networks that meet the goal the least is lost, but never one that another with more work outruns', () => {
  const candidate = (loss: number, work: number, measuredMs: number): GoalIteration => ({
    kept: [],
    macs: work,
    loss,
    measuredMs,
  });
  const all = [candidate(0, 100, 9), candidate(2, 50, 4.9), candidate(1, 60, 4.8), candidate(3, 40, 3)];
  expect(chosen(all, 5)).toBe(all[2]);
  expect(chosen(all, 1)).toBeUndefined();
  // The one that loses least is slower than one with more work.
  const odd = [candidate(1, 40, 4.9), candidate(2, 50, 4.2), candidate(3, 55, 4.1)];
  expect(chosen(odd, 5)).toBe(odd[2]);
});

/** Convolutions of 96 channels, one after the other. */
function chain(): Model {
  const random = seededRandom(1);
  const build = new GraphBuilder('chain');
  const kernel = (shape: readonly number[]) =>
    build.constant(
      float32Tensor(
        shape,
        Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
      ),
      'w',
    );
  let x = build.input('image', 'float32', ['N', 3, 8, 8]);
  for (const [from, to] of [
    [3, 96],
    [96, 96],
    [96, 96],
    [96, 4],
  ] as const)
    x = build.op('Conv', [build.op('Relu', [x]), kernel([to, from, 3, 3])], { pads: [1, 1, 1, 1] });
  build.output(x, 'float32', ['N', 4, 8, 8]);
  return modelOf(build.finish());
}
