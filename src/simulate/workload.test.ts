import fc from 'fast-check';
import { expect, test } from 'vitest';
import { seededRandom } from '../base/random.ts';
import { mean } from '../base/statistics.ts';
import { demandAt } from '../load/arrivals.ts';
import { builtInDemand } from './demand.ts';
import { drawWorkload, gammaOfMeanOne, scaledDemand } from './workload.ts';

const steady = { kind: 'constant', rps: 50, durationMs: 400_000 } as const;

function cvOf(values: ArrayLike<number>): number {
  const center = mean(values);
  return Math.sqrt(mean(Float64Array.from(values, (value) => (value - center) ** 2))) / center;
}

test.each([0.1, 0.5, 1, 1.5])('gamma service times have mean 1 and CV %d', (cv) => {
  const random = seededRandom(1);
  const values = Array.from({ length: 100_000 }, () => gammaOfMeanOne(random, cv));
  expect(mean(values)).toBeCloseTo(1, 1);
  expect(cvOf(values) / cv).toBeGreaterThan(0.97);
  expect(cvOf(values) / cv).toBeLessThan(1.03);
  expect(Math.min(...values.slice(0, 1000))).toBeGreaterThan(0);
});

test('arrivals ascend, tasks keep their demands, and the same requests come whatever else is changed', () => {
  const demand = builtInDemand('burst3');
  const workload = drawWorkload(demand, { seed: 4 });
  expect(workload.arrivalMs.every((time, i) => i === 0 || time >= workload.arrivalMs[i - 1]!)).toBe(true);
  const perSecond = [0, 1, 2].map((k) => workload.task.filter((task) => task === k).length / 1200);
  for (const [k, rps] of perSecond.entries()) expect(Math.abs(rps - [4, 6, 8][k]!)).toBeLessThan(0.3);
  const other = drawWorkload(demand, { seed: 4, serviceCv: 0.3, stragglers: { ratio: 0.01, factor: 3 } });
  expect(other.arrivalMs).toEqual(workload.arrivalMs);
  const alone = drawWorkload(demand.slice(0, 1), { seed: 4 });
  expect(alone.arrivalMs).toEqual(workload.arrivalMs.filter((_, i) => workload.task[i] === 0));
});

test('clumps keep the demand and come at one moment', () => {
  const { arrivalMs } = drawWorkload([steady], { seed: 1, clumpMean: 3 });
  expect(arrivalMs.length / 20_000).toBeGreaterThan(0.95);
  expect(arrivalMs.length / 20_000).toBeLessThan(1.05);
  // A clump's size is 3 on average, so 1 of 3 requests opens one.
  const openers = arrivalMs.filter((time, i) => i === 0 || time !== arrivalMs[i - 1]).length;
  expect(openers / arrivalMs.length).toBeCloseTo(1 / 3, 1);
});

test('stragglers are as many and as slow as said', () => {
  const options = { seed: 2, serviceCv: 0 } as const;
  const { multiplier } = drawWorkload([steady], { ...options, stragglers: { ratio: 0.05, factor: 3 } });
  const slow = multiplier.filter((value) => value === 3).length;
  expect(slow / multiplier.length).toBeCloseTo(0.05, 1);
  expect(multiplier.every((value) => value === 1 || value === 3)).toBe(true);
});

test('a demand that is scaled is so at every moment', () => {
  const profiles = fc.constantFrom(
    steady,
    { kind: 'sine', meanRps: 10, amplitudeRps: 5, periodMs: 60_000, durationMs: 300_000 } as const,
    { kind: 'linear', startRps: 1, stepRps: 2, intervalMs: 10_000, steps: 5 } as const,
    { kind: 'exponential', startRps: 1, intervalMs: 10_000, steps: 5 } as const,
    builtInDemand('burst1')[0]!,
    {
      kind: 'ramp',
      points: [
        { atMs: 0, rps: 1 },
        { atMs: 40_000, rps: 9 },
      ],
    } as const,
  );
  fc.assert(
    fc.property(
      profiles,
      fc.double({ min: 0.1, max: 5, noNaN: true }),
      fc.nat(39_999),
      (profile, factor, atMs) => {
        expect(demandAt(scaledDemand(profile, factor), atMs)).toBeCloseTo(
          factor * demandAt(profile, atMs),
          9,
        );
      },
    ),
    { seed: 1, numRuns: 60 },
  );
});

test('impossible numbers are refused', () => {
  expect(() => drawWorkload([steady], { seed: 1, clumpMean: 0.5 })).toThrow(/≥ 1/);
  expect(() => drawWorkload([steady], { seed: 1, serviceCv: -1 })).toThrow(/CV ≥ 0/);
});
