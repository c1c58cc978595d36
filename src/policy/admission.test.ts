import fc from 'fast-check';
import { expect, test } from 'vitest';
import { admit, type Promised, positionIn } from './admission.ts';

const request = fc.record({
  deadlineMs: fc.integer({ min: 5, max: 100 }),
  serviceMs: fc.integer({ min: 1, max: 30 }),
  weight: fc.constantFrom(1, 2, 3),
});

const newcomer = { deadlineMs: 50, serviceMs: 20, weight: 1 };

/** Those that would be late, served in order of deadline. */
function late(queue: readonly Promised[], busyMs: number): Promised[] {
  let finishMs = busyMs;
  return queue.filter(({ serviceMs, deadlineMs }) => {
    finishMs += serviceMs;
    return finishMs > deadlineMs;
  });
}

test('whoever is admitted is in time and makes nobody late, and gives up less weight alone', () => {
  fc.assert(
    fc.property(
      fc.array(request, { maxLength: 6 }),
      request,
      fc.integer({ min: 0, max: 30 }),
      (items, item, busyMs) => {
        const queue: Promised[] = items.toSorted((a, b) => a.deadlineMs - b.deadlineMs);
        const admission = admit(queue, item, { nowMs: 0, busyMs });
        const position = positionIn(queue, item.deadlineMs);
        const joined = [...queue.slice(0, position), item, ...queue.slice(position)];
        if (!admission.isAdmitted) {
          // Not even without all that weighs less.
          const rest = joined.filter((each) => each === item || each.weight >= item.weight);
          const kept = queue.filter((each) => each.weight >= item.weight);
          const before = late(kept, busyMs);
          expect(late(rest, busyMs).some((each) => each === item || !before.includes(each))).toBe(true);
          return;
        }
        const victims = new Set(admission.victims);
        for (const victim of victims) expect(victim.weight).toBeLessThan(item.weight);
        const before = late(
          queue.filter((each) => !victims.has(each)),
          busyMs,
        );
        const after = late(
          joined.filter((each) => !victims.has(each)),
          busyMs,
        );
        expect(after).toEqual(before);
      },
    ),
    { seed: 6, numRuns: 300 },
  );
});

test('a refusal says how much work is ahead', () => {
  const queue = [{ deadlineMs: 40, serviceMs: 25, weight: 1 }];
  expect(admit(queue, newcomer, { nowMs: 0, busyMs: 10 })).toEqual({ isAdmitted: false, waitMs: 35 });
  expect(admit(queue, { ...newcomer, weight: 2 }, { nowMs: 0, busyMs: 10 })).toEqual({
    isAdmitted: true,
    victims: queue,
  });
});

test('what is computed together with others weighs less on those behind it, and no less on itself', () => {
  const queue = [1, 2, 3].map(() => ({ deadlineMs: 40, serviceMs: 25, workMs: 10, weight: 1 }));
  const behind = { deadlineMs: 60, serviceMs: 25, workMs: 10, weight: 1 };
  expect(admit(queue, behind, { nowMs: 0, busyMs: 5 }).isAdmitted).toBe(true);
  expect(admit(queue, behind, { nowMs: 0, busyMs: 6 })).toEqual({ isAdmitted: false, waitMs: 36 });
  // Ahead of others it makes them late by what it adds, not by what it takes alone.
  const urgent = { deadlineMs: 30, serviceMs: 25, workMs: 10, weight: 1 };
  const waiting = [{ deadlineMs: 35, serviceMs: 25, workMs: 25, weight: 1 }];
  expect(admit(waiting, urgent, { nowMs: 0, busyMs: 0 }).isAdmitted).toBe(true);
  expect(admit(waiting, { ...urgent, workMs: 25 }, { nowMs: 0, busyMs: 0 }).isAdmitted).toBe(false);
});
