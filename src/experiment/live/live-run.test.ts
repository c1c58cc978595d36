import { describe, expect, it } from 'vitest';
import type { RequestRecord } from '../../load/records.ts';
import { makeManifest } from '../results.fixture.ts';
import { liveRunOf, thinned } from './live-run.ts';

const record = (dueMs: number, more: Partial<RequestRecord> = {}): RequestRecord => ({
  dueMs,
  sentMs: dueMs,
  latencyMs: 10,
  outcome: 'ok',
  status: 200,
  version: '1',
  correct: true,
  ...more,
});

const runOf = (records: readonly RequestRecord[], more: { isLabelled?: boolean } = {}) =>
  liveRunOf(
    {
      records: [records],
      cpu: [
        [
          { atMs: 1500, utilization: 0.5 },
          { atMs: 2500, utilization: 0.7 },
        ],
      ],
    },
    {
      name: 'run',
      sloMs: 100,
      durationMs: 2000,
      countedFromMs: 1000,
      // Test accuracies 0.9 and 0.6.
      manifests: [makeManifest('digits', [0.9, 0.6])],
      isLabelled: [more.isLabelled ?? false],
      serverNames: ['server'],
    },
  );

describe('a live run', () => {
  it('counts what was due after the warm-up, over all offered', () => {
    const run = runOf([
      record(0, { latencyMs: 9999 }), // In the warm-up.
      record(1000),
      record(1500, { version: '2' }),
      record(2000, { latencyMs: 101 }),
      record(2500, { outcome: 'refused', status: 429, version: undefined, correct: undefined }),
    ]);
    const [task] = run.tasks;
    expect(run.offered).toBe(4);
    expect(run.violationRatio).toBe(0.5);
    expect(task).toMatchObject({ answered: 3, late: 1, refused: 1, failed: 0 });
    // (0.9 + 0.6 + 0.9) / 3 = 0.8; over 0.9 of the best version.
    expect(task!.accuracy).toBeCloseTo(0.8);
    expect(task!.normalisedAccuracy).toBeCloseTo(0.8 / 0.9);
    expect(task!.shares).toEqual([
      { version: 1, ratio: 0.66667 },
      { version: 2, ratio: 0.33333 },
    ]);
    // Times from the end of the warm-up.
    expect(task!.bands).toEqual([
      { atMs: 0, version: '1', accuracy: 0.9 },
      { atMs: 500, version: '2', accuracy: 0.6 },
      { atMs: 1000, version: '1', accuracy: 0.9 },
    ]);
    expect(task!.violationRatios).toEqual([0, 0, 1, 1]);
    expect(task!.demandRps).toEqual([2, 2, 2, 2]);
    expect(run.servers[0]).toMatchObject({ utilization: 0.6 });
  });

  it('scores answers where labels mean something, and only there', () => {
    const records = [record(1000), record(1100, { correct: false })];
    expect(runOf(records).tasks[0]!.scoredAccuracy).toBeNull();
    expect(runOf(records, { isLabelled: true }).tasks[0]!.scoredAccuracy).toBe(0.5);
  });

  it('is the same once it was stored', () => {
    const run = runOf([record(1000), record(1500, { version: '2' })]);
    expect(JSON.parse(JSON.stringify(run))).toEqual(run);
  });
});

describe('thinning', () => {
  it('keeps one dot of those that lie on each other, and every outcome', () => {
    const many = Array.from({ length: 1000 }, (_, i) => record(i / 1000));
    const { dueMs, outcome } = thinned([...many, record(0.5, { outcome: 'timeout', latencyMs: 4000 })], 2000);
    expect(dueMs).toHaveLength(2);
    expect(outcome).toEqual([0, 3]);
  });

  it('keeps what lies apart', () => {
    const apart = Array.from({ length: 100 }, (_, i) => record(20 * i, { latencyMs: 10 + i }));
    expect(thinned(apart, 2000).dueMs).toHaveLength(100);
  });
});
