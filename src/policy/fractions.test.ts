import fc from 'fast-check';
import { expect, test } from 'vitest';
import { frontierOf } from '../repository/frontier.ts';
import type { DispatchState } from './dispatch.ts';
import { bestFractions, fractionDispatch } from './fractions.ts';
import { makeFrontier, makeState, makeTask, makeVariant } from './variants.fixture.ts';

test('the split fills the utilization with two neighbours', () => {
  // 4 req/s of 0.1 s, 0.05 s or 0.025 s each take 0.4, 0.2 or 0.1 of the CPU.
  const frontier = makeFrontier([1, 10], [0.9, 20], [0.7, 40]);
  const state = makeState({ tasks: [makeTask({ frontier })] });
  const split = (utilization: number) => bestFractions(state, [4], utilization).fractions.digits;
  expect(split(0.5)).toEqual([{ version: 1, fraction: 1 }]);
  const [larger, smaller] = split(0.3)!;
  expect([larger!.version, smaller!.version]).toEqual([1, 2]);
  expect(larger!.fraction).toBeCloseTo(0.5, 9);
  expect(larger!.fraction + smaller!.fraction).toBeCloseTo(1, 12);
  expect(split(0.05)).toEqual([{ version: 3, fraction: 1 }]);
});

test('a version below the line between its neighbours gets no requests', () => {
  const frontier = makeFrontier([1, 10], [0.71, 20], [0.7, 40]);
  const { fractions } = bestFractions(makeState({ tasks: [makeTask({ frontier })] }), [4], 0.2);
  expect(fractions.digits!.map(({ version }) => version)).toEqual([1, 3]);
});

test('no mixture of two versions per task on a fine grid is more accurate within the utilization', () => {
  const figures = fc.array(
    fc.record({
      accuracy: fc.double({ min: 0.2, max: 1, noNaN: true }),
      throughputRps: fc.double({ min: 2, max: 100, noNaN: true }),
    }),
    { minLength: 1, maxLength: 4 },
  );
  fc.assert(
    fc.property(
      figures,
      figures,
      fc.double({ min: 0.2, max: 0.9, noNaN: true }),
      (first, second, utilization) => {
        const tasks = [first, second].map((list, k) =>
          makeTask({
            task: `task${k}`,
            frontier: frontierOf(
              list
                .toSorted((a, b) => b.accuracy - a.accuracy)
                .map((figure, i) => makeVariant({ version: i + 1, ...figure })),
              'inverseThroughput',
            ),
          }),
        );
        const demand = [3, 2];
        const { fractions } = bestFractions(makeState({ tasks }), demand, utilization);
        const accuracyOf = (k: number, version: number) => {
          const best = tasks[k]!.frontier[0]!.accuracy.test;
          return tasks[k]!.frontier.find((variant) => variant.version === version)!.accuracy.test / best;
        };
        const costOf = (k: number, version: number) =>
          1 /
          tasks[k]!.frontier.find((variant) => variant.version === version)!.profiles.test!.throughputRps
            .median;
        let [gain, cost] = [0, 0];
        for (const k of [0, 1]) {
          for (const { version, fraction } of fractions[`task${k}`]!) {
            gain += demand[k]! * fraction * accuracyOf(k, version);
            cost += demand[k]! * fraction * costOf(k, version);
          }
        }
        const smallest = [0, 1].reduce(
          (sum, k) => sum + demand[k]! * costOf(k, tasks[k]!.frontier.at(-1)!.version),
          0,
        );
        if (smallest > utilization) return;
        expect(cost).toBeLessThanOrEqual(utilization + 1e-9);
        // Every pure or half-and-half mixture that fits; fractions below 1 % are rounded away, worth 1 % of demand.
        const mixtures = (k: number) => {
          const versions = tasks[k]!.frontier.map(({ version }) => version);
          return versions.flatMap((a) =>
            versions.flatMap((b) => [0, 0.25, 0.5, 0.75, 1].map((f) => [a, b, f] as const)),
          );
        };
        for (const [a0, b0, f0] of mixtures(0)) {
          for (const [a1, b1, f1] of mixtures(1)) {
            const total = (of: (k: number, version: number) => number) =>
              demand[0]! * (f0 * of(0, a0) + (1 - f0) * of(0, b0)) +
              demand[1]! * (f1 * of(1, a1) + (1 - f1) * of(1, b1));
            if (total(costOf) <= utilization) expect(gain).toBeGreaterThanOrEqual(total(accuracyOf) - 0.051);
          }
        }
      },
    ),
    { seed: 4, numRuns: 60 },
  );
});

test('requests go round robin by their shares', () => {
  const counts = [0, 0];
  const order: number[] = [];
  for (let i = 0; i < 10; i++) {
    const state: DispatchState = {
      nowMs: 0,
      slot: 0,
      guardMs: 0,
      queue: [{ task: 0, arrivalMs: 0, deadlineMs: 400, weight: 1, priority: 'realtime' }],
      tasks: [
        {
          task: 'digits',
          sloMs: 400,
          weight: 1,
          versions: [1, 2].map((version, k) => ({
            version,
            accuracy: 1 - 0.1 * k,
            serviceMs: 50,
            dispatched: counts[k]!,
          })),
        },
      ],
      plan: {
        fractions: {
          digits: [
            { version: 1, fraction: 0.7 },
            { version: 2, fraction: 0.3 },
          ],
        },
      },
    };
    const decision = fractionDispatch().pick(state);
    if (decision.kind !== 'run') throw new Error('not run');
    counts[decision.version - 1]!++;
    order.push(decision.version);
  }
  // n = 0: 0.7 against 0.3; n = 1: 1.4 − 1 against 0.6; n = 2: 2.1 − 1 against 0.9 − 1; …
  expect(order).toEqual([1, 2, 1, 1, 1, 2, 1, 1, 2, 1]);
  expect(counts).toEqual([7, 3]);
});
