import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { IDLE_LOOK_MS, IdleCollector } from './idle-collector.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

it('collects once, when nothing has happened between two looks after a release', () => {
  let answered: number | undefined = 1;
  const collect = vi.fn();
  const collector = new IdleCollector(() => answered, collect);
  vi.advanceTimersByTime(5 * IDLE_LOOK_MS);
  expect(collect).not.toHaveBeenCalled(); // Nothing was released.
  collector.released();
  vi.advanceTimersByTime(IDLE_LOOK_MS);
  answered = undefined;
  vi.advanceTimersByTime(IDLE_LOOK_MS);
  answered = 2;
  vi.advanceTimersByTime(IDLE_LOOK_MS);
  expect(collect).not.toHaveBeenCalled();
  vi.advanceTimersByTime(10 * IDLE_LOOK_MS);
  expect(collect).toHaveBeenCalledTimes(1);
});

it('collects nothing any more once it was stopped', () => {
  const collect = vi.fn();
  const collector = new IdleCollector(() => 1, collect);
  collector.released();
  collector.stop();
  collector.released(); // As versions are when a server ends.
  vi.advanceTimersByTime(10 * IDLE_LOOK_MS);
  expect(collect).not.toHaveBeenCalled();
});

it('has a way to collect the heap of Node.js', async () => {
  vi.useRealTimers();
  const garbage = new WeakRef({});
  // What a job has looked at stays until it ends.
  await setImmediate();
  vi.useFakeTimers();
  new IdleCollector(() => 1).released();
  vi.advanceTimersByTime(3 * IDLE_LOOK_MS);
  expect(garbage.deref()).toBeUndefined();
});
