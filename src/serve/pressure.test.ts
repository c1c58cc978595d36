import { expect, it } from 'vitest';
import { seededRandom } from '../base/random.ts';
import { MAX_SURPRISE, Pressure } from './pressure.ts';

function after(ratios: readonly number[]): number {
  const pressure = new Pressure();
  for (const ratio of ratios) pressure.learn(10, 10 * ratio);
  return pressure.margin;
}

const calm: readonly number[] = Array(200).fill(1);

it('believes the second slow job, and forgets within some twenty that nothing presses any more', () => {
  expect(after(calm)).toBe(1);
  expect(after([...calm, 2, 2])).toBeGreaterThan(1.5);
  expect(after([...calm, 2, 2, ...calm.slice(0, 20)])).toBeLessThan(1.3);
  expect(after([...calm, 2, 2, ...calm])).toBeCloseTo(1, 1);
});

it('keeps a deviation in hand where jobs differ, and none for being faster than expected', () => {
  const random = seededRandom(1);
  const noisy = Array.from({ length: 2000 }, () => 1 + 0.2 * random.normal());
  expect(after(noisy)).toBeGreaterThan(1.05);
  expect(after(noisy)).toBeLessThan(1.5);
  expect(after([...calm, ...Array(50).fill(0.5), ...calm])).toBeCloseTo(1, 1);
});

it('takes a job that was held up for no more than a few', () => {
  expect(after([...calm, 1000])).toBeCloseTo(after([...calm, MAX_SURPRISE]));
});

it('tells when there is something to tell', () => {
  const pressure = new Pressure();
  expect(pressure.learn(10, 10)).toBe(false);
  expect(pressure.learn(10, 20)).toBe(true);
  expect(pressure.learn(0, 0)).toBe(false);
  expect(pressure.margin).toBeGreaterThan(1);
});
