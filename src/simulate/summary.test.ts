import { expect, test } from 'vitest';
import { seededRandom } from '../base/random.ts';
import { confidenceInterval } from './summary.ts';

test('the 95 % interval of 1, 2, 3, 4, 5 is 3 ± 2.776 · √(2.5 / 5)', () => {
  const { mean, halfWidth } = confidenceInterval([1, 2, 3, 4, 5]);
  expect(mean).toBe(3);
  expect(halfWidth).toBeCloseTo(2.776 * Math.SQRT1_2, 3);
});

test('about 95 % of intervals of normal samples hold the mean', () => {
  const random = seededRandom(9);
  for (const count of [2, 5, 12]) {
    let held = 0;
    for (let i = 0; i < 2000; i++) {
      const { mean, halfWidth } = confidenceInterval(Array.from({ length: count }, () => random.normal()));
      if (Math.abs(mean) <= halfWidth) held++;
    }
    expect(held / 2000).toBeGreaterThan(0.935);
    expect(held / 2000).toBeLessThan(0.97);
  }
});

test('a single value has no interval', () => {
  expect(confidenceInterval([7])).toEqual({ mean: 7, halfWidth: Number.NaN });
});
