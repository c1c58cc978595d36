import { describe, expect, test } from 'vitest';
import { BonsaiError } from '../base/errors.ts';
import { mean } from '../base/statistics.ts';
import type { DispatchDecision, DispatchState } from '../policy/dispatch.ts';
import type { Decision, Policy, PolicyState } from '../policy/policy.ts';
import { servingDispatch } from '../policy/serving-dispatch.ts';
import { slackFitPolicy } from '../policy/slackfit.ts';
import { staticPolicy } from '../policy/static.ts';
import { trivialPolicy } from '../policy/trivial.ts';
import { geometricChain, simulatedVariant } from './chain.ts';
import { builtInDemand } from './demand.ts';
import { OUTCOME } from './run.ts';
import { makeScenario, type SimulatedTask } from './scenario.ts';
import { simulate } from './simulate.ts';
import { summarizeSimulation } from './summary.ts';
import { drawWorkload, type Workload } from './workload.ts';

/** A task with versions 1, 2, … of the given [throughput, accuracy]. */
function makeTask(
  figures: Partial<SimulatedTask>,
  ...versions: readonly [rps: number, accuracy: number][]
): SimulatedTask {
  return {
    task: 'digits',
    sloMs: 400,
    weight: 1,
    variants: versions.map(([throughputRps, accuracy], i) =>
      simulatedVariant({ version: i + 1, throughputRps, accuracy }),
    ),
    ...figures,
  };
}

/** Requests at given times (ms), of task 0 unless said otherwise, with service times exactly as profiled. */
function requestsAt(times: readonly number[], tasks: readonly number[] = times.map(() => 0)): Workload {
  const durationMs = (times.at(-1) ?? 0) + 1;
  return {
    durationMs,
    arrivalMs: Float64Array.from(times),
    task: Uint16Array.from(tasks),
    multiplier: new Float64Array(times.length).fill(1),
    demand: [...new Set(tasks)].map(() => ({ kind: 'constant', rps: 1, durationMs })),
  };
}

const idle: Policy = { name: 'idle', decide: () => ({ actions: [], reason: 'Nothing.' }) };

/** What a file of one's own may return from `decide`, and what is said of it. */
const NO_DECISIONS: readonly [unknown, RegExp][] = [
  [undefined, /Policy own must return .*: it returned undefined/],
  [Promise.resolve({ actions: [], reason: 'Later.' }), /a promise/],
  [{ reason: 'No list.' }, /its actions are undefined/],
  [{ actions: [] }, /its reason is undefined/],
  [{ actions: [undefined], reason: '' }, /an action is undefined/],
  [{ actions: [{ kind: 'switch', task: 'digits', toVersion: 'two' }], reason: '' }, /an action is an object/],
  [{ actions: [], residency: [{ kind: 'load', task: 'digits' }], reason: '' }, /its residency is an object/],
];

/** The same of `pick`; the last would never take anything off the queue. */
const NO_PICKS: readonly [unknown, RegExp][] = [
  [undefined, /returned undefined from pick/],
  [{ kind: 'later', index: 0, version: 3 }, /the kind "later"/],
  [{ kind: 'run', index: 0, version: 3, batch: 0 }, /a batch of 0, not 1 or more/],
];

/** A policy that decides once, at a tick. */
function onceAt(tickMs: number, decision: Omit<Decision, 'reason'>): Policy {
  return {
    name: 'once',
    decide: ({ nowMs }) =>
      nowMs === tickMs ? { ...decision, reason: 'Now.' } : { actions: [], reason: 'No.' },
  };
}

