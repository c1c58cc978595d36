import { describe, expect, it } from 'vitest';
import { queueRunOf } from './experiment.ts';

/** A server that answers one request every 10 ms, asked evenly at a share of that, without any noise. */
function served(share: number, durationMs: number) {
  const serviceMs = 10;
  let freeMs = 0;
  return Array.from({ length: Math.floor((share * durationMs) / serviceMs) }, (_, i) => {
    const dueMs = (i * serviceMs) / share;
    freeMs = Math.max(freeMs, dueMs) + serviceMs;
    return { dueMs, latencyMs: freeMs - dueMs, outcome: 'ok' as const };
  });
}

describe('an exploding queue', () => {
  it.each([
    [1.05, 50],
    [1.1, 100],
  ])('at %d times the maximum rises by the excess: %d ms a second', (share, growthMsPerS) => {
    const run = queueRunOf(share, 100 * share, served(share, 10_000), 10_000);
    expect(run.isExploding).toBe(true);
    // Ten seconds of arrivals last 10 s; each brings `share` seconds of work a second.
    expect(run.growthMsPerS).toBeGreaterThan(0.95 * growthMsPerS);
    expect(run.growthMsPerS).toBeLessThan(1.05 * growthMsPerS);
  });

  it('stays flat at and below the maximum', () => {
    for (const share of [0.9, 1]) {
      const run = queueRunOf(share, 100 * share, served(share, 10_000), 10_000);
      expect(run.isExploding).toBe(false);
      expect(run.p99Ms).toBeCloseTo(10, 6);
    }
  });
});
