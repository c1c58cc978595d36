import { expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { interpolatedOracle } from './interpolated.ts';
import { type OracleTask, type OracleWorkload, oracle } from './oracle.ts';

/** Poisson arrivals of one task. */
function arrivals(count: number, rps: number): OracleWorkload {
  const random = seededRandom(1);
  let nowMs = 0;
  return {
    arrivalMs: Float64Array.from({ length: count }, () => {
      nowMs += (1000 * random.exponential(1)) / rps;
      return nowMs;
    }),
    task: new Uint16Array(count),
    multiplier: new Float64Array(count).fill(1),
  };
}

const SHORT: readonly OracleTask[] = [
  {
    sloMs: 40,
    weight: 1,
    versions: [
      { accuracy: 1, serviceMs: 2 },
      { accuracy: 0.7, serviceMs: 0.43 },
    ],
  },
];

test('service times that are short against its grid come out as on a grid that is fine enough for rounding', () => {
  // Twice what the accurate version can take.
  const workload = arrivals(4_000, 1_000);
  const fine = oracle(workload, SHORT, { bound: 'feasible', stepMs: 0.01 });
  const found = interpolatedOracle(workload, SHORT);
  expect(found.dropped).toBe(fine.dropped);
  expect(Math.abs(found.meanAccuracy - fine.meanAccuracy)).toBeLessThan(0.003);
  // The bounds of its own grid take 0.43 ms for 1, or for 0.
  expect(oracle(workload, SHORT, { bound: 'feasible', stepMs: 1 }).meanAccuracy).toBeLessThan(0.75);
  expect(oracle(workload, SHORT, { bound: 'relaxed', stepMs: 1 }).meanAccuracy).toBeGreaterThan(0.83);
});

test('what it comes to could have been got: never more than the relaxed bound', () => {
  for (const rps of [300, 700, 2_000, 5_000]) {
    const workload = arrivals(2_000, rps);
    const relaxed = oracle(workload, SHORT, { bound: 'relaxed', stepMs: 0.02 });
    const found = interpolatedOracle(workload, SHORT);
    expect(found.dropped).toBeGreaterThanOrEqual(relaxed.dropped);
    // In overload the fewest drops come first, and who drops more may answer the rest better.
    if (found.dropped === relaxed.dropped)
      expect(found.meanAccuracy).toBeLessThanOrEqual(relaxed.meanAccuracy);
  }
});

test('what cannot be solved is refused by name', () => {
  expect(() => interpolatedOracle(arrivals(1, 1), [{ sloMs: 40, weight: 1, versions: [] }])).toThrow(/got 0/);
  expect(() => interpolatedOracle(arrivals(60_000, 1_000), SHORT, { stepMs: 0.001 })).toThrow(/larger step/);
});
