import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { accepts, type Dispatch, type DispatchState, fastestVersion } from './dispatch.ts';
import { fractionDispatch } from './fractions.ts';
import { servingDispatch } from './serving-dispatch.ts';
import { slackFitDispatch } from './slackfit.ts';

/** Every dispatch keeps these laws; a new one is added here. */
const dispatches: Dispatch[] = [
  servingDispatch(),
  { ...servingDispatch({ drop: 'expired' }), name: 'serving, expired' },
  { ...servingDispatch({ drop: 'hopeless' }), name: 'serving, hopeless' },
  fractionDispatch({ drop: 'hopeless' }),
  slackFitDispatch(),
  slackFitDispatch({ queueAware: true }),
];

const NOW_MS = 10_000;

const state: fc.Arbitrary<DispatchState> = fc
  .record({
    tasks: fc.array(
      fc.record({
        accuracies: fc.uniqueArray(fc.integer({ min: 1, max: 100 }), { maxLength: 6 }),
        serving: fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }),
      }),
      { minLength: 1, maxLength: 3 },
    ),
    queue: fc.array(
      fc.record({
        task: fc.nat(2),
        slackMs: fc.integer({ min: -100, max: 500 }),
        minAccuracy: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined, freq: 3 }),
        version: fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined, freq: 1 }),
      }),
      { minLength: 1, maxLength: 20 },
    ),
    share: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .map(({ tasks, queue, share }) => ({
    nowMs: NOW_MS,
    slot: 0,
    guardMs: 20,
    plan: {
      fractions: Object.fromEntries(
        tasks.map((_, k) => [
          `task${k}`,
          [
            { version: 1, fraction: share },
            { version: 2, fraction: 1 - share },
          ],
        ]),
      ),
    },
    tasks: tasks.map(({ accuracies, serving }, k) => ({
      task: `task${k}`,
      sloMs: 400,
      weight: 1,
      servingVersion: serving,
      versions: accuracies
        .toSorted((a, b) => b - a)
        .map((accuracy, i) => ({
          version: i + 1,
          accuracy: accuracy / 100,
          serviceMs: 3 * accuracy,
          dispatched: i,
        })),
    })),
    queue: queue
      .map(({ task, slackMs, ...wish }) => ({
        ...wish,
        task: task % tasks.length,
        arrivalMs: NOW_MS + slackMs - 500,
        deadlineMs: NOW_MS + slackMs,
        weight: 1,
        priority: 'realtime' as const,
      }))
      .sort((a, b) => a.deadlineMs - b.deadlineMs),
  }));

describe.each(dispatches)('$name', (dispatch) => {
  test('same state, same decision; only resident versions that the client accepts run; nothing else is shed without need', () => {
    fc.assert(
      fc.property(state, (made) => {
        const copy = structuredClone(made);
        const decision = dispatch.pick(made);
        expect(dispatch.pick(copy)).toEqual(decision);
        expect(made).toEqual(copy);
        if (decision.kind === 'wait') {
          expect(made.tasks[made.queue[0]!.task]!.versions).toEqual([]);
          return;
        }
        const request = made.queue[decision.index]!;
        const task = made.tasks[request.task]!;
        if (decision.kind === 'run') {
          const version = task.versions.find((resident) => resident.version === decision.version);
          expect(version).toBeDefined();
          expect(accepts(request, version!)).toBe(true);
        } else if (decision.reason !== 'deadline') {
          expect(fastestVersion(request, task)).toBeUndefined();
        }
      }),
      { seed: 3, numRuns: 500 },
    );
  });
});

test('slackfit sheds only what even the fastest version would be late for', () => {
  fc.assert(
    fc.property(state, (made) => {
      const decision = slackFitDispatch({ queueAware: true }).pick(made);
      if (decision.kind !== 'shed' || decision.reason !== 'deadline') return;
      const request = made.queue[0]!;
      const fastest = fastestVersion(request, made.tasks[request.task]!)!;
      expect(made.nowMs + fastest.serviceMs).toBeGreaterThan(request.deadlineMs);
    }),
    { seed: 5, numRuns: 500 },
  );
});

test('more slack never means less accuracy', () => {
  fc.assert(
    fc.property(state, fc.integer({ min: 1, max: 300 }), (made, moreMs) => {
      const later = {
        ...made,
        queue: made.queue.map((request) => ({ ...request, deadlineMs: request.deadlineMs + moreMs })),
      };
      for (const queueAware of [false, true]) {
        const accuracyOf = (given: DispatchState) => {
          const decision = slackFitDispatch({ queueAware }).pick(given);
          if (decision.kind !== 'run') return -1;
          const task = given.tasks[given.queue[decision.index]!.task]!;
          return task.versions.find(({ version }) => version === decision.version)!.accuracy;
        };
        expect(accuracyOf(later)).toBeGreaterThanOrEqual(accuracyOf(made));
      }
    }),
    { seed: 6, numRuns: 300 },
  );
});
