import { expect, test } from 'vitest';
import { EMPTY_SERVICE_MEMORY, learnServiceTimes, serviceRatioOf } from './service-times.ts';

function after(ticks: number, sample: { meanMs: number; meanSquaredRatio?: number; meanDeviation: number }) {
  let memory = EMPTY_SERVICE_MEMORY;
  for (let tick = 0; tick < ticks; tick++) {
    const service = [{ version: 1, count: 4, meanExpectedMs: 100, ...sample }];
    memory = learnServiceTimes(memory, [{ task: 'digits', service }]);
  }
  return memory;
}

test('times that are always 1.25 × the told ones are bias, not spread', () => {
  const memory = after(100, { meanMs: 125, meanDeviation: 0.25, meanSquaredRatio: 1.25 ** 2 });
  const { ratio, variance } = serviceRatioOf(memory, 'digits', 1);
  expect(ratio).toBeCloseTo(1.25, 2);
  expect(variance).toBeLessThan(1e-3);
});

test('spread around the told times is learned as variance', () => {
  // σ = 0.3: E x² = 1 + 0.09.
  const memory = after(100, { meanMs: 100, meanDeviation: 0.24, meanSquaredRatio: 1.09 });
  expect(serviceRatioOf(memory, 'digits', 1).variance).toBeCloseTo(0.09, 3);
  // Without the square the mean deviation stands for it: (0.24 / 0.8)² = 0.09.
  const coarse = after(100, { meanMs: 100, meanDeviation: 0.24 });
  expect(serviceRatioOf(coarse, 'digits', 1).variance).toBeCloseTo(0.09, 3);
});

test('a version that has not answered is believed to be as wrong as the others', () => {
  const memory = after(100, { meanMs: 125, meanDeviation: 0.25, meanSquaredRatio: 1.25 ** 2 });
  expect(serviceRatioOf(memory, 'digits', 2).ratio).toBeCloseTo(1.25, 2);
  expect(serviceRatioOf(EMPTY_SERVICE_MEMORY, 'digits', 2).ratio).toBe(1);
});
