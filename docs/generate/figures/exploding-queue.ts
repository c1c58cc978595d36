import { staticPolicy } from '../../../src/policy/static.ts';
import { chart } from '../../../src/report/chart.ts';
import { geometricChain } from '../../../src/simulate/chain.ts';
import { makeScenario } from '../../../src/simulate/scenario.ts';
import { simulate } from '../../../src/simulate/simulate.ts';
import { drawWorkload } from '../../../src/simulate/workload.ts';

const THROUGHPUT_RPS = 20;
const SHARES = [0.9, 1, 1.1] as const;

/** Latency at shares of the maximum of a server that refuses nothing. */
export function explodingQueue(): string {
  const variants = geometricChain({ slowestRps: THROUGHPUT_RPS, fastestRps: THROUGHPUT_RPS, versions: 1 });
  const scenario = makeScenario({
    tasks: [{ task: 'task', sloMs: 3_600_000, weight: 1, variants }],
    discipline: 'ps',
  });
  return chart({
    id: 'exploding-queue',
    title: 'Latency of each request at shares of the maximal throughput',
    height: 280,
    x: { title: 'time (s)', domain: [0, 60] },
    y: { title: 'latency (s)' },
    series: SHARES.map((share) => {
      const demand = { kind: 'constant', rps: share * THROUGHPUT_RPS, durationMs: 60_000 } as const;
      const workload = drawWorkload([demand], { seed: 1, spacing: 'even' });
      const { latencyMs } = simulate({ scenario, workload, policy: staticPolicy('largest') });
      return {
        name: `${Math.round(100 * share)} %`,
        kind: 'cloud' as const,
        points: Array.from(latencyMs, (latency, i) => ({
          x: workload.arrivalMs[i]! / 1000,
          y: latency / 1000,
        })),
      };
    }),
  });
}
