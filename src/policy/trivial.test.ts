import { describe, expect, test } from 'vitest';
import { trivialDefaults, trivialPolicy } from './trivial.ts';
import { makeFrontier, makeState, makeTask, makeVariant } from './variants.fixture.ts';

const policy = trivialPolicy();
/** Throughputs double from step to step: 10, 20, 40, 80, 160 req/s. */
const doubling = makeFrontier([0.95, 10], [0.94, 20], [0.92, 40], [0.88, 80], [0.8, 160]);
/** Steps of a quarter, as in a finely pruned family: 10, 12.5, 15.6, 19.5, 24.4, 30.5 req/s. */
const fine = makeFrontier([0.95, 10], [0.94, 12.5], [0.93, 15.6], [0.92, 19.5], [0.91, 24.4], [0.9, 30.5]);

function decide(
  utilization: number,
  demandRps: number,
  servingVersion: number,
  frontier = doubling,
  more = {},
) {
  const tasks = [makeTask({ frontier, demandRps, servingVersion })];
  return policy.decide(makeState({ utilization, tasks, ...more }));
}

const to = (toVersion: number, task = 'digits') => [{ kind: 'switch', task, toVersion }];

test('the constants are those of the thesis', () => {
  expect(trivialDefaults).toMatchObject({
    samplePeriodMs: 1000,
    windowMs: 10_000,
    sampleCapacity: 20,
    holdMs: 15_000,
    stepUpHoldMs: 30_000,
    stepDownUtilization: 0.7,
    stepUpUtilization: 0.5,
    minReductionRatio: 0.4,
    stepUpGoalUtilization: 0.65,
    stepUpMultiplierLimit: 1.2,
  });
});

describe('step down', () => {
  test('above 70 % mean CPU it takes the first allocation with at least 40 % less metric', () => {
    // Metric 9 / 10 = 0.9; the limit 0.6 × 0.9 = 0.54 admits version 2 with 9 / 20 = 0.45.
    expect(decide(0.9, 9, 1).actions).toEqual(to(2));
  });

  test('it skips versions that save less than 40 %, as in figure 5.14 of the thesis', () => {
    // From 1 / 10 the limit is 0.06 s: 1 / 12.5 = 0.08 and 1 / 15.6 = 0.064 are too much, 1 / 19.5 = 0.051 fits.
    const decision = decide(0.9, 9, 1, fine);
    expect(decision.actions).toEqual(to(4));
    expect(decision.reason).toBe(
      'Mean CPU 90.0 % is above 70.0 %: down to 48.7 % less inverseThroughput: digits from version 1 to 4 at 9.00 req/s.',
    );
  });

  test('where nothing saves 40 % it takes the smallest, and stays once it is there', () => {
    // From 1 / 24.4 = 0.041 the limit is 0.0246; the smallest, 1 / 30.5 = 0.0328, is the best there is.
    expect(decide(0.9, 25, 5, fine).actions).toEqual(to(6));
    const decision = decide(0.9, 40, 6, fine);
    expect(decision.actions).toEqual([]);
    expect(decision.reason).toContain('every task with demand has its smallest version');
  });

  test('below 70 % it stays', () => {
    expect(decide(0.699, 7, 1).actions).toEqual([]);
  });

  test('only the last 10 s count', () => {
    const cpu = Array.from({ length: 20 }, (_, i) => ({
      atMs: 81_000 + 1000 * i,
      utilization: i < 10 ? 1 : 0.6,
    }));
    expect(decide(0, 6, 1, doubling, { cpu }).actions).toEqual([]);
  });

  test('it moves the task whose slope is flattest', () => {
    const tasks = [
      makeTask({ task: 'a', frontier: makeFrontier([0.9, 10], [0.89, 20]), demandRps: 1 }),
      makeTask({ task: 'b', frontier: makeFrontier([0.9, 10], [0.89, 40]), demandRps: 8 }),
    ];
    // Metric 0.1 + 0.8 = 0.9, limit 0.54. b saves 8 × 0.075 = 0.6 for the same loss as a's 0.05: 0.1 + 0.2 = 0.3.
    expect(policy.decide(makeState({ utilization: 0.9, tasks })).actions).toEqual(to(2, 'b'));
  });
});

