import { expect, test } from 'vitest';
import { geometricChain } from '../../simulate/chain.ts';
import { builtInDemand } from '../../simulate/demand.ts';
import { makeScenario, type Scenario, versionFigures } from '../../simulate/scenario.ts';
import { simulate } from '../../simulate/simulate.ts';
import { summarizeSimulation } from '../../simulate/summary.ts';
import { drawWorkload, scaledDemand, type WorkloadOptions } from '../../simulate/workload.ts';
import type { DispatchState } from '../dispatch.ts';
import { oracle } from '../oracle/oracle.ts';
import type { PolicyState } from '../policy.ts';
import { makeFrontier, makeState, makeTask } from '../variants.fixture.ts';
import { bonsaiDispatch, bonsaiPolicy } from './bonsai.ts';
import { fallingBack, smallestDispatch } from './fallback.ts';
import type { WorkPlan } from './plan.ts';

/** The first four minutes of burst3: bursts by every task. */
const MINUTES = 4;

function run(options: {
  scenario?: Partial<Scenario>;
  workload?: Partial<WorkloadOptions>;
  scale?: number;
  weights?: readonly number[];
}) {
  const demand = builtInDemand('burst3').map((profile) => {
    if (profile.kind !== 'steps') throw new Error('burst3 is a demand of steps');
    const short = { ...profile, points: profile.points.slice(0, 60 * MINUTES), durationMs: 60_000 * MINUTES };
    return scaledDemand(short, options.scale ?? 1);
  });
  const tasks = demand.map((_, k) => ({
    task: `task${k}`,
    sloMs: 400,
    weight: options.weights?.[k] ?? 1,
    variants: geometricChain(),
  }));
  const scenario = makeScenario({ tasks, ...options.scenario });
  const workload = drawWorkload(demand, { seed: 3, ...options.workload });
  const played = simulate({ scenario, workload, policy: bonsaiPolicy() });
  const families = tasks.map((task) => ({
    sloMs: 400,
    weight: task.weight,
    versions: versionFigures(task, scenario),
  }));
  return { played, summary: summarizeSimulation(played), workload, families };
}

test('nothing is late under bursts, and accuracy comes close to what hindsight could have got', () => {
  const { summary, workload, families } = run({});
  const best = oracle(workload, families, { bound: 'relaxed' });
  expect(summary.violationRatio).toBe(0);
  expect(summary.meanAccuracy).toBeLessThanOrEqual(best.meanAccuracy);
  expect(best.meanAccuracy - summary.meanAccuracy).toBeLessThan(0.02);
});

test('three resident versions of each task lose little', () => {
  const all = run({});
  const three = run({ scenario: { residency: 3 } });
  expect(three.summary.violationRatio).toBeLessThan(0.001);
  expect(all.summary.meanAccuracy - three.summary.meanAccuracy).toBeLessThan(0.03);
  expect(three.played.loads).toBeGreaterThan(0);
});

test('profiles that are wrong by a quarter are found out', () => {
  const { summary } = run({ scenario: { profileFactor: 1.25 }, workload: { serviceCv: 0.3 } });
  expect(summary.violationRatio).toBeLessThan(0.0015);
});

test('in overload about as many requests are shed as must be', () => {
  const { summary, workload, families } = run({ scale: 2.5 });
  const best = oracle(workload, families, { bound: 'feasible', stepMs: 0.25 });
  expect(best.dropped).toBeGreaterThan(0);
  expect(summary.violationRatio).toBeLessThan(best.dropped / best.offered + 0.01);
});

test('a task of more weight sees more accuracy', () => {
  const even = run({}).summary;
  const uneven = run({ weights: [3, 1, 1] }).summary;
  expect(uneven.tasks[0]!.meanAccuracy).toBeGreaterThan(even.tasks[0]!.meanAccuracy + 0.02);
  expect(uneven.violationRatio).toBe(0);
});

test('a server that tells its slots is planned for by them, else by its whole CPUs', () => {
  const task = makeTask({
    frontier: makeFrontier([0.9, 5], [0.7, 60]),
    demandRps: 12,
    resident: [1, 2],
    residencyLimit: 2,
  });
  const planFor = (slots?: number) => {
    const state = makeState({ tasks: [task], cpuBudget: 1.5 });
    return bonsaiPolicy().decide({ ...state, ...(slots !== undefined && { slots }) }).plan as WorkPlan;
  };
  expect(planFor(2).arrivalsPerMs).toBeCloseTo(planFor().arrivalsPerMs / 2, 9);
  expect(planFor(1)).toEqual(planFor());
});

