import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { LONGEST_PATIENCE_MS, STARVATION_CHECK_MS, STARVED_RATIO, watchForStarvation } from './starvation.ts';

describe('watchForStarvation', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  /** When a thread that gets so much of a CPU is raised, ms; undefined: not within 10 s. */
  function raisedAfter(share: number, bootMs = 0): number | undefined {
    let [elapsedMs, raisedMs] = [0, -1];
    const cpuMs = () => (elapsedMs < bootMs ? undefined : share * (elapsedMs - bootMs));
    const end = watchForStarvation(cpuMs, () => {
      expect(raisedMs).toBe(-1);
      raisedMs = elapsedMs;
    });
    while (elapsedMs < 10_000) {
      elapsedMs += 50;
      vi.advanceTimersByTime(50);
    }
    end();
    return raisedMs < 0 ? undefined : raisedMs;
  }

  it('raises a thread that gets next to nothing at once, and one that gets on only when it takes too long', () => {
    expect(raisedAfter(0.015)).toBe(STARVATION_CHECK_MS);
    expect(raisedAfter(0.9 * STARVED_RATIO)).toBe(STARVATION_CHECK_MS);
    expect(raisedAfter(1.1 * STARVED_RATIO)).toBe(LONGEST_PATIENCE_MS);
  });

  it('waits for a thread that has not begun', () => {
    expect(raisedAfter(0.015, 600)).toBe(4 * STARVATION_CHECK_MS);
    expect(raisedAfter(0.015, 20_000)).toBe(LONGEST_PATIENCE_MS);
  });

  it('ends when it is told to', () => {
    const raise = vi.fn();
    watchForStarvation(() => 0, raise)();
    vi.advanceTimersByTime(10_000);
    expect(raise).not.toHaveBeenCalled();
  });
});
