import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DeadlineQueue } from './queue.ts';

const item = (startByMs: number, serviceMs = 1) => ({ startByMs, serviceMs });

describe('the queue', () => {
  it('gives out the earliest deadline first, equals in order of arrival', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1000, max: 1010 }), { maxLength: 50 }), (deadlines) => {
        const queue = new DeadlineQueue<{ startByMs: number; serviceMs: number; order: number }>(100);
        const items = deadlines.map((startByMs, order) => ({ ...item(startByMs), order }));
        for (const entry of items) queue.add(entry, 0, 1, 0);
        const taken = Array.from({ length: items.length }, () => queue.take(() => true));
        expect(taken).toEqual(items.toSorted((a, b) => a.startByMs - b.startByMs || a.order - b.order));
      }),
      { seed: 1 },
    );
  });

  it('refuses what comes when it is full, and says when to come back', () => {
    const queue = new DeadlineQueue(2);
    queue.add(item(1000, 30), 0, 1, 0);
    queue.add(item(1000, 30), 0, 1, 0);
    // 2 · 30 ms waiting + 20 ms running, on 2 slots: 40 ms.
    expect(() => queue.add(item(1000), 0, 2, 20)).toThrow(
      expect.objectContaining({ code: 'queue_full', retryAfterMs: 40 }),
    );
  });

  it('refuses what is too late already, counting only the more urgent work ahead', () => {
    const queue = new DeadlineQueue(10);
    queue.add(item(100, 40), 0, 1, 0);
    queue.add(item(100, 40), 0, 1, 0);
    expect(() => queue.add(item(105, 1), 0, 1, 30)).toThrow(
      expect.objectContaining({ code: 'deadline_exceeded' }),
    );
    queue.add(item(50, 1), 0, 1, 30);
    expect(queue.take(() => true)?.startByMs).toBe(50);
  });

  it('gives up those whose time has passed, and only those', () => {
    const queue = new DeadlineQueue(10);
    for (const startByMs of [30, 10, 20]) queue.add(item(startByMs), 0, 1, 0);
    expect(queue.takeExpired(20).map((entry) => entry.startByMs)).toEqual([10]);
    expect(queue.length).toBe(2);
  });
});