describe('queueing theory', () => {
  // One version of 100 req/s: a service takes 10 ms on average. Pollaczek and Khinchine:
  // E[wait] = ρ / (1 − ρ) · (1 + cv²) / 2 · E[S]. M/M/1 is cv = 1, M/D/1 is cv = 0.
  const task = makeTask({ sloMs: 1e9 }, [100, 1]);
  const run = (load: number, serviceCv: number, discipline: 'ps' | 'edf') =>
    simulate({
      scenario: makeScenario({ tasks: [task], discipline }),
      workload: drawWorkload([{ kind: 'constant', rps: 100 * load, durationMs: 2_000_000 }], {
        seed: 11,
        serviceCv,
      }),
      policy: idle,
    });

  test.each([
    ['M/M/1', 1, 0.5, 'edf'],
    ['M/M/1', 1, 0.8, 'edf'],
    ['M/D/1', 0, 0.5, 'ps'],
    ['M/D/1', 0, 0.8, 'edf'],
    ['M/G/1', 0.5, 0.7, 'ps'],
    ['M/G/1', 1.5, 0.6, 'edf'],
  ] as const)(
    '%s with CV %d at load %d (%s): the mean time in system is as derived',
    (_, cv, load, discipline) => {
      const { latencyMs, outcome } = run(load, cv, discipline);
      expect(outcome.every((value) => value === OUTCOME.answered)).toBe(true);
      const expectedMs = 10 + ((load / (1 - load)) * (1 + cv * cv) * 10) / 2;
      expect(mean(latencyMs) / expectedMs).toBeGreaterThan(0.97);
      expect(mean(latencyMs) / expectedMs).toBeLessThan(1.03);
    },
  );

  test('M/M/1: P(time in system > t) = exp(−(μ − λ) t), and the CPU is used at the load', () => {
    const simulated = run(0.7, 1, 'edf');
    const share = (tMs: number) =>
      simulated.latencyMs.filter((latencyMs) => latencyMs > tMs).length / simulated.latencyMs.length;
    for (const tMs of [10, 30, 100]) expect(Math.log(share(tMs)) / (-0.03 * tMs)).toBeCloseTo(1, 1);
    expect(summarizeSimulation(simulated).cpuUtilization).toBeCloseTo(0.7, 2);
  });

  test('with deadlines, what is late of M/M/1 is what the distribution says', () => {
    const scenario = makeScenario({ tasks: [makeTask({ sloMs: 40 }, [100, 1])] });
    const workload = drawWorkload([{ kind: 'constant', rps: 50, durationMs: 2_000_000 }], {
      seed: 3,
      serviceCv: 1,
    });
    const { violationRatio } = summarizeSimulation(simulate({ scenario, workload, policy: idle }));
    // (μ − λ) t = (0.1 − 0.05) / ms · 40 ms = 2
    expect(violationRatio / Math.exp(-2)).toBeGreaterThan(0.93);
    expect(violationRatio / Math.exp(-2)).toBeLessThan(1.07);
  });
});

describe('a run', () => {
  const scenario = makeScenario({
    tasks: builtInDemand('burst3').map((_, k) => ({
      task: `task${k}`,
      sloMs: 400,
      weight: 1,
      variants: geometricChain(),
    })),
    residency: 1,
    discipline: 'ps',
    loaderWeight: 1,
  });
  const workload = drawWorkload(builtInDemand('burst3'), { seed: 2 });

  test('is the same each time, and another with another seed', () => {
    const once = simulate({ scenario, workload, policy: trivialPolicy() });
    const again = simulate({
      scenario,
      workload: drawWorkload(builtInDemand('burst3'), { seed: 2 }),
      policy: trivialPolicy(),
    });
    expect(again.latencyMs).toEqual(once.latencyMs);
    expect(again.versionIndex).toEqual(once.versionIndex);
    expect(again.changes).toEqual(once.changes);
    expect(drawWorkload(builtInDemand('burst3'), { seed: 3 }).arrivalMs).not.toEqual(workload.arrivalMs);
  });

  test('counts every request once', () => {
    const summary = summarizeSimulation(simulate({ scenario, workload, policy: trivialPolicy() }));
    expect(summary.offered).toBe(workload.arrivalMs.length);
    expect(summary.tasks.reduce((sum, { offered }) => sum + offered, 0)).toBe(summary.offered);
    expect(summary.answered + summary.shed + summary.errors).toBeLessThanOrEqual(summary.offered);
    expect(summary.loads).toBeGreaterThan(3);
    expect(summary.effectiveAccuracy).toBeLessThan(summary.meanAccuracy);
  });
});