test('administrators hear of inferences that stay slower than profiled, not of a moment', () => {
  const policy = bonsaiPolicy();
  const frontier = makeFrontier([0.9, 5], [0.7, 60]);
  let memory: unknown;
  const noticesWith = (seconds: number, slowness: number) =>
    Array.from({ length: seconds }, () => {
      const planned = frontier.map(({ version }) => ({
        version,
        serviceMs: slowness * [200, 1000 / 60][version - 1]!,
      }));
      nowMs += 1_000;
      const task = makeTask({ frontier, demandRps: 2, nowMs, planned });
      const decision = policy.decide(makeState({ tasks: [task], nowMs, memory }));
      memory = decision.memory;
      return decision.notice;
    });
  let nowMs = 100_000;
  for (const slowness of [1.15, 1.9, 1, 1.9]) expect(noticesWith(9, slowness).join('')).toBe('');
  expect(noticesWith(3, 1.9).at(-1)).toMatch(/^Inferences take 1\.90 times as long as their profiles say/);
  expect(noticesWith(1, 1.1)).toEqual([undefined]);
});

test('memory and plan are plain data: a copy through JSON decides the same', () => {
  const frontier = makeFrontier([0.9, 5], [0.85, 20], [0.7, 60]);
  const task = makeTask({ frontier, demandRps: 12, resident: [1, 2, 3], residencyLimit: 3 });
  const policy = bonsaiPolicy();
  const first = policy.decide(makeState({ tasks: [task] }));
  const later = (memory: unknown): PolicyState => {
    const more = makeTask({
      frontier,
      demandRps: 14,
      nowMs: 101_000,
      resident: [1, 2, 3],
      residencyLimit: 3,
    });
    return makeState({ tasks: [more], nowMs: 101_000, memory });
  };
  const second = policy.decide(later(first.memory));
  expect(policy.decide(later(JSON.parse(JSON.stringify(first.memory))))).toEqual(second);

  const dispatch = (plan: unknown): DispatchState => ({
    nowMs: 0,
    slot: 0,
    guardMs: 20,
    plan,
    queue: [50, 90, 300].map((deadlineMs) => ({
      task: 0,
      arrivalMs: 0,
      deadlineMs,
      weight: 1,
      priority: 'realtime' as const,
    })),
    tasks: [
      {
        task: 'digits',
        sloMs: 400,
        weight: 1,
        versions: [200, 50, 17].map((serviceMs, i) => ({
          version: i + 1,
          accuracy: 1 - 0.1 * i,
          serviceMs,
          dispatched: 0,
        })),
      },
    ],
  });
  const copy = JSON.parse(JSON.stringify(second.plan));
  expect(bonsaiDispatch().pick(dispatch(copy))).toEqual(bonsaiDispatch().pick(dispatch(second.plan)));
});

test('without a plan, or with a broken one, simpler rules decide', () => {
  const state = (plan: unknown): DispatchState => ({
    nowMs: 0,
    slot: 0,
    guardMs: 0,
    plan,
    queue: [{ task: 0, arrivalMs: 0, deadlineMs: 100, weight: 1, priority: 'realtime' }],
    tasks: [
      {
        task: 'digits',
        sloMs: 400,
        weight: 1,
        versions: [
          { version: 1, accuracy: 1, serviceMs: 90, dispatched: 0 },
          { version: 2, accuracy: 0.5, serviceMs: 10, dispatched: 0 },
        ],
      },
    ],
  });
  const dispatch = bonsaiDispatch();
  expect(dispatch.pick(state(undefined))).toEqual({ kind: 'run', index: 0, version: 1 });
  expect(dispatch.pick(state({ kind: 'work-mdp', values: [Number.NaN] }))).toEqual({
    kind: 'run',
    index: 0,
    version: 1,
  });
  const broken = {
    name: 'broken',
    pick: () => {
      throw new Error('solver');
    },
  };
  expect(fallingBack('ladder', [broken, broken, smallestDispatch]).pick(state(undefined))).toEqual({
    kind: 'run',
    index: 0,
    version: 2,
  });
});
