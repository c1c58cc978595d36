import fc from 'fast-check';
import { expect, test } from 'vitest';
import { leastCommitted, type Place } from './routing.ts';

const places = fc.array(
  fc.record({
    committedMs: fc.constantFrom(0, 5, 20),
    residentVersions: fc.integer({ min: 0, max: 3 }),
  }),
  { maxLength: 6 },
);

/** By sorting on all criteria in turn, the place in the list last. */
function bySorting(list: readonly Place[]): Place | undefined {
  const rank = (place: Place) => [
    place.residentVersions > 0 ? 0 : 1,
    place.committedMs,
    -place.residentVersions,
    list.indexOf(place),
  ];
  return list.toSorted((a, b) => {
    const [left, right] = [rank(a), rank(b)];
    const at = left.findIndex((value, i) => value !== right[i]);
    return at < 0 ? 0 : left[at]! - right[at]!;
  })[0];
}

test('goes where a version can answer, the work is least, and the choice is widest', () => {
  fc.assert(
    fc.property(places, (list) => {
      expect(leastCommitted(list)).toBe(bySorting(list));
    }),
    { seed: 5 },
  );
});
