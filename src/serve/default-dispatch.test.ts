import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DispatchState, DispatchTask, QueuedRequest, ResidentVersion } from '../policy/dispatch.ts';
import { defaultDispatch } from './default-dispatch.ts';

const version = (
  number: number,
  serviceMs: number,
  more: Partial<ResidentVersion> = {},
): ResidentVersion => ({
  version: number,
  accuracy: 1 - number / 100,
  serviceMs,
  dispatched: 0,
  ...more,
});
const request = (more: Partial<QueuedRequest> = {}): QueuedRequest => ({
  task: 0,
  arrivalMs: 0,
  deadlineMs: 100,
  weight: 1,
  priority: 'realtime',
  ...more,
});
const task = (versions: readonly ResidentVersion[], servingVersion?: number): DispatchTask => ({
  task: 'digits',
  versions,
  servingVersion: servingVersion ?? versions.at(-1)?.version,
  sloMs: 100,
  weight: 1,
});
const state = (
  queue: readonly QueuedRequest[],
  versions: readonly ResidentVersion[],
  more: Partial<DispatchState> & { serving?: number } = {},
): DispatchState => ({
  nowMs: 0,
  slot: 0,
  queue,
  tasks: [task(versions, more.serving)],
  guardMs: 0,
  ...more,
});
const run = (number: number) => ({ kind: 'run', index: 0, version: number });

describe('the default dispatch', () => {
  it('answers by the version that serves', () => {
    expect(defaultDispatch.pick(state([request()], [version(1, 40), version(2, 10)]))).toEqual(run(2));
    expect(
      defaultDispatch.pick(state([request()], [version(1, 40), version(2, 10)], { serving: 1 })),
    ).toEqual(run(1));
  });

  it('falls back to the most accurate one that is in time, for those behind too, and sheds if none is', () => {
    const versions = [version(1, 60), version(2, 30), version(3, 10)];
    const late = state([request({ deadlineMs: 40 })], versions, { serving: 1 });
    expect(defaultDispatch.pick(late)).toEqual(run(2));
    const pressed = state([request(), request({ deadlineMs: 39 })], versions, { serving: 1 });
    // 30 + 10 ms would make the second late.
    expect(defaultDispatch.pick(pressed)).toEqual(run(3));
    const hopeless = state([request({ deadlineMs: 9 })], versions, { serving: 1 });
    expect(defaultDispatch.pick(hopeless)).toEqual({ kind: 'shed', index: 0, reason: 'deadline' });
  });

  it('keeps to what the client accepts', () => {
    const versions = [version(1, 40), version(2, 30), version(3, 10)];
    expect(defaultDispatch.pick(state([request({ version: 2 })], versions))).toEqual(run(2));
    expect(defaultDispatch.pick(state([request({ minAccuracy: 0.98 })], versions))).toEqual(run(1));
    expect(defaultDispatch.pick(state([request({ minAccuracy: 1 })], versions))).toMatchObject({
      reason: 'accuracy',
    });
    expect(defaultDispatch.pick(state([request({ version: 9 })], versions))).toMatchObject({
      reason: 'unavailable',
    });
    expect(defaultDispatch.pick(state([request()], []))).toMatchObject({ reason: 'unavailable' });
  });

  it('splits any stretch of requests by the shares, up to one request', () => {
    const shares = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 2, maxLength: 4 });
    fc.assert(
      fc.property(shares, (parts) => {
        const total = parts.reduce((sum, part) => sum + part, 0);
        const plan = {
          shares: new Map([['digits', new Map(parts.map((part, i) => [i + 1, part / total]))]]),
        };
        const given = parts.map(() => 0);
        for (let n = 1; n <= 60; n++) {
          const versions = parts.map((_, i) => version(i + 1, 1, { dispatched: given[i]! }));
          const decision = defaultDispatch.pick(state([request()], versions, { plan }));
          if (decision.kind !== 'run') throw new Error(decision.kind);
          given[decision.version - 1]!++;
          parts.forEach((part, i) => {
            expect(Math.abs(given[i]! - (n * part) / total)).toBeLessThanOrEqual(1 + 1e-9);
          });
        }
      }),
      { seed: 3, numRuns: 40 },
    );
  });

  it('joins requests of the same task as long as the first is in time, where that pays', () => {
    const paying = version(1, 10, { batchSharedRatio: 0.5, maxBatch: 4 });
    const queue = (deadlineMs: number) => Array.from({ length: 6 }, () => request({ deadlineMs }));
    expect(defaultDispatch.pick(state(queue(100), [paying]))).toEqual({ ...run(1), batch: 4 });
    // 3 at a time take 10 · (0.5 + 0.5 · 3) = 20 ms.
    expect(defaultDispatch.pick(state(queue(20), [paying]))).toEqual({ ...run(1), batch: 3 });
    expect(defaultDispatch.pick(state(queue(100), [version(1, 10)]))).toEqual(run(1));
    const wide = [request({ rows: 2 }), request({ rows: 2 }), request({ rows: 2 })];
    expect(defaultDispatch.pick(state(wide, [paying]))).toEqual({ ...run(1), batch: 2 });
  });

  it('gives the batch class a job that is short against the objective, if there is one', () => {
    const batch = [request({ priority: 'batch', deadlineMs: Number.POSITIVE_INFINITY })];
    const versions = [version(1, 60), version(2, 24), version(3, 10)];
    expect(defaultDispatch.pick(state(batch, versions, { serving: 1 }))).toEqual(run(2));
    expect(defaultDispatch.pick(state(batch, [version(1, 60)], { serving: 1 }))).toEqual(run(1));
  });
});
