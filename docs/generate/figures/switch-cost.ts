import type { Policy } from '../../../src/policy/policy.ts';
import { chart } from '../../../src/report/chart.ts';
import { geometricChain } from '../../../src/simulate/chain.ts';
import { makeScenario, scenarioDefaults } from '../../../src/simulate/scenario.ts';
import { simulate } from '../../../src/simulate/simulate.ts';
import { drawWorkload } from '../../../src/simulate/workload.ts';

const DEMAND_RPS = 16;
const SWITCH_MS = 5_000;
const LOADERS = [
  ['loads as any thread', 1],
  ['loads at low priority', scenarioDefaults.loaderWeight],
] as const;

/** Latencies around one switch, where the load competes with requests and where it does not. */
export function switchCost(): string {
  const variants = geometricChain({ slowestRps: 20, fastestRps: 40, versions: 2 });
  // Once, from the most accurate to the smaller version.
  const policy: Policy = {
    name: 'once',
    decide: ({ nowMs }) => ({
      actions: nowMs >= SWITCH_MS ? [{ kind: 'switch', task: 'task', toVersion: 2 }] : [],
      reason: 'It is time.',
    }),
  };
  const demand = { kind: 'constant', rps: DEMAND_RPS, durationMs: 15_000 } as const;
  const workload = drawWorkload([demand], { seed: 1, spacing: 'even' });
  return chart({
    id: 'switch-cost',
    title: `Latency of each request while a version loads from ${SWITCH_MS / 1000} s on`,
    height: 280,
    x: { title: 'time (s)', domain: [0, 15] },
    y: { title: 'latency (ms)' },
    rules: [{ y: 400, name: 'objective' }],
    series: LOADERS.map(([name, loaderWeight]) => {
      const scenario = makeScenario({
        tasks: [{ task: 'task', sloMs: 3_600_000, weight: 1, variants }],
        discipline: 'ps',
        residency: 1,
        initial: 'largest',
        loaderWeight,
        loadMs: 1_000,
      });
      const { latencyMs } = simulate({ scenario, workload, policy });
      return {
        name,
        kind: 'dots-and-line' as const,
        points: Array.from(latencyMs, (y, i) => ({ x: workload.arrivalMs[i]! / 1000, y })),
      };
    }),
  });
}
