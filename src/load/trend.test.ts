import { expect, test } from 'vitest';
import { type DemandProfile, demandAt } from './arrivals.ts';
import { withTrend } from './trend.ts';

const FLAT: DemandProfile = { kind: 'constant', rps: 20, durationMs: 60_000 };
const seconds = Array.from({ length: 60 }, (_, i) => i * 1000);
const meanOf = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

test('a trend moves demand up and down around its mean, and begins without a jump', () => {
  const moved = withTrend(FLAT, { seed: 3 });
  const rates = seconds.map((atMs) => demandAt(moved, atMs));
  expect(meanOf(rates)).toBeCloseTo(20, 9);
  const relative = rates.map((rps) => rps / rates[0]!);
  // It starts at 0, so the first second is the demand as it was, but for the scale; its largest swing is half of that.
  expect(Math.max(...relative.map((each) => Math.abs(each - 1)))).toBeCloseTo(0.5, 9);
});

test('another seed is another trend, the same seed the same', () => {
  expect(withTrend(FLAT, { seed: 1 })).toEqual(withTrend(FLAT, { seed: 1 }));
  expect(withTrend(FLAT, { seed: 1 })).not.toEqual(withTrend(FLAT, { seed: 2 }));
});

test('demand climbs during a warm-up and keeps its mean behind it', () => {
  const warmed = withTrend(FLAT, { seed: 3, swing: 0, warmUpMs: 10_000 });
  expect(seconds.slice(0, 3).map((atMs) => demandAt(warmed, atMs))).toEqual([1, 3, 5]);
  expect(meanOf(seconds.slice(10).map((atMs) => demandAt(warmed, atMs)))).toBeCloseTo(20, 9);
});

test('a warm-up that is longer than the demand is refused', () => {
  expect(() => withTrend(FLAT, { seed: 1, warmUpMs: 60_000 })).toThrow(/does not fit/);
});
