import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Choice, chooseWithin } from './knapsack.ts';

const choice = fc.record({
  cost: fc.integer({ min: -200, max: 200 }),
  loss: fc.integer({ min: -50, max: 100 }),
});
const groups = fc.array(fc.array(choice, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 5 });
const budgets = fc.integer({ min: -600, max: 800 });

/** Tries every selection. */
function bruteForce(all: readonly (readonly Choice[])[], budget: number): number | undefined {
  let best: number | undefined;
  const visit = (index: number, cost: number, loss: number): void => {
    if (index === all.length) {
      if (cost <= budget && (best === undefined || loss < best)) best = loss;
      return;
    }
    for (const option of all[index]!) visit(index + 1, cost + option.cost, loss + option.loss);
  };
  visit(0, 0, 0);
  return best;
}

test('the selection is the best of all, and fits', () => {
  fc.assert(
    fc.property(groups, budgets, (all, budget) => {
      const selection = chooseWithin(all, budget);
      const best = bruteForce(all, budget);
      if (best === undefined) {
        expect(selection).toBeUndefined();
        return;
      }
      expect(selection!.gap).toBe(0);
      expect(selection!.loss).toBeCloseTo(best, 9);
      expect(selection!.cost).toBeLessThanOrEqual(budget + 1e-9);
      const picked = selection!.picks.map((pick, group) => all[group]![pick]!);
      expect(picked.reduce((sum, { loss }) => sum + loss, 0)).toBeCloseTo(selection!.loss, 9);
    }),
    { numRuns: 500, seed: 5 },
  );
});

test('with few states the loss stays within the gap that it states', () => {
  let inexact = 0;
  fc.assert(
    fc.property(groups, budgets, (all, budget) => {
      const selection = chooseWithin(all, budget, { maxStates: 2 });
      const best = bruteForce(all, budget);
      if (best === undefined || selection === undefined) return;
      if (selection.gap > 0) inexact++;
      expect(selection.cost).toBeLessThanOrEqual(budget + 1e-9);
      expect(selection.loss - selection.gap).toBeLessThanOrEqual(best + 1e-9);
    }),
    { numRuns: 500, seed: 6 },
  );
  expect(inexact).toBeGreaterThan(20);
});

test('a budget that is met exactly is met, in whatever order the costs are added', () => {
  const all = [[{ cost: 0.1, loss: 0 }], [{ cost: 0.2, loss: 0 }], [{ cost: 0.3, loss: 0 }]];
  expect(chooseWithin(all, 0.6)).toMatchObject({ picks: [0, 0, 0] });
  expect(chooseWithin(all, 0.599)).toBeUndefined();
});

test('no groups cost nothing; nonsense is refused', () => {
  expect(chooseWithin([], 0)).toMatchObject({ picks: [], cost: 0, loss: 0 });
  expect(() => chooseWithin([[]], 1)).toThrow(/no choices/);
  expect(() => chooseWithin([[{ cost: Number.NaN, loss: 0 }]], 1)).toThrow(/finite/);
});
