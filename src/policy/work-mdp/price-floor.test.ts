import { expect, test } from 'vitest';
import { floorShare, withPriceFloor } from './price-floor.ts';

const versions = [
  { reward: 1, meanMs: 10, deviationMs: 0 },
  { reward: 0.9, meanMs: 5, deviationMs: 0 },
  { reward: 0.5, meanMs: 2, deviationMs: 0 },
];
const problemAt = (rps: number) => ({
  stepMs: 10,
  cells: 4,
  arrivalsPerMs: rps / 1000,
  tasks: [{ share: 1, shedReward: -1.5, limitMs: 380, versions }],
});
const flat = [0, -0.001, -0.002, -3];
const options = { share: 1, targetUtilization: 0.9 };

test('work costs at least what makes the target do, and what is dearer stays', () => {
  // 150 req/s fit with 5 ms, not with 10: each ms must cost (1 − 0.9) / 5 = 0.02.
  const floored = withPriceFloor(flat, problemAt(150), options);
  expect(floored[1]).toBeCloseTo(-0.2, 6);
  expect(floored[2]).toBeCloseTo(-0.4, 6);
  expect(floored[3]).toBeCloseTo(-0.4 - 2.998, 6);
  expect(withPriceFloor(flat, problemAt(150), { ...options, share: 0.5 })[1]).toBeCloseTo(-0.1, 6);
});

test('without need there is no floor, and in overload it is the price of the smallest versions', () => {
  expect(withPriceFloor(flat, problemAt(50), options)).toEqual(flat);
  expect(withPriceFloor(flat, problemAt(150), { ...options, share: 0 })).toEqual(flat);
  // (0.9 − 0.5) / 3 a ms is the dearest step.
  expect(withPriceFloor(flat, problemAt(5_000), options)[1]).toBeCloseTo(-4 / 3, 6);
});

test('the floor comes while the CPU is fuller than it should be, and goes again', () => {
  const after = (before: number, utilization: number, count = 1) => {
    const cpu = Array.from({ length: count }, (_, i) => ({ atMs: 1_000 * (i + 1), utilization }));
    return floorShare(before, cpu, { sinceMs: 0, targetUtilization: 0.9, floorGain: 0.2 });
  };
  expect(after(0, 1)).toBeCloseTo(0.02, 12);
  expect(after(0.5, 0.8)).toBeCloseTo(0.48, 12);
  expect(after(0, 0.5)).toBe(0);
  expect(after(0.99, 1, 10)).toBeCloseTo(1.19, 12);
  expect(after(1.99, 1, 10)).toBe(2);
});