describe('hold', () => {
  test('nothing moves until more than 15 s after a change', () => {
    expect(decide(1, 9, 1, doubling, { lastChangeMs: 85_000 }).actions).toEqual([]);
    expect(decide(1, 9, 1, doubling, { lastChangeMs: 84_999 }).actions).toEqual(to(2));
  });

  test('steps up wait for more than 30 s', () => {
    // 3 req/s on version 3: 7.5 %; multiplier 65 / 7.5 = 8.67, version 1 costs 4 times as much.
    expect(decide(0.075, 3, 3, doubling, { lastChangeMs: 70_000 }).actions).toEqual([]);
    expect(decide(0.075, 3, 3, doubling, { lastChangeMs: 69_999 }).actions).toEqual(to(1));
  });

  test('a version that is loading is waited for', () => {
    const tasks = [makeTask({ frontier: doubling, demandRps: 9, loadingVersion: 3 })];
    expect(policy.decide(makeState({ utilization: 1, tasks })).reason).toBe(
      'Version 3 of digits is loading.',
    );
  });

  test('timeScale shortens every time', () => {
    const quick = trivialPolicy({ timeScale: 0.1 });
    expect(quick.periodMs).toBe(100);
    const state = (lastChangeMs: number) =>
      makeState({ utilization: 1, lastChangeMs, tasks: [makeTask({ frontier: doubling, demandRps: 9 })] });
    expect(quick.decide(state(98_500)).actions).toEqual([]);
    expect(quick.decide(state(98_499)).actions).toEqual(to(2));
  });
});

describe('step up by inverse throughput', () => {
  test('the example of the thesis: 50 to 10 req/s at a demand of 20 would take 200 % CPU and is not done', () => {
    // Observed and predicted 20 / 50 = 40 %: multiplier 65 / 40 = 1.625 < 5.
    const decision = decide(0.4, 20, 2, makeFrontier([0.9, 10], [0.8, 50]));
    expect(decision.actions).toEqual([]);
    expect(decision.reason).toContain('may grow 1.625 times (65.0 % / 40.0 %)');
    expect(decision.notice).toBeUndefined();
  });

  test('it takes the largest allocation below the multiplier', () => {
    // 8 / 19.5 = 41 %: multiplier 1.585; version 2 costs 19.5 / 12.5 = 1.56 times, version 1 1.95 times.
    expect(decide(8 / 19.5, 8, 4, fine).actions).toEqual(to(2));
  });

  test('the maximal, not the mean CPU must be below 50 %', () => {
    const cpu = Array.from({ length: 10 }, (_, i) => ({
      atMs: 91_000 + 1000 * i,
      utilization: i === 4 ? 0.55 : 0.1,
    }));
    expect(decide(0, 4, 3, doubling, { cpu }).actions).toEqual([]);
  });

  test('CPU that the metric does not explain counts up to 1.2 times the predicted, and is told', () => {
    // Predicted 11 / 76 = 14.5 %, observed 35 %, as with version V6 in section 5.4 of the thesis.
    // By observation the multiplier were 65 / 35 = 1.857; it is 65 / (1.2 × 14.5) = 3.743, admitting 76 / 25 = 3.04.
    const frontier = makeFrontier([0.95, 15], [0.9, 25], [0.8, 76]);
    const decision = decide(0.35, 11, 3, frontier);
    expect(decision.actions).toEqual(to(2));
    expect(decision.reason).toContain('may grow 3.742 times');
    expect(decision.notice).toContain('Observed CPU 35.0 % is above 1.2 × the predicted 14.5 %');
  });

  test('the notice is left out when the server is all but idle', () => {
    expect(decide(0.04, 0.1, 5).notice).toBeUndefined();
  });

  test('a server with two CPUs is predicted by the CPUs of the profile', () => {
    // Measured on 1 CPU at 10 req/s; 6 req/s on a budget of 2 are 30 %, not 60 %.
    const frontier = [makeVariant({ version: 1, accuracy: 0.9, throughputRps: 10, cpus: 1 })];
    expect(decide(0.35, 6, 1, frontier, { cpuBudget: 2 }).notice).toBeUndefined();
    expect(decide(0.37, 6, 1, frontier, { cpuBudget: 2 }).notice).toContain('the predicted 30.0 %');
  });

  test('an observed CPU of 0 % leads to the prediction, not to a division by zero', () => {
    // 65 / (1.2 × 30 / 160) = 2.89: version 4 (twice the cost) fits, version 3 (4 times) does not.
    expect(decide(0, 30, 5).actions).toEqual(to(4));
  });
});

