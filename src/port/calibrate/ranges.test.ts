import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { quantile } from '../../base/statistics.ts';
import { bestBinCount, entropyRange, HISTOGRAM_BINS, SMOOTHING } from './entropy.ts';
import { percentileRange } from './percentile.ts';

const random = seededRandom(2);

function histogram(values: readonly number[], from: number, to: number, bins: number): Float64Array {
  const counts = new Float64Array(bins);
  for (const value of values) {
    counts[Math.min(Math.floor(((value - from) / (to - from)) * bins), bins - 1)]!++;
  }
  return counts;
}

describe('percentile', () => {
  test('agrees with the quantiles of the values to within a bin', () => {
    const values = Array.from({ length: 20_000 }, () => random.normal());
    const whole = { min: Math.min(...values), max: Math.max(...values) };
    const counts = histogram(values, whole.min, whole.max, HISTOGRAM_BINS);
    const bin = (whole.max - whole.min) / HISTOGRAM_BINS;
    for (const percentile of [80, 90, 99]) {
      const { min, max } = percentileRange(counts, whole, percentile);
      const cut = (100 - percentile) / 200;
      expect(Math.abs(min - quantile(values, cut))).toBeLessThan(2 * bin);
      expect(Math.abs(max - quantile(values, 1 - cut))).toBeLessThan(2 * bin);
    }
  });

  test('100 % is the whole range; a value that never changes keeps it; half or less is refused', () => {
    const counts = Float64Array.of(1, 0, 3, 1);
    expect(percentileRange(counts, { min: -1, max: 3 }, 100)).toEqual({ min: -1, max: 3 });
    expect(percentileRange(new Float64Array(4), { min: 2, max: 2 }, 99)).toEqual({ min: 2, max: 2 });
    expect(() => percentileRange(counts, { min: -1, max: 3 }, 50)).toThrow(/above 50/);
  });
});

/** The divergence at every cut, written out from the definition. */
function bestByDefinition(counts: Float64Array, levels: number): number {
  const total = counts.reduce((sum, count) => sum + count);
  let [best, least] = [counts.length, Number.POSITIVE_INFINITY];
  for (let bins = levels; bins <= counts.length; bins++) {
    const inside = counts.slice(0, bins);
    const kept = inside.reduce((sum, count) => sum + count);
    if (kept === 0) continue;
    const p = Float64Array.from(inside);
    p[bins - 1]! += total - kept;
    const levelAt = Array.from({ length: bins }, (_, bin) => {
      let level = 0;
      while (Math.floor(((level + 1) * bins) / levels) <= bin) level++;
      return level;
    });
    const q = inside.map((count, bin) => {
      if (count === 0) return SMOOTHING / bins;
      const peers = [...inside].filter((_, other) => levelAt[other] === levelAt[bin]);
      const spread = peers.reduce((sum, peer) => sum + peer) / peers.filter((peer) => peer > 0).length;
      return (1 - SMOOTHING) * (spread / kept) + SMOOTHING / bins;
    });
    const divergence = p.reduce(
      (sum, count, bin) => (count === 0 ? sum : sum + (count / total) * Math.log(count / total / q[bin]!)),
      0,
    );
    if (divergence < least) [best, least] = [bins, divergence];
  }
  return best;
}

describe('entropy', () => {
  test('finds the cut that the definition gives', () => {
    for (let draw = 0; draw < 10; draw++) {
      const values = Array.from({ length: 500 }, () => random.exponential(1 + draw));
      const counts = histogram(values, 0, Math.max(...values), 64);
      expect(bestBinCount(counts, 8)).toBe(bestByDefinition(counts, 8));
    }
  });

  test('keeps all of an even distribution and cuts a lone outlier off', () => {
    const even = new Float64Array(HISTOGRAM_BINS).fill(100);
    expect(entropyRange(even, { min: 0, max: 8 })).toEqual({ min: 0, max: 8 });
    // 100,000 exponential values of mean 0.1 and one of 100.
    const values = Array.from({ length: 100_000 }, () => Math.min(random.exponential(10), 99));
    const counts = histogram([...values, 100], 0, 100, HISTOGRAM_BINS);
    const { min, max } = entropyRange(counts, { min: 0, max: 100 });
    expect(min).toBe(0);
    expect(max).toBeLessThan(20);
    expect(max).toBeGreaterThan(0.9);
  });

  test('values of both signs are clipped alike, but never beyond what was seen', () => {
    const counts = new Float64Array(HISTOGRAM_BINS).fill(1);
    expect(entropyRange(counts, { min: -1, max: 4 })).toEqual({ min: -1, max: 4 });
    expect(entropyRange(new Float64Array(HISTOGRAM_BINS), { min: 0, max: 0 })).toEqual({ min: 0, max: 0 });
  });
});
