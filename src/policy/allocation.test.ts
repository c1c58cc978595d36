import fc from 'fast-check';
import { expect, test } from 'vitest';
import { allocationAt, allocationChain, type Ladder, ladderOf, positionOf } from './allocation.ts';
import { makeFrontier, makeTask } from './variants.fixture.ts';

function ladder(
  task: string,
  demandRps: number,
  ...steps: (readonly [accuracy: number, cost: number])[]
): Ladder {
  return {
    task,
    weight: 1,
    demandRps,
    steps: steps.map(([normalisedAccuracy, cost], index) => ({
      version: index + 1,
      cost,
      normalisedAccuracy,
    })),
  };
}

test('the task that loses least accuracy per cost saved steps down first', () => {
  // a: 0.1 lost for 5 saved = 0.02; b: 0.02 for 2 = 0.01, then 0.3 for 1 = 0.3. So b, a, b.
  const chain = allocationChain([
    ladder('a', 1, [1, 10], [0.9, 5]),
    ladder('b', 1, [1, 4], [0.98, 2], [0.68, 1]),
  ]);
  expect(chain.map((allocation) => allocation.positions)).toEqual([
    [0, 0],
    [0, 1],
    [1, 1],
    [1, 2],
  ]);
  expect(chain.map((allocation) => allocation.metric)).toEqual([14, 12, 7, 6]);
});

test('demand flattens the slope of a task, as in figure 4.6d of the thesis', () => {
  // At equal demand b goes first (0.01 < 0.02); with a asked 2000 times as often, a: 0.1 / 10000 goes first.
  const chain = allocationChain([ladder('a', 2000, [1, 10], [0.9, 5]), ladder('b', 1, [1, 4], [0.98, 2])]);
  expect(chain[1]!.positions).toEqual([1, 0]);
  // 2000 of 2001 requests see 0.9, one sees 1.
  expect(chain[1]!.accuracy).toBeCloseTo((2000 * 0.9 + 1) / 2001, 12);
});

test('a task without demand steps down last, and ties go to the first task', () => {
  const chain = allocationChain([
    ladder('idle', 0, [1, 9], [0.99, 1]),
    ladder('b', 1, [1, 4], [0.9, 2]),
    ladder('c', 1, [1, 4], [0.9, 2]),
  ]);
  expect(chain.map((allocation) => allocation.positions)).toEqual([
    [0, 0, 0],
    [0, 1, 0],
    [0, 1, 1],
    [1, 1, 1],
  ]);
});

test('importance makes a task step down later', () => {
  const heavy = { ...ladder('a', 1, [1, 4], [0.9, 2]), weight: 3 };
  expect(allocationChain([heavy, ladder('b', 1, [1, 4], [0.8, 2])])[1]!.positions).toEqual([0, 1]);
});

test('every chain goes from all-largest to all-smallest by single steps, its metric never rising', () => {
  const ladders = fc.array(
    fc.record({
      demandRps: fc.oneof(fc.constant(0), fc.double({ min: 0.1, max: 1000, noNaN: true })),
      weight: fc.double({ min: 0.1, max: 5, noNaN: true }),
      costs: fc.uniqueArray(fc.integer({ min: 1, max: 1000 }), { minLength: 1, maxLength: 6 }),
    }),
    { minLength: 1, maxLength: 4 },
  );
  fc.assert(
    fc.property(ladders, (specs) => {
      const made = specs.map(
        ({ demandRps, weight, costs }, index): Ladder => ({
          task: `t${index}`,
          weight,
          demandRps,
          steps: costs
            .toSorted((a, b) => b - a)
            .map((cost, step) => ({ version: step + 1, cost, normalisedAccuracy: 1 - step / 10 })),
        }),
      );
      const chain = allocationChain(made);
      const stepsDown = made.reduce((sum, { steps }) => sum + steps.length - 1, 0);
      expect(chain).toHaveLength(stepsDown + 1);
      expect(chain.at(-1)!.positions).toEqual(made.map(({ steps }) => steps.length - 1));
      for (let i = 1; i < chain.length; i++) {
        const moved = chain[i]!.positions.map((position, k) => position - chain[i - 1]!.positions[k]!);
        expect(moved.toSorted()).toEqual([...moved.map(() => 0).slice(1), 1]);
        expect(chain[i]!.metric).toBeLessThanOrEqual(chain[i - 1]!.metric);
      }
    }),
    { seed: 1, numRuns: 100 },
  );
});

test('a ladder is normalised on the best version, and leaves out variants without a profile', () => {
  const [best, middle, small] = makeFrontier([0.8, 10], [0.6, 20], [0.4, 40]);
  const task = makeTask({ frontier: [best!, { ...middle!, profiles: {} }, small!] });
  expect(ladderOf(task, 5, 'inverseThroughput')?.steps).toEqual([
    { version: 1, cost: 0.1, normalisedAccuracy: 1 },
    { version: 3, cost: 0.025, normalisedAccuracy: 0.5 },
  ]);
  expect(ladderOf(makeTask({ frontier: [] }), 5, 'flops')).toBeUndefined();
});

test('a version that is not on the ladder counts as the next smaller one', () => {
  const steps = [1, 3, 6].map((version) => ({ version, cost: 10 - version, normalisedAccuracy: 1 }));
  const made = { task: 'a', weight: 1, demandRps: 1, steps };
  expect([1, 2, 3, 4, 6, 9].map((version) => positionOf(made, version))).toEqual([0, 1, 1, 2, 2, 2]);
});

test('an allocation of no demand costs nothing and is not divided by zero', () => {
  expect(allocationAt([ladder('a', 0, [1, 10])], [0])).toEqual({ positions: [0], metric: 0, accuracy: 1 });
});