describe('queues', () => {
  const tasks = [
    makeTask({ task: 'slow', sloMs: 900 }, [10, 1]),
    makeTask({ task: 'soon', sloMs: 250 }, [10, 1]),
  ];

  test('edf takes the earlier deadline first, ps shares the CPU', () => {
    // All take 100 ms. At 0 a slow one starts; at 10 a slow, at 20 a soon one waits.
    const workload = requestsAt([0, 10, 20], [0, 0, 1]);
    const edf = simulate({ scenario: makeScenario({ tasks, discipline: 'edf' }), workload, policy: idle });
    expect([...edf.latencyMs]).toEqual([100, 290, 180]);
    // From 20 ms on two share: 80 ms of the first take 160 ms (until 180); the soon one has had 80 ms then. The
    // second slow one shares with it: 20 ms more take 40 (until 220), and the rest of it, 80 ms, is alone until 300.
    const ps = simulate({ scenario: makeScenario({ tasks, discipline: 'ps' }), workload, policy: idle });
    expect([...ps.latencyMs].map(Math.round)).toEqual([180, 290, 200]);
  });

  test('two CPUs compute two requests at once, the next waits for the first that is done', () => {
    const run = simulate({
      scenario: makeScenario({ tasks: [tasks[0]!], cpus: 2 }),
      workload: requestsAt([0, 0, 0, 0]),
      policy: idle,
    });
    expect([...run.latencyMs].sort((a, b) => a - b)).toEqual([100, 100, 200, 200]);
  });

  test('what the client does not accept is shed with a reason, and lower accuracy never answers it', () => {
    const picky = makeTask({ minAccuracy: 0.9 }, [10, 1], [40, 0.5]);
    const scenario = makeScenario({ tasks: [picky], residency: 'all' });
    const answered = simulate({ scenario, workload: requestsAt([0, 50]), policy: slackFitPolicy() });
    expect([...answered.versionIndex]).toEqual([0, 0]);
    const cold = makeScenario({ tasks: [picky], residency: 1 });
    const shed = simulate({ scenario: cold, workload: requestsAt([0]), policy: idle });
    expect([...shed.outcome]).toEqual([OUTCOME.shed]);
  });

  test('a batch takes its shared part once', () => {
    const scenario = makeScenario({
      tasks: [makeTask({ batchSharedRatio: 0.2, maxBatch: 4 }, [10, 1])],
    });
    const states: number[] = [];
    const batching: Policy = {
      ...idle,
      dispatch: {
        name: 'batching',
        pick: ({ queue }: DispatchState) => {
          states.push(queue.length);
          return { kind: 'run', index: 0, version: 1, batch: Math.min(4, queue.length) };
        },
      },
    };
    // The first alone until 100; the other three together take 100 · (0.2 + 0.8 · 3) = 260 ms.
    const run = simulate({ scenario, workload: requestsAt([0, 10, 20, 30]), policy: batching });
    expect([...run.latencyMs].map(Math.round)).toEqual([100, 350, 340, 330]);
    expect(states).toEqual([1, 3]);
  });

  test('a dispatch that waits is asked again at its time', () => {
    const waiting: Policy = {
      ...idle,
      dispatch: {
        name: 'waiting',
        pick: ({ nowMs }) =>
          nowMs < 40 ? { kind: 'wait', untilMs: 40 } : { kind: 'run', index: 0, version: 1 },
      },
    };
    const run = simulate({
      scenario: makeScenario({ tasks: [tasks[0]!] }),
      workload: requestsAt([0]),
      policy: waiting,
    });
    expect([...run.latencyMs]).toEqual([140]);
  });

  test('requests given up leave at once', () => {
    const scenario = makeScenario({ tasks: [tasks[1]!] });
    const impatient: Policy = { ...idle, dispatch: servingDispatch({ drop: 'hopeless' }) };
    // Each takes 100 of 250 ms: of four at once the third would end at 300.
    const run = simulate({ scenario, workload: requestsAt([0, 0, 0, 0]), policy: impatient });
    expect([...run.outcome]).toEqual([OUTCOME.answered, OUTCOME.answered, OUTCOME.shed, OUTCOME.shed]);
    expect(summarizeSimulation(run).violationRatio).toBe(0.5);
  });
});

describe('admission', () => {
  // 100 ms each, due 250 ms after arrival: of four at once two can be in time.
  const tasks = [
    makeTask({ sloMs: 250 }, [10, 1]),
    makeTask({ task: 'signs', sloMs: 250, weight: 2 }, [10, 1]),
  ];
  const dispatch = servingDispatch();

  test('of work that cannot all be in time a part is refused as it comes, and the rest is in time', () => {
    const outcomesOf = (admission: 'all' | 'feasible') => {
      const scenario = makeScenario({ tasks, admission });
      const run = simulate({ scenario, workload: requestsAt([0, 0, 0, 0]), policy: { ...idle, dispatch } });
      return { outcome: Array.from(run.outcome), summary: summarizeSimulation(run) };
    };
    const { answered, shed } = OUTCOME;
    expect(outcomesOf('all')).toMatchObject({
      outcome: [answered, answered, answered, answered],
      summary: { late: 2, shed: 0 },
    });
    expect(outcomesOf('feasible')).toMatchObject({
      outcome: [answered, answered, shed, shed],
      summary: { late: 0, shed: 2 },
    });
  });

  test('what weighs more takes the place of what waits and weighs less', () => {
    const scenario = makeScenario({ tasks, admission: 'feasible' });
    const workload = requestsAt([0, 1, 2], [0, 0, 1]);
    const run = simulate({ scenario, workload, policy: { ...idle, dispatch } });
    expect(Array.from(run.outcome)).toEqual([OUTCOME.answered, OUTCOME.shed, OUTCOME.answered]);
  });
});

