import { expect, test } from 'vitest';
import { demandLevelDefaults, demandLevels, PRIOR_LEVELS } from './demand-levels.ts';

/** Ten windows of 5 s: eight at 2 req/s, two at 16; a second task at half of that. */
const rates = [2, 2, 16, 2, 2, 2, 16, 2, 2, 2];
const history = (share: number) =>
  rates.flatMap((rps, window) =>
    [1, 2, 3, 4, 5].map((second) => ({ atMs: 1000 * (5 * window + second), demandRps: share * rps })),
  );
const histories = [history(1), history(0.5)];

const { priorMs, windowMs } = demandLevelDefaults;

test('short bursts and long calm are told apart, by about equally many requests each', () => {
  const levels = demandLevels(histories, { nowMs: 50_000, count: 6 });
  expect(levels.length).toBeGreaterThan(3);
  expect(levels.reduce((sum, { timeRatio }) => sum + timeRatio, 0)).toBeCloseTo(1, 12);
  const totals = levels.map(({ rps: [first, second] }) => first! + second!);
  expect(totals).toEqual(totals.toSorted((a, b) => a - b));
  // The tasks keep their proportion, and nothing is lost: the mean is that of what was seen and of what is expected.
  for (const { rps } of levels) expect(rps[1]).toBeCloseTo(rps[0]! / 2, 12);
  // Expected are multiples of the median, 2: bursts are rare, however much they weigh in the mean of a short history.
  const expectedMean = PRIOR_LEVELS.reduce((sum, { factor, timeRatio }) => sum + factor * timeRatio, 0) * 2;
  const seenMs = rates.length * windowMs;
  const mean = levels.reduce((sum, { rps, timeRatio }) => sum + rps[0]! * timeRatio, 0);
  expect(mean).toBeCloseTo((4.8 * seenMs + expectedMean * priorMs) / (seenMs + priorMs), 9);
});

test('after a short and calm history bursts are expected all the same, later only those that were seen', () => {
  const calm = (seconds: number) =>
    Array.from({ length: seconds }, (_, i) => ({ atMs: 1000 * (i + 1), demandRps: 2 }));
  const top = (seconds: number) =>
    demandLevels([calm(seconds)], { nowMs: 1000 * seconds, count: 4 }).at(-1)!.rps[0]!;
  expect(top(5)).toBeGreaterThan(4);
  expect(top(600)).toBeLessThan(top(5));
});

test('what is long ago does not count, and nothing gives nothing', () => {
  expect(demandLevels(histories, { nowMs: 1_000_000, count: 3 })).toEqual([]);
  expect(demandLevels([[], []], { nowMs: 1_000, count: 3 })).toEqual([]);
  expect(demandLevels([[{ atMs: 900, demandRps: 0 }]], { nowMs: 1_000, count: 3 })).toEqual([
    { rps: [0], timeRatio: 1 },
  ]);
});
