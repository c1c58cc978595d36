import { expect, test } from 'vitest';
import { infaasPolicy } from './infaas.ts';
import { maximalMetricPolicy } from './maximal-metric.ts';
import { modelSwitchingPolicy, onTimeTable } from './model-switching.ts';
import type { Policy, PolicyState } from './policy.ts';
import { replicaAutoscalerPolicy } from './replica-autoscalers.ts';
import { makeFrontier, makeState, makeTask } from './variants.fixture.ts';

// Services of 200, 100, 50 and 20 ms.
const frontier = makeFrontier([1, 5], [0.9, 10], [0.8, 20], [0.6, 50]);

function switchesOf(policy: Policy, state: PolicyState): Record<string, number> {
  return Object.fromEntries(policy.decide(state).actions.map(({ task, toVersion }) => [task, toVersion]));
}

test('maximal-metric never considers a version at or above the limit', () => {
  // Idle CPU asks trivial to go up; at 1 req/s 65 % would carry version 1.
  const state = makeState({
    utilization: 0.05,
    tasks: [makeTask({ frontier, demandRps: 1, servingVersion: 3 })],
  });
  expect(switchesOf(maximalMetricPolicy({ limit: 1 }), state)).toEqual({ digits: 1 });
  expect(switchesOf(maximalMetricPolicy({ limit: 0.2 }), state)).toEqual({ digits: 2 });
  expect(switchesOf(maximalMetricPolicy({ limit: { digits: 0.1 } }), state)).toEqual({});
  expect(switchesOf(maximalMetricPolicy({ limit: { signs: 0.01 } }), state)).toEqual({ digits: 1 });
});

test('maximal-metric leaves a version beyond the limit at once, and keeps the smallest where all are beyond', () => {
  const state = makeState({ tasks: [makeTask({ frontier, demandRps: 1, servingVersion: 1 })] });
  expect(switchesOf(maximalMetricPolicy({ limit: 0.1 }), state)).toEqual({ digits: 3 });
  expect(switchesOf(maximalMetricPolicy({ limit: 0.001 }), state)).toEqual({ digits: 4 });
  expect(switchesOf(maximalMetricPolicy({ limit: 25, metric: 'flops' }), state)).toEqual({ digits: 4 });
});

test("model-switching's table falls with demand, and is 1 with an idle server and 0 with a hopeless one", () => {
  const table = onTimeTable();
  expect(table(50, 400, 1, 0)).toBe(1);
  expect(table(800, 400, 1, 0)).toBe(0);
  expect(table(50, 400, 30, 0)).toBe(0);
  const row = [2, 6, 10, 14, 18].map((rps) => table(50, 400, rps, 0));
  expect(row).toEqual(row.toSorted((a, b) => b - a));
  // Against M/D/1, whose P(wait > x) at ρ = 0.9 is about exp(−2 (1 − ρ) x / (ρ s)): here exp(−1.5) for 350 ms.
  expect(table(50, 400, 18, 0)).toBeGreaterThan(1 - 1.3 * Math.exp(-1.5));
  expect(table(50, 400, 18, 0)).toBeLessThan(1);
});

test('model-switching takes the highest accuracy × on time, and later tasks reckon with earlier ones', () => {
  const task = (name: string, demandRps: number) =>
    makeTask({ task: name, frontier, demandRps, servingVersion: 4 });
  const policy = modelSwitchingPolicy();
  expect(switchesOf(policy, makeState({ tasks: [task('a', 0.2)] }))).toEqual({ a: 1 });
  expect(switchesOf(policy, makeState({ tasks: [task('a', 12)] }))).toEqual({ a: 3 });
  expect(switchesOf(policy, makeState({ tasks: [task('a', 60)] }))).toEqual({});
  const both = switchesOf(policy, makeState({ tasks: [task('a', 4), task('b', 4)] }));
  expect(both.b).toBeGreaterThan(both.a!);
});

test('infaas steps down when its share is exceeded and up after ten looks with room', () => {
  const policy = infaasPolicy();
  const state = (demandRps: number, servingVersion: number, memory?: unknown) =>
    makeState({ tasks: [makeTask({ frontier, demandRps, servingVersion })], memory });
  // One task may use all: version 2 carries 9.5 req/s, version 3 19.
  expect(switchesOf(policy, state(9, 2))).toEqual({});
  expect(switchesOf(policy, state(12, 2))).toEqual({ digits: 3 });
  expect(switchesOf(policy, state(40, 2))).toEqual({ digits: 4 });
  let memory: unknown;
  for (let look = 1; look <= 10; look++) {
    const decision = policy.decide(state(7, 3, memory));
    expect(decision.actions.length).toBe(look === 10 ? 1 : 0);
    memory = decision.memory;
  }
});

test('infaas as published keeps to the cheapest version that meets the accuracy floor', () => {
  const state = makeState({ tasks: [makeTask({ frontier, demandRps: 1, servingVersion: 1 })] });
  expect(switchesOf(infaasPolicy({ reading: 'published' }), state)).toEqual({ digits: 4 });
  expect(switchesOf(infaasPolicy({ reading: 'published', accuracyFloor: 0.75 }), state)).toEqual({
    digits: 3,
  });
});

test('hpa steps down above 77 % CPU at its period, and up only after 300 s below', () => {
  const policy = replicaAutoscalerPolicy('hpa');
  const decisions = (utilization: number, seconds: number) => {
    let memory: unknown;
    const changes: [number, number][] = [];
    for (let second = 1; second <= seconds; second++) {
      const state = makeState({
        utilization,
        tasks: [makeTask({ frontier, demandRps: 2, servingVersion: 3 })],
        nowMs: 1000 * second,
        memory,
      });
      const decision = policy.decide(state);
      memory = decision.memory;
      for (const { toVersion } of decision.actions) changes.push([second, toVersion]);
    }
    return changes;
  };
  expect(decisions(0.75, 60)).toEqual([]);
  expect(decisions(0.9, 20)).toEqual([[15, 4]]);
  expect(decisions(0.2, 340)).toEqual([[315, 2]]);
});
