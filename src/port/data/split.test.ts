import { describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { measureNormalization, stratifiedSubsets } from './split.ts';

const labels = Uint8Array.from({ length: 103 }, (_, i) => (i < 60 ? 0 : i < 90 ? 1 : 2));

describe('stratifiedSubsets', () => {
  it('keeps the class shares in every subset and uses no example twice', () => {
    const subsets = stratifiedSubsets(labels, [50, 20, 33], seededRandom(1));
    expect(subsets.map((subset) => subset.length)).toEqual([50, 20, 33]);
    expect(new Set(subsets.flatMap((subset) => [...subset])).size).toBe(103);
    // 60 of 103 are of class 0: 50 · 60/103 = 29.1, 20 · 60/103 = 11.7.
    const zeros = subsets.map((subset) => subset.filter((index) => labels[index] === 0).length);
    expect(zeros[0]).toBeGreaterThanOrEqual(29);
    expect(zeros[0]).toBeLessThanOrEqual(30);
    expect(zeros[1]).toBeGreaterThanOrEqual(11);
    expect(zeros[1]).toBeLessThanOrEqual(12);
  });

  it('is decided by the seed alone', () => {
    const draw = (seed: number) => stratifiedSubsets(labels, [40, 10], seededRandom(seed)).map((s) => [...s]);
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
  });

  it('refuses more examples than there are', () => {
    expect(() => stratifiedSubsets(labels, [100, 4], seededRandom(1))).toThrow(/100 \+ 4 .* has 103/);
  });
});

describe('measureNormalization', () => {
  it('measures each channel over all pixels', () => {
    // Channel 0: bytes 0 and 255, mean 0.5, deviation 0.5. Channel 1: without contrast, only shifted.
    const split = { count: 1, images: Uint8Array.of(0, 255, 51, 51), labels: Uint8Array.of(0) };
    const { mean, std } = measureNormalization(split, [2, 1, 2]);
    expect(mean[0]).toBeCloseTo(0.5);
    expect(std[0]).toBeCloseTo(0.5);
    expect(mean[1]).toBeCloseTo(0.2);
    expect(std[1]).toBe(1);
  });
});
