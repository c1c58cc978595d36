import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { frontierOf } from '../repository/frontier.ts';
import type { CpuSample, DemandSample, Policy, PolicyState } from './policy.ts';
import { dispatchPolicyByName } from './registry.ts';
import { makeFrontier, makeVariant } from './variants.fixture.ts';

/** Every policy keeps these laws; a new one is added by its name. */
const policies = [
  'static:largest',
  'static:smallest',
  'static:task0=2',
  'trivial:inverseThroughput',
  'trivial:latency',
  'trivial:flops',
  'maximal-metric:0.05',
  'maximal-metric:latency:task0=0.1',
  'model-switching',
  'infaas',
  'infaas:published',
  'hpa',
  'kpa',
  'ray',
  'proteus',
  'infadapter',
  'blind-split',
  'slackfit',
  'bonsai',
].map((name) => dispatchPolicyByName(name));

/** These go one version up after 300 or 600 s; 8 steps take up to 4,900. */
const SLOW = new Set(['hpa', 'ray']);

/** Multiples of 0.001, 0 among them: the world counts requests and ticks and knows no subnormal numbers. */
const samples = fc.array(
  fc.integer({ min: 0, max: 1500 }).map((thousandths) => thousandths / 1000),
  { maxLength: 30 },
);

const state: fc.Arbitrary<PolicyState> = fc
  .record({
    tasks: fc.array(
      fc.record({
        figures: fc.array(
          fc.record({
            accuracy: fc.double({ min: 0, max: 1, noNaN: true }),
            throughputRps: fc.double({ min: 0.5, max: 5000, noNaN: true }),
          }),
          { maxLength: 6 },
        ),
        servingVersion: fc.option(fc.integer({ min: 1, max: 8 }), { nil: undefined, freq: 8 }),
        loadingVersion: fc.option(fc.integer({ min: 1, max: 8 }), { nil: undefined, freq: 1 }),
        demand: samples,
        scaleRps: fc.constantFrom(0, 1, 30, 1000),
        weight: fc.constantFrom(1, 1, 0, 3),
      }),
      { maxLength: 3 },
    ),
    cpu: samples,
    lastChangeMs: fc.option(fc.integer({ min: 0, max: 100_000 }), { nil: undefined }),
    cpuBudget: fc.constantFrom(0.5, 1, 2),
  })
  .map(({ tasks, cpu, lastChangeMs, cpuBudget }) => ({
    nowMs: 100_000,
    cpu: cpu.map((utilization, i) => ({ atMs: 100_000 - (cpu.length - 1 - i) * 1000, utilization })),
    lastChangeMs,
    cpuBudget,
    tasks: tasks.map(({ figures, demand, scaleRps, ...task }, k) => ({
      ...task,
      task: `task${k}`,
      sloMs: 400,
      demand: demand.map((level, i) => ({
        atMs: 100_000 - (demand.length - 1 - i) * 1000,
        demandRps: level * scaleRps,
      })),
      frontier: frontierOf(
        figures
          .toSorted((a, b) => b.accuracy - a.accuracy)
          .map((figure, i) => makeVariant({ version: i + 1, ...figure })),
        'inverseThroughput',
      ),
    })),
  }));

describe.each(policies)('$name', (policy) => {
  test('same state, same decision; the input is untouched; reasons are given; versions are on the frontier', () => {
    fc.assert(
      fc.property(state, (made) => {
        const frozen = deepFreeze(made);
        const copy = structuredClone(made);
        const decision = policy.decide(frozen);
        expect(policy.decide(copy)).toEqual(decision);
        expect(frozen).toEqual(copy);
        expect(decision.reason).toMatch(/\S.*\.$/);
        expect(decision.reason).not.toMatch(/NaN|undefined|Infinity/);
        for (const { task, toVersion } of decision.actions) {
          const known = made.tasks.find((candidate) => candidate.task === task);
          expect(known?.frontier.map((variant) => variant.version)).toContain(toVersion);
        }
        const named = decision.actions.map((action) => action.task);
        expect(new Set(named).size).toBe(named.length);
      }),
      { seed: 7, numRuns: 300 },
    );
  });

  test('under steady demand the allocation settles and stays', () => {
    for (const demandRps of [0, 0.5, 3, 6, 9, 14, 20, 33, 70, 150]) {
      for (const servingVersion of [1, 4, 8]) {
        const settledS = SLOW.has(policy.name) ? 6000 : 300;
        const changesS = steadyRun(policy, demandRps, servingVersion, settledS + 300);
        // From 8 steps away, one step up each 31 s takes 250 s; what follows must be still.
        expect(changesS.filter((second) => second > settledS)).toEqual([]);
      }
    }
  });
});

/**
 * A fluid model of one CPU: each second utilization is demand × cost, at most 1. Versions differ by
 * 1.3 in cost, less than the 70 % / 50 % = 1.4 beyond which steps up by latency or flops swing (see trivial.ts).
 * @returns the seconds at which the version changed
 */
function steadyRun(policy: Policy, demandRps: number, firstVersion: number, seconds: number): number[] {
  const frontier = makeFrontier(
    ...Array.from({ length: 12 }, (_, i) => [0.95 - 0.01 * i, 8 * 1.3 ** i] as const),
  );
  const cpu: CpuSample[] = [];
  const demand: DemandSample[] = [];
  const changesS: number[] = [];
  let servingVersion = firstVersion;
  let lastChangeMs: number | undefined;
  let memory: unknown;
  for (let second = 1; second <= seconds; second++) {
    const nowMs = second * 1000;
    const throughputRps = 8 * 1.3 ** (servingVersion - 1);
    cpu.push({ atMs: nowMs, utilization: Math.min(1, demandRps / throughputRps) });
    demand.push({ atMs: nowMs, demandRps });
    const task = { task: 'task0', weight: 1, sloMs: 400, servingVersion, demand, frontier };
    const decision = policy.decide({ nowMs, tasks: [task], cpu, lastChangeMs, cpuBudget: 1, memory });
    memory = decision.memory;
    for (const { toVersion } of decision.actions) {
      servingVersion = toVersion;
      lastChangeMs = nowMs;
      changesS.push(second);
    }
  }
  return changesS;
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const member of Object.values(value)) deepFreeze(member);
  }
  return value;
}
