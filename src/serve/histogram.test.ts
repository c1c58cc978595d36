import fc from 'fast-check';
import { expect, it } from 'vitest';
import { cumulativeCounts, newHistogram, observe } from './histogram.ts';

it('counts values by their upper bounds, as Prometheus means them', () => {
  const bounds = [-1, 0, 0.5, 2];
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.constantFrom(...bounds), fc.double({ min: -3, max: 3, noNaN: true }))),
      (values) => {
        const histogram = newHistogram(bounds);
        for (const value of values) observe(histogram, value);
        const expected = [...bounds, Number.POSITIVE_INFINITY].map(
          (bound) => values.filter((v) => v <= bound).length,
        );
        expect(cumulativeCounts(histogram)).toEqual(expected);
        expect(histogram.sum).toBeCloseTo(
          values.reduce((sum, value) => sum + value, 0),
          9,
        );
      },
    ),
    { seed: 1 },
  );
});
