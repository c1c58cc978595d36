import { describe, expect, it } from 'vitest';
import { dueTimes, durationMsOf } from '../../load/arrivals.ts';
import { makeManifest } from '../results.fixture.ts';
import { volatileDemand } from './demand.ts';
import { oracleOn, simulatedOn } from './expected.ts';
import { feasibleOverload, overloadRates, serverScenario } from './scenario.ts';

// The most accurate versions answer 100 requests a second each, the smaller ones 200.
const scenario = serverScenario([makeManifest('a', [0.9, 0.8]), makeManifest('b', [0.99, 0.5])], 400);

describe('demand for twice the CPU', () => {
  it('is the same part of it for each task', () => {
    // 2 × 100 / 2 tasks.
    expect(overloadRates(scenario, 2)).toEqual([100, 100]);
  });

  it('keeps its means behind a warm-up in which it climbs', async () => {
    const [demand] = await volatileDemand(
      {},
      { meansRps: [50], durationMs: 60_000, warmUpMs: 10_000, seed: 3 },
    );
    expect(durationMsOf(demand!)).toBe(70_000);
    const due = dueTimes(demand!, { spacing: 'even', seed: 1 });
    const counted = due.filter((atMs) => atMs >= 10_000).length;
    expect(counted / 60).toBeCloseTo(50, 0);
    expect(due.filter((atMs) => atMs < 2_000).length).toBeLessThan(
      due.filter((atMs) => atMs >= 8_000 && atMs < 10_000).length,
    );
  });
});

describe('the load of the experiments', () => {
  it('is twice what the most accurate versions can, where the fastest can do far more', () => {
    const wide = serverScenario([makeManifest('a', [0.9, 0.8, 0.7, 0.6])], 400);
    expect(feasibleOverload(wide)).toBe(2);
  });

  it('fills the fastest versions by two fifths at most', () => {
    // They are twice as fast: at the whole of what the most accurate can, they would be half filled.
    expect(feasibleOverload(scenario)).toBeCloseTo(0.8);
  });
});

describe('what is expected of a run', () => {
  it('bounds every policy by perfect knowledge, and has violations where only the largest serve', async () => {
    // Too much for the largest; three fifths of what the smaller ones can.
    const meansRps = overloadRates(scenario, 1.2);
    const demand = await volatileDemand({}, { meansRps, durationMs: 20_000, warmUpMs: 5_000, seed: 1 });
    const arrivals = {
      due: demand.map((profile, k) => dueTimes(profile, { spacing: 'poisson', seed: k })),
      countedFromMs: 5_000,
      lengthMs: 25_000,
      seed: 1,
    };
    const oracle = oracleOn(scenario, arrivals);
    const [largest, ours] = ['static:largest', 'bonsai'].map((policy) =>
      simulatedOn(policy, scenario, arrivals),
    );
    expect(largest!.violationRatio).toBeGreaterThan(0.1);
    expect(ours!.violationRatio).toBeLessThan(oracle.violationRatio + 0.02);
    expect(ours!.effectiveAccuracy).toBeLessThanOrEqual(oracle.effectiveAccuracy + 0.005);
    // Only what came after the warm-up counts.
    const counted = arrivals.due.flatMap((due) => [...due].filter((atMs) => atMs >= 5_000)).length;
    expect([oracle.offered, ours!.offered]).toEqual([counted, counted]);
  });
});
