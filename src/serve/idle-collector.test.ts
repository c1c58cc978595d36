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

it('has a way to collect the heap of Node.js', () => {
  vi.useRealTimers();
  let garbage: Uint8Array[] | undefined = Array.from({ length: 50 }, () => new Uint8Array(1024 * 1024));
  const before = process.memoryUsage().arrayBuffers;
  expect(garbage.length).toBe(50);
  garbage = undefined;
  vi.useFakeTimers();
  new IdleCollector(() => 1).released();
  vi.advanceTimersByTime(3 * IDLE_LOOK_MS);
  expect(before - process.memoryUsage().arrayBuffers).toBeGreaterThan(40 * 1024 * 1024);
});