test('requests without deadline are neither demand nor work that others are routed around', () => {
  const tasks = [makeTask({}, [100, 1]), makeTask({ task: 'nightly', priority: 'batch' }, [100, 1])];
  const seen: [demandRps: number | undefined, queued: number | undefined][][] = [];
  const policy: Policy = {
    name: 'looking',
    decide: (state) => {
      seen.push(state.tasks.map(({ demand, queued }) => [demand.at(-1)?.demandRps, queued]));
      return { actions: [], reason: 'Looks.' };
    },
  };
  // Fifty of each within the first second; the batch class waits its turn behind those with deadlines.
  const times = Array.from({ length: 100 }, (_, i) => 900 + i);
  const workload = requestsAt(
    times,
    times.map((_, i) => i % 2),
  );
  const run = simulate({ scenario: makeScenario({ tasks }), workload, policy });
  expect(seen[0]!.map(([demandRps]) => demandRps)).toEqual([50, 0]);
  expect(seen[0]![0]![1]).toBeGreaterThan(0);
  expect(seen[0]![1]![1]).toBe(0);
  expect(summarizeSimulation(run).tasks.map(({ offered }) => offered)).toEqual([50, 50]);
});

test('a request takes what it costs unbatched, where that was measured', () => {
  const task = makeTask({}, [100, 1]);
  const [variant] = task.variants;
  const profiles = Object.entries(variant!.profiles).map(([target, profile]) => {
    const unbatchedRps = { ...profile.throughputRps, median: 50 };
    return [target, { ...profile, unbatchedRps }] as const;
  });
  const measured = { ...task, variants: [{ ...variant!, profiles: Object.fromEntries(profiles) }] };
  const latenciesOf = (tasks: readonly SimulatedTask[]) =>
    Array.from(
      simulate({ scenario: makeScenario({ tasks }), workload: requestsAt([0, 500]), policy: idle }).latencyMs,
    );
  expect(latenciesOf([task])).toEqual([10, 10]);
  expect(latenciesOf([measured])).toEqual([20, 20]);
});

test('policies do not see versions that are too inaccurate for the task', () => {
  const frontiers: number[][] = [];
  const policy: Policy = {
    name: 'looking',
    decide: ({ tasks: [task] }) => {
      frontiers.push(task!.frontier.map(({ version }) => version));
      return { actions: [], reason: 'Looks.' };
    },
  };
  const scenario = makeScenario({ tasks: [makeTask({ minAccuracy: 0.8 }, [10, 0.9], [20, 0.8], [40, 0.5])] });
  simulate({ scenario, workload: requestsAt([2000]), policy });
  // 0.8 / 0.9 = 0.89 and 0.5 / 0.9 = 0.56.
  expect(frontiers[0]).toEqual([1, 2]);
});

