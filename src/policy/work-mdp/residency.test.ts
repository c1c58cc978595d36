import { expect, test } from 'vitest';
import { makeFrontier, makeState, makeTask } from '../variants.fixture.ts';
import { bonsaiPolicy } from './bonsai.ts';
import type { WorkPlan } from './plan.ts';
import { setsOf } from './residency.ts';

/** Throughputs 5 to 76 per second. */
const frontier = makeFrontier([1, 5], [0.97, 8], [0.93, 14], [0.85, 24], [0.75, 42], [0.59, 76]);

/** The same in finer steps. */
const finer = makeFrontier(
  [1, 4.3],
  [0.99, 6],
  [0.96, 9],
  [0.92, 14],
  [0.86, 22],
  [0.78, 33],
  [0.69, 50],
  [0.59, 76],
);

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

test('a long queue keeps loads away, violations make careful besides', () => {
  const planned = (more: { queued?: number; violations?: number }) => {
    const task = makeTask({ frontier, demandRps: 10, resident: [5, 6], residencyLimit: 2, ...more });
    const { plan, residency } = bonsaiPolicy().decide(makeState({ tasks: [task] }));
    return { arrivalsPerMs: (plan as WorkPlan).arrivalsPerMs, moves: residency };
  };
  const calm = planned({});
  // 40 requests of 13 ms are more than half of an SLO of 400 ms; they are planned exactly.
  const long = planned({ queued: 40 });
  const late = planned({ violations: 9 });
  expect(calm.moves).not.toEqual([]);
  expect(long).toEqual({ arrivalsPerMs: calm.arrivalsPerMs, moves: [] });
  expect(late.moves).toEqual([]);
  expect(late.arrivalsPerMs).toBeGreaterThan(calm.arrivalsPerMs);
});

test('which set is best does not depend on the one that happens to be there', () => {
  const starts = [
    [1, 2, 8],
    [6, 7, 8],
    [1, 7, 8],
    [4, 5, 8],
  ];
  for (const demandRps of [9, 15, 20]) {
    const settled = starts.map((start) => settledFrom(start, demandRps));
    for (const resident of settled) expect(resident).toEqual(settled[0]);
  }
});

/** What is resident after two minutes of the demand. */
function settledFrom(start: readonly number[], demandRps: number): readonly number[] {
  let resident = [...start];
  let memory: unknown;
  for (let nowMs = 100_000; nowMs < 220_000; nowMs += 1_000) {
    const task = makeTask({
      frontier: finer,
      demandRps,
      nowMs,
      resident,
      residencyLimit: 3,
      servingVersion: 8,
    });
    const decision = bonsaiPolicy().decide(makeState({ tasks: [task], nowMs, memory }));
    memory = decision.memory;
    for (const { kind, version } of decision.residency ?? []) {
      if (kind === 'load') resident.push(version);
      else resident = resident.filter((other) => other !== version);
    }
    resident.sort((a, b) => a - b);
  }
  return resident;
}

test('what is not on the frontier is let go as soon as something else answers', () => {
  expect(residencyAt(2, [7]).moves).toEqual(['load 6']);
  expect(residencyAt(2, [6, 7]).moves).toEqual(['unload 7']);
  expect(residencyAt(2, [5, 7]).moves).toEqual(['load 6', 'unload 7']);
  expect(residencyAt(2, [6, 7], { loading: [5] }).moves).toEqual([]);
});

test('where everything fits everything loads', () => {
  expect(residencyAt(2, [6], { residencyLimit: 6 }).moves).toEqual(
    [1, 2, 3, 4, 5].map((version) => `load ${version}`),
  );
});

test('few sets are judged all, many by single exchanges', () => {
  // Two of the five versions above the floor: 10 sets.
  expect(setsOf(6, 3, [1, 4, 5])).toHaveLength(10);
  expect(setsOf(6, 3, [1, 4, 5])).toContainEqual([0, 3, 5]);
  // 11 of 29 would be 34 million: each of 11 free members may be exchanged for each of 18 others.
  const resident = [...Array(11).keys(), 29];
  const sets = setsOf(30, 12, resident);
  expect(sets).toHaveLength(11 * 18);
  expect(sets.every((set) => set.length === 12 && set.at(-1) === 29)).toBe(true);
  expect(setsOf(3, 1, [0])).toEqual([[0], [1], [2]]);
});

test('a set that only two exchanges together reach is reached', () => {
  const resident = [1, 2, 8];
  let memory: unknown;
  const moves: string[] = [];
  for (let second = 0; second < 60; second++) {
    const nowMs = 100_000 + 1000 * second;
    const task = makeTask({
      frontier: finer,
      demandRps: 18,
      nowMs,
      resident,
      residencyLimit: 3,
      servingVersion: 8,
    });
    const decision = bonsaiPolicy().decide(makeState({ tasks: [task], nowMs, memory }));
    memory = decision.memory;
    for (const { kind, version } of decision.residency ?? []) {
      moves.push(`${kind} ${version}`);
      if (kind === 'load') resident.push(version);
      else resident.splice(resident.indexOf(version), 1);
    }
    resident.sort((a, b) => a - b);
  }
  expect(moves.length).toBeGreaterThanOrEqual(4);
  // Both large ones are of little use at 18 req/s; then it rests.
  expect(resident.filter((version) => version <= 2)).toEqual([]);
  expect(resident).toHaveLength(3);
  expect(resident.at(-1)).toBe(8);
  expect(moves.length).toBeLessThanOrEqual(8);
});