describe('step up by latency and flops', () => {
  test.each(['latency', 'flops'] as const)('%s goes up by the smallest increment', (metric) => {
    const tasks = [makeTask({ frontier: doubling, demandRps: 1, servingVersion: 5 })];
    expect(trivialPolicy({ metric }).decide(makeState({ utilization: 0.1, tasks })).actions).toEqual(to(4));
  });

  test('nothing is above the largest', () => {
    const tasks = [makeTask({ frontier: doubling, demandRps: 1 })];
    expect(
      trivialPolicy({ metric: 'flops' }).decide(makeState({ utilization: 0.1, tasks })).reason,
    ).toContain('every task with demand has its largest version');
  });
});

describe('rearrangement', () => {
  const frontier = makeFrontier([1, 10], [0.8, 20]);
  const tasks = (a: number, b: number) => [
    makeTask({ task: 'a', frontier, demandRps: a, servingVersion: 1 }),
    makeTask({ task: 'b', frontier, demandRps: b, servingVersion: 2 }),
  ];

  test('between the thresholds, accuracy that costs no more at the present demand is taken', () => {
    // a is asked 5 times, b once a second: metric 0.5 + 0.05 = 0.55, accuracy (5 + 0.8) / 6.
    // Chain: 0.6 (1, 1), 0.35 (2, 1), 0.3 (2, 2). 0.35 costs less but is less accurate: nothing to gain.
    expect(policy.decide(makeState({ utilization: 0.6, tasks: tasks(5, 1) })).actions).toEqual([]);
    // a once, b 5 times, with version 2 of b at only 0.8: 0.1 + 0.25 = 0.35. The chain's second element steps b down
    // again, so the current one is the chain's own.
    expect(policy.decide(makeState({ utilization: 0.6, tasks: tasks(1, 5) })).actions).toEqual([]);
    // Where b's largest costs a fraction of a's: 8 × 0.1 + 8 × 0.005 = 0.84 with accuracy (1 + 0.8) / 2.
    const cheap = makeFrontier([1, 160], [0.8, 200]);
    const lopsided = [
      makeTask({
        task: 'a',
        frontier: makeFrontier([1, 10], [0.99, 20], [0.5, 40]),
        demandRps: 8,
        servingVersion: 1,
      }),
      makeTask({ task: 'b', frontier: cheap, demandRps: 8, servingVersion: 2 }),
    ];
    // Stepping a down (0.99, 0.4) pays for b's largest (1, 0.05): (0.99 + 1) / 2 for 0.45.
    const decision = policy.decide(makeState({ utilization: 0.6, tasks: lopsided }));
    expect(decision.actions).toEqual([...to(2, 'a'), ...to(1, 'b')]);
    expect(decision.reason).toContain('accuracy 99.5 % instead of 90.0 % costs no more');
  });
});

describe('at the edges', () => {
  test('without a sample it stays', () => {
    expect(decide(0, 5, 1, doubling, { cpu: [] }).reason).toBe(
      'There is no CPU sample of the last 10 s yet.',
    );
  });

  test('without demand nothing moves, whatever the CPU', () => {
    expect(decide(0, 0, 4).actions).toEqual([]);
    expect(decide(1, 0, 4).actions).toEqual([]);
    expect(decide(1, 0, 4).reason).toBe('No task had demand in the last 10 s (mean CPU 100.0 %).');
  });

  test('a task without demand keeps its version while others move', () => {
    const tasks = [
      makeTask({ task: 'busy', frontier: doubling, demandRps: 9 }),
      makeTask({ task: 'idle', frontier: doubling, demandRps: 0, servingVersion: 4 }),
    ];
    expect(policy.decide(makeState({ utilization: 0.9, tasks })).actions).toEqual(to(2, 'busy'));
  });

  test('a task that nothing serves gets its smallest version at once', () => {
    const tasks = [makeTask({ frontier: doubling, servingVersion: undefined })];
    expect(policy.decide(makeState({ cpu: [], tasks, lastChangeMs: 99_999 })).actions).toEqual(to(5));
  });

  test('an option given as undefined is the default', () => {
    expect(trivialPolicy({ holdMs: undefined }).periodMs).toBe(1000);
    expect(trivialPolicy({ metric: 'flops' }).name).toBe('trivial:flops');
  });
});