describe('versions', () => {
  const task = makeTask({}, [5, 1], [20, 0.8], [50, 0.5]);
  const steady = requestsAt(Array.from({ length: 40 }, (_, i) => 100 * i));

  test('a switch loads beside the old version, moves over at once, and the old one leaves', () => {
    const seen: PolicyState[] = [];
    const policy: Policy = {
      name: 'once',
      decide(state) {
        seen.push(state);
        return state.nowMs === 1000
          ? { actions: [{ kind: 'switch', task: 'digits', toVersion: 2 }], reason: 'Now.' }
          : { actions: [], reason: 'No.' };
      },
    };
    const scenario = makeScenario({ tasks: [task], residency: 1, loaderWeight: 1 });
    const run = simulate({ scenario, workload: steady, policy });
    // The load takes 600 + 2 · 50 ms of CPU, of which requests of 20 ms in 100 ms leave most.
    const change = run.changes.at(-1)!;
    expect(change.version).toBe(2);
    expect(change.atMs).toBeGreaterThan(1700);
    expect(change.atMs).toBeLessThan(2000);
    for (const [i, index] of run.versionIndex.entries()) {
      const finishedMs = steady.arrivalMs[i]! + run.latencyMs[i]!;
      if (finishedMs < change.atMs) expect(index).toBe(2);
      if (steady.arrivalMs[i]! > change.atMs) expect(index).toBe(1);
    }
    expect(seen.map(({ tasks }) => tasks[0]!.resident)).toEqual([[3], [2], [2]]);
    expect(seen[1]!.lastChangeMs).toBe(1000);
    expect(run.loads).toBe(1);
    expect(summarizeSimulation(run).violationRatio).toBe(0);
  });

  test('the most accurate version serves at the start where that is asked for', () => {
    const task = makeTask({}, [10, 0.9], [20, 0.8], [40, 0.7]);
    const asked = ({
      initial,
      residency,
    }: {
      initial: 'largest' | 'smallest';
      residency: number | 'all';
    }) => {
      const scenario = makeScenario({ tasks: [task], initial, residency });
      const policy = {
        ...staticPolicy({ digits: initial === 'largest' ? 1 : 3 }),
        dispatch: servingDispatch(),
      };
      return simulate({ scenario, workload: requestsAt([10]), policy }).versionIndex[0];
    };
    for (const residency of [1, 2, 'all'] as const) {
      expect(asked({ initial: 'largest', residency })).toBe(0);
      expect(asked({ initial: 'smallest', residency })).toBe(2);
    }
  });

  test('a load of low weight hardly delays requests, one of full weight does', () => {
    const crowded = requestsAt(Array.from({ length: 130 }, (_, i) => 25 * i));
    const worst = (loaderWeight: number) => {
      const policy = onceAt(1000, { actions: [], residency: [{ kind: 'load', task: 'digits', version: 1 }] });
      const scenario = makeScenario({ tasks: [task], residency: 2, loaderWeight });
      return Math.max(...simulate({ scenario, workload: crowded, policy }).latencyMs);
    };
    expect(worst(0.015)).toBeLessThan(22);
    expect(worst(1)).toBeGreaterThan(38);
  });

  test('residency is bounded: one more may be there while it replaces another', () => {
    const seen: (readonly number[])[] = [];
    const greedy: Policy = {
      name: 'greedy',
      decide({ tasks }) {
        seen.push([...tasks[0]!.resident!, ...tasks[0]!.loading!]);
        const wanted = [1, 2, 3].map((version) => ({ kind: 'load' as const, task: 'digits', version }));
        return { actions: [], residency: wanted, reason: 'All.' };
      },
    };
    const scenario = makeScenario({ tasks: [task], residency: 1 });
    simulate({ scenario, workload: steady, policy: greedy });
    expect(Math.max(...seen.map((versions) => versions.length))).toBeLessThanOrEqual(2);
  });

  test('unloads come after the loads of the same task, and the last version stays', () => {
    const policy = onceAt(1000, {
      actions: [],
      residency: [
        { kind: 'unload', task: 'digits', version: 3 },
        { kind: 'load', task: 'digits', version: 2 },
      ],
    });
    const run = simulate({
      scenario: makeScenario({ tasks: [task], residency: 1 }),
      workload: steady,
      policy,
    });
    expect(run.outcome.every((outcome) => outcome === OUTCOME.answered)).toBe(true);
    expect(run.versionIndex.at(-1)).toBe(1);
    const alone = onceAt(1000, {
      actions: [],
      residency: [{ kind: 'unload', task: 'digits', version: 3 }],
    });
    const kept = simulate({
      scenario: makeScenario({ tasks: [task], residency: 1 }),
      workload: steady,
      policy: alone,
    });
    expect([...new Set(kept.versionIndex)]).toEqual([2]);
  });

  test('policies see demand, CPU, what versions took, and their plan reaches the dispatch', () => {
    const states: PolicyState[] = [];
    const plans: unknown[] = [];
    const policy: Policy = {
      name: 'observer',
      decide(state) {
        states.push(state);
        return { actions: [], reason: 'Seen.', plan: { at: state.nowMs }, memory: states.length };
      },
      dispatch: {
        name: 'observer',
        pick(state) {
          plans.push(state.plan);
          return { kind: 'run', index: 0, version: 3 };
        },
      },
    };
    const scenario = makeScenario({ tasks: [task], profileFactor: 1.5 });
    simulate({ scenario, workload: steady, policy });
    const second = states[1]!;
    expect(second.memory).toBe(1);
    // The request at 1000 ms comes just before the tick.
    expect(second.tasks[0]!.demand.map(({ demandRps }) => demandRps)).toEqual([11, 10]);
    // 10 requests of 20 ms that really take 30.
    expect(second.cpu.at(-1)!.utilization).toBeCloseTo(0.3, 6);
    const [service] = second.tasks[0]!.service!;
    expect(service).toMatchObject({ version: 3, count: 10 });
    expect(service!.meanMs).toBeCloseTo(30, 6);
    expect(service!.meanExpectedMs).toBeCloseTo(20, 6);
    expect(service!.meanDeviation).toBeCloseTo(0.5, 6);
    expect(plans[0]).toBeUndefined();
    expect(plans.at(-1)).toEqual({ at: 3000 });
  });

  test('what a policy names must be there', () => {
    const scenario = makeScenario({ tasks: [task], residency: 1 });
    const wrong: [Policy, RegExp][] = [
      [
        onceAt(1000, { actions: [{ kind: 'switch', task: 'digits', toVersion: 9 }] }),
        /once named version 9 of digits/,
      ],
      [onceAt(1000, { actions: [{ kind: 'switch', task: 'signs', toVersion: 1 }] }), /the task signs/],
      [
        { ...idle, dispatch: { name: 'x', pick: () => ({ kind: 'run', index: 0, version: 1 }) } },
        /version 1 of digits, which is not resident/,
      ],
      [
        { ...idle, dispatch: { name: 'x', pick: () => ({ kind: 'run', index: 7, version: 3 }) } },
        /request 7 of 1/,
      ],
      [
        { ...idle, dispatch: { name: 'x', pick: () => ({ kind: 'run', index: 0, version: 3, batch: 2 }) } },
        /a batch of 2 .* 1 fit/,
      ],
      ...NO_DECISIONS.map(([value, message]): [Policy, RegExp] => [
        { name: 'own', decide: () => value as Decision },
        message,
      ]),
      ...NO_PICKS.map(([value, message]): [Policy, RegExp] => [
        { ...idle, dispatch: { name: 'own', pick: () => value as DispatchDecision } },
        message,
      ]),
      ...[0, -5, Number.NaN, Number.POSITIVE_INFINITY].map((periodMs): [Policy, RegExp] => [
        { ...idle, periodMs },
        /Policy idle must have a periodMs of at least 1/,
      ]),
    ];
    for (const [policy, message] of wrong) {
      const run = () => simulate({ scenario, workload: steady, policy });
      expect(run).toThrow(BonsaiError);
      expect(run).toThrow(message);
    }
  });
});

