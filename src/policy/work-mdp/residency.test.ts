import { expect, test } from 'vitest';
import { makeFrontier, makeState, makeTask } from '../variants.fixture.ts';
import { bonsaiPolicy } from './bonsai.ts';

/** Throughputs 5 to 76 per second. */
const frontier = makeFrontier([1, 5], [0.97, 8], [0.93, 14], [0.85, 24], [0.75, 42], [0.59, 76]);

function residencyAt(
  demandRps: number,
  resident: readonly number[],
  more: { loading?: readonly number[]; residencyLimit?: number; violations?: number; memory?: unknown } = {},
) {
  const { memory, ...rest } = more;
  const task = makeTask({
    frontier,
    demandRps,
    resident,
    residencyLimit: 2,
    servingVersion: resident.at(-1),
    ...rest,
  });
  const decision = bonsaiPolicy().decide(makeState({ tasks: [task], memory }));
  return {
    moves: decision.residency?.map(({ kind, version }) => `${kind} ${version}`),
    memory: decision.memory,
  };
}

test('the version beside the floor follows demand', () => {
  // The floor stays; what the other is exchanged for is more accurate at less demand.
  expect(residencyAt(2, [5, 6]).moves?.[1]).toBe('unload 5');
  const added = [1, 8, 20].map((rps) => Number(residencyAt(rps, [5, 6]).moves?.[0]?.split(' ')[1] ?? 5));
  expect(added).toEqual(added.toSorted((a, b) => a - b));
  expect(added[0]!).toBeLessThan(added[2]!);
});

test('a floor that is missing comes first, and nothing of it is ever let go', () => {
  expect(residencyAt(2, [2, 3]).moves).toEqual(['load 6']);
  for (const rps of [0.1, 5, 15, 40]) {
    for (const resident of [
      [1, 6],
      [4, 6],
      [5, 6],
    ]) {
      expect(residencyAt(rps, resident).moves).not.toContain('unload 6');
    }
  }
});

test('nothing moves while a version loads, in trouble, or so soon after a swap', () => {
  expect(residencyAt(2, [5, 6], { loading: [2] }).moves).toEqual([]);
  expect(residencyAt(2, [5, 6], { violations: 9 }).moves).toEqual([]);
  const first = residencyAt(2, [5, 6]);
  expect(first.moves).not.toEqual([]);
  expect(residencyAt(2, [5, 6], { memory: first.memory }).moves).toEqual([]);
});

test('where everything fits everything loads', () => {
  expect(residencyAt(2, [6], { residencyLimit: 6 }).moves).toEqual(
    [1, 2, 3, 4, 5].map((version) => `load ${version}`),
  );
});
