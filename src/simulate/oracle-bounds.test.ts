import { expect, test } from 'vitest';
import type { DemandProfile } from '../load/arrivals.ts';
import { geometricChain } from './chain.ts';
import { oracleBounds, oracleSummary } from './oracle-bounds.ts';
import { makeScenario } from './scenario.ts';
import { drawWorkload } from './workload.ts';

const tasks = [0, 1].map((k) => ({
  task: `task${k}`,
  sloMs: 400,
  weight: 1,
  variants: geometricChain({ versions: 5 }),
}));
const demand: DemandProfile[] = [
  { kind: 'constant', rps: 6, durationMs: 30_000 },
  { kind: 'constant', rps: 9, durationMs: 30_000 },
];

test('the bounds are rows of a comparison, the relaxed one above the feasible one', async () => {
  const seen: string[] = [];
  const rows = await oracleBounds({
    scenario: makeScenario({ tasks }),
    demand,
    workload: {},
    seeds: [1, 2],
    onRun: (name, seed) => void seen.push(`${name} ${seed}`),
  });
  const names = [
    'oracle:feasible',
    'oracle:relaxed',
    'oracle:single-version',
    'oracle:single-version-loading',
  ];
  expect(rows.map(({ name }) => name)).toEqual(names);
  expect(seen).toEqual(names.flatMap((name) => [`${name} 1`, `${name} 2`]));
  const [feasible, relaxed, single, loading] = rows.map(({ intervals }) => intervals.meanAccuracy.mean);
  // Fewer things may be done, and loads cost time.
  expect(single).toBeLessThan(feasible!);
  expect(loading).toBeLessThan(single!);
  expect(feasible).toBeGreaterThan(0.85);
  expect(relaxed).toBeGreaterThan(feasible!);
  expect(relaxed! - feasible!).toBeLessThan(0.02);
});

test('two servers can do as much as one for half the requests, and no more than one that is twice as fast', () => {
  const workload = drawWorkload(demand, { seed: 5 });
  const figures = (servers: number) =>
    (['feasible', 'relaxed'] as const).map((bound) =>
      oracleSummary(makeScenario({ tasks, servers }), workload, bound),
    );
  const [one, two] = [figures(1), figures(2)];
  expect(two[0]!.meanAccuracy).toBeGreaterThan(one[1]!.meanAccuracy);
  expect(two[1]!.meanAccuracy).toBeGreaterThanOrEqual(two[0]!.meanAccuracy);
  expect(two[0]!.offered).toBe(workload.arrivalMs.length);
  expect(two[0]!.tasks.map(({ offered }) => offered)).toEqual(one[0]!.tasks.map(({ offered }) => offered));
});

test('a wrong profile, and a floor of accuracy, are known to the oracle', () => {
  const workload = drawWorkload(demand, { seed: 5 });
  const plain = oracleSummary(makeScenario({ tasks }), workload, 'feasible');
  const slower = oracleSummary(makeScenario({ tasks, profileFactor: 1.25 }), workload, 'feasible');
  expect(slower.meanAccuracy).toBeLessThan(plain.meanAccuracy);
  const floored = tasks.map((task) => ({ ...task, minAccuracy: 0.95 }));
  const strict = oracleSummary(makeScenario({ tasks: floored }), workload, 'feasible');
  expect(strict.tasks.every(({ meanAccuracy }) => meanAccuracy >= 0.95)).toBe(true);
  expect(strict.shed).toBeGreaterThan(plain.shed);
});

test('tasks without deadlines are refused', () => {
  const scenario = makeScenario({ tasks: [{ ...tasks[0]!, priority: 'batch' }] });
  expect(() => oracleSummary(scenario, drawWorkload(demand.slice(0, 1), { seed: 1 }), 'feasible')).toThrow(
    /has none/,
  );
});
