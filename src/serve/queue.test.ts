import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DeadlineQueue } from './queue.ts';

const item = (deadlineMs: number, serviceMs = 1, weight = 1) => ({ deadlineMs, serviceMs, weight });

describe('the queue', () => {
  it('keeps the earliest deadline first, equals in order of arrival', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1000, max: 1010 }), { maxLength: 50 }), (deadlines) => {
        const queue = new DeadlineQueue<ReturnType<typeof item> & { order: number }>();
        const items = deadlines.map((deadlineMs, order) => ({ ...item(deadlineMs), order }));
        for (const entry of items) queue.add(entry, 0, 0);
        expect(queue.items).toEqual(
          items.toSorted((a, b) => a.deadlineMs - b.deadlineMs || a.order - b.order),
        );
      }),
      { seed: 1 },
    );
  });

  it('never promises what it cannot keep: whatever comes, all that wait are in time by their order', () => {
    const arrivals = fc.array(
      fc.record({
        deadlineMs: fc.integer({ min: 0, max: 100 }),
        serviceMs: fc.integer({ min: 1, max: 30 }),
        weight: fc.integer({ min: 1, max: 3 }),
      }),
      { maxLength: 30 },
    );
    fc.assert(
      fc.property(arrivals, fc.integer({ min: 0, max: 40 }), (items, busyMs) => {
        const queue = new DeadlineQueue<ReturnType<typeof item>>();
        for (const entry of items) {
          const before = [...queue.items];
          let given: readonly ReturnType<typeof item>[] = [];
          try {
            given = queue.add(entry, 0, busyMs);
          } catch {
            expect(queue.items).toEqual(before);
          }
          for (const victim of given) expect(victim.weight).toBeLessThan(entry.weight);
          let finishMs = busyMs;
          for (const waiting of queue.items) {
            finishMs += waiting.serviceMs;
            expect(finishMs).toBeLessThanOrEqual(waiting.deadlineMs);
          }
          expect(queue.workMs).toBe(finishMs - busyMs);
        }
      }),
      { seed: 2 },
    );
  });

  it('refuses what is too late already, counting only the more urgent work ahead, and says when to come back', () => {
    const queue = new DeadlineQueue<ReturnType<typeof item>>();
    queue.add(item(140, 40), 0, 30);
    queue.add(item(141, 40), 0, 30);
    // 30 ms running + 2 · 40 ms ahead + 1 ms of its own.
    expect(() => queue.add(item(110, 1), 0, 30)).not.toThrow();
    expect(() => queue.add(item(200, 100), 0, 30)).toThrow(
      expect.objectContaining({ code: 'deadline_exceeded', retryAfterMs: 111 }),
    );
  });

  it('does not make late for an equal what it has promised, but gives it up for what matters more', () => {
    const queue = new DeadlineQueue<ReturnType<typeof item>>();
    const promised = item(50, 40);
    queue.add(promised, 0, 0);
    expect(() => queue.add(item(20, 15), 0, 0)).toThrow('late that were promised');
    expect(() => queue.add(item(5, 15), 0, 0)).toThrow(
      /due in 5 ms, and the fastest version in memory that the request accepts takes some 15 ms/,
    );
    const important = item(20, 15, 2);
    expect(queue.add(important, 0, 0)).toEqual([promised]);
    expect(queue.items).toEqual([important]);
  });

  it('gives up those that can no longer be in time, and only those', () => {
    const queue = new DeadlineQueue<ReturnType<typeof item>>();
    for (const deadlineMs of [31, 11, 21]) queue.add(item(deadlineMs, 1), 0, 0);
    expect(queue.takeExpired(20).map((entry) => entry.deadlineMs)).toEqual([11]);
    expect(queue.length).toBe(2);
  });
});
