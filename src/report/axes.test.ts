import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { linearScale, logScale, niceDomain, tickLabel, ticksOf } from './axes.ts';

describe('axes', () => {
  it('map the ends of the domain to the ends of the range', () => {
    for (const scale of [linearScale([2, 10], [100, 0]), logScale([2, 10], [100, 0])]) {
      expect(scale.at(2)).toBeCloseTo(100);
      expect(scale.at(10)).toBeCloseTo(0);
    }
    expect(logScale([1, 100], [0, 10]).at(10)).toBeCloseTo(5);
  });

  it('tick at round values within the domain', () => {
    expect(ticksOf(linearScale([0, 1], [0, 1]), 5)).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1]);
    expect(ticksOf(linearScale([0.93, 0.99], [0, 1]), 3)).toEqual([0.94, 0.96, 0.98]);
    expect(ticksOf(logScale([1, 10_000], [0, 1]), 5)).toEqual([1, 10, 100, 1000, 10_000]);
    expect(ticksOf(logScale([2, 50], [0, 1]), 6)).toEqual([2, 5, 10, 20, 50]);
    expect(tickLabel(12_000)).toBe('12,000');
  });

  it('have domains of round numbers around the values, and few ticks', () => {
    fc.assert(
      fc.property(
        fc.double({ min: -1e6, max: 1e6, noNaN: true }),
        fc.double({ min: 1e-3, max: 1e6, noNaN: true }),
        (low, width) => {
          const domain = niceDomain(low, low + width, 5);
          expect(domain[0]).toBeLessThanOrEqual(low + width * 1e-6);
          expect(domain[1]).toBeGreaterThanOrEqual(low + width * (1 - 1e-6));
          const ticks = ticksOf(linearScale(domain, [0, 1]), 5);
          expect(ticks.length).toBeGreaterThanOrEqual(2);
          expect(ticks.length).toBeLessThanOrEqual(12);
        },
      ),
    );
  });
});
