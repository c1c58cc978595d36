import fc from 'fast-check';
import { expect, test } from 'vitest';
import { writeModel } from '../../graph/onnx/write.ts';
import { costAt } from '../../transform/prune/allocate.ts';
import { goalProblem, keptByKey } from '../../transform/prune/goal.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';
import { prune } from '../../transform/prune/prune.ts';
import {
  ascending,
  interpolate,
  latencyItems,
  measureLatencyTable,
  measureSegments,
} from './latency-table.ts';
import { extractSegments } from './segments.ts';
import { threadWaitMs } from './thread-wait.ts';

test('between points time is linear, below the first and beyond the last proportional', () => {
  const points = [
    { work: 10, ms: 1 },
    { work: 20, ms: 3 },
  ];
  expect([0, 5, 10, 15, 20, 40].map((work) => interpolate(points, work))).toEqual([0, 0.5, 1, 2, 3, 6]);
  expect(interpolate([], 5)).toBe(0);
  expect(interpolate([{ work: 0, ms: 2 }], 5)).toBe(2);
});

test('a dip is averaged away, and what rises already stays', () => {
  const work = (...ms: number[]) => ms.map((value, i) => ({ work: i + 1, ms: value }));
  expect(ascending(work(1, 3, 2, 4))).toEqual(work(1, 2.5, 2.5, 4));
  expect(ascending(work(1, 2, 3))).toEqual(work(1, 2, 3));
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0, max: 9, noNaN: true }), { minLength: 1 }), (ms) => {
      const risen = ascending(work(...ms)).map((point) => point.ms);
      for (const [i, value] of risen.entries()) expect(value).toBeGreaterThanOrEqual(risen[i - 1] ?? 0);
      // Pooling moves time between points and loses none.
      const sum = (values: readonly number[]) => values.reduce((all, value) => all + value, 0);
      expect(sum(risen)).toBeCloseTo(sum(ms), 6);
    }),
    { seed: 2 },
  );
});

test('the table gives the measured time at the measured widths, and asks for equal segments once', async () => {
  const model = randomNetwork(['projection', 'residual', 'concat', 'conv'], 'gap', 5);
  const { choices, work, folded, criterion } = goalProblem(model, { align: 1 });
  const keptAt = (share: number) => choices.map(({ kept }) => kept[Math.round(share * (kept.length - 1))]!);
  const levels = [1, 0.5, 0].map(keptAt).map((kept) => ({
    kept,
    prune: () => prune(folded, { ratio: 0, align: 1, criterion, kept: keptByKey(choices, kept) }).model,
  }));
  const timeOf = (bytes: Uint8Array) => bytes.length ** 2;
  const asked: Uint8Array[] = [];
  const shares: number[] = [];
  const table = await measureLatencyTable(levels, work, {
    measure: async (models, onDone) => {
      asked.push(...models);
      onDone(models.length);
      return models.map(timeOf);
    },
    onProgress: (share) => shares.push(share),
  });
  const items = latencyItems(table, work);
  for (const level of levels) {
    const segments = extractSegments(level.prune());
    const sum = segments.reduce((all, segment) => all + timeOf(writeModel(segment.model)), 0);
    // Names differ in length from level to level and bytes with them, by less than this.
    expect(Math.abs(costAt(items, level.kept) / sum - 1)).toBeLessThan(0.05);
  }
  const signatures = levels.flatMap((level) =>
    extractSegments(level.prune()).map(({ signature }) => signature),
  );
  expect(asked.length).toBe(new Set(signatures).size);
  expect(shares).toEqual([...shares].sort((a, b) => a - b));
  expect(shares.at(-1)).toBe(1);
});

test('the engine times small networks in order; one that it cannot load has no time', async () => {
  const segments = extractSegments(randomNetwork(['conv', 'bn-relu'], 'gap', 1));
  const models = segments.map(({ model }) => writeModel(model));
  const done: number[] = [];
  const times = await measureSegments([...models, new Uint8Array([1, 2, 3])], {
    budgetMs: 1,
    onDone: (count) => done.push(count),
  });
  expect(times.length).toBe(models.length + 1);
  for (const ms of times.slice(0, -1)) expect(ms).toBeGreaterThan(0);
  expect(times.at(-1)).toBeNaN();
  expect(done).toEqual(times.map((_, i) => i + 1));
});

test('measuring can be stopped', async () => {
  const signal = AbortSignal.abort();
  await expect(measureSegments([], { signal })).rejects.toMatchObject({ code: 'aborted' });
});

test('what a thread waits never falls', () => {
  const before = threadWaitMs();
  expect(before).toBeGreaterThanOrEqual(0);
  expect(threadWaitMs()).toBeGreaterThanOrEqual(before);
});