describe('several servers', () => {
  const task = makeTask({}, [10, 1]);

  test('least work sends requests where least is committed, round robin in turn', () => {
    const workload = requestsAt([0, 1, 2, 3]);
    for (const routing of ['leastWork', 'roundRobin'] as const) {
      const run = simulate({
        scenario: makeScenario({ tasks: [task], servers: 4, routing }),
        workload,
        policy: idle,
      });
      expect(new Set(run.server).size).toBe(4);
      expect([...run.latencyMs].map(Math.round)).toEqual([100, 100, 100, 100]);
    }
  });

  test('a server that fails loses what it computes; what waits goes to the others; it comes back cold', () => {
    const times = Array.from({ length: 400 }, (_, i) => 60 * i);
    const scenario = makeScenario({
      tasks: [task],
      servers: 2,
      failures: [{ server: 1, fromMs: 5_000, untilMs: 10_000 }],
    });
    const run = simulate({ scenario, workload: requestsAt(times), policy: staticPolicy('largest') });
    const { errors, answered, offered } = summarizeSimulation(run);
    expect(errors).toBe(1);
    expect(answered).toBe(offered - 1);
    const whileDown = times.flatMap((time, i) => (time > 5_000 && time < 10_000 ? [run.server[i]!] : []));
    expect(new Set(whileDown)).toEqual(new Set([0]));
    const later = times.flatMap((time, i) => (time > 12_000 ? [run.server[i]!] : []));
    expect(new Set(later)).toEqual(new Set([0, 1]));
    expect(run.loads).toBe(1);
  });

  test('with no server left requests fail', () => {
    const scenario = makeScenario({ tasks: [task], failures: [{ server: 0, fromMs: 100, untilMs: 300 }] });
    const run = simulate({ scenario, workload: requestsAt([0, 200, 5_000]), policy: idle });
    expect([...run.outcome]).toEqual([OUTCOME.answered, OUTCOME.error, OUTCOME.answered]);
  });
});
