import { expect, test } from 'vitest';
import { MAX_KEPT_LATENCIES, RecentLatencies } from './recent-latencies.ts';

test('counts every answer, keeps an even choice of the latencies, and forgets nothing slow', () => {
  const recent = new RecentLatencies();
  const count = 5 * MAX_KEPT_LATENCIES + 7;
  for (let i = 0; i < count; i++) recent.add(1 + (i % 2), i === 700 ? 1e6 : i, i >= count - 3, i);
  const { counts, samples, slowest } = recent.take();
  expect([...counts.values()].reduce((a, b) => a + b)).toBe(count);
  expect(slowest).toEqual({ atMs: 700, latencyMs: 1e6, version: 1 });
  expect(recent.late).toBe(3);
  // 1287 answers, at most 256 kept: every eighth, from the first on.
  expect(samples.map(({ atMs }) => atMs)).toEqual(Array.from({ length: 161 }, (_, i) => 8 * i));
  // Begins anew, but the late ones stay counted.
  recent.add(3, 5, false, 1);
  expect(recent.take()).toEqual({
    counts: new Map([[3, 1]]),
    samples: [{ atMs: 1, latencyMs: 5, version: 3 }],
    slowest: { atMs: 1, latencyMs: 5, version: 3 },
  });
  expect(recent.late).toBe(3);
});

test('counts answers without a deadline, whose time says nothing', () => {
  const recent = new RecentLatencies();
  recent.add(1, undefined, false, 1);
  expect(recent.take()).toEqual({ counts: new Map([[1, 1]]), samples: [], slowest: undefined });
});
