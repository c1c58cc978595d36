import { staticPolicy } from '../../../src/policy/static.ts';
import { chart } from '../../../src/report/chart.ts';
import { geometricChain } from '../../../src/simulate/chain.ts';
import { makeScenario } from '../../../src/simulate/scenario.ts';
import { simulate } from '../../../src/simulate/simulate.ts';
import { summarizeSimulation } from '../../../src/simulate/summary.ts';
import { drawWorkload } from '../../../src/simulate/workload.ts';

const TASKS = 3;
const THROUGHPUT_RPS = 20;
const LOADS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95] as const;
const DISCIPLINES = [
  ['a queue per task, all compute at once', 'ps'],
  ['a slot: one after the other', 'edf'],
] as const;

/** Late requests of three tasks on one core by its load: computed at once, or one after the other. */
export function slots(): string {
  const variants = geometricChain({ slowestRps: THROUGHPUT_RPS, fastestRps: THROUGHPUT_RPS, versions: 1 });
  const tasks = Array.from({ length: TASKS }, (_, k) => ({
    task: `task-${k + 1}`,
    // Objectives differ: the first task is in a hurry.
    sloMs: [200, 400, 800][k]!,
    weight: 1,
    variants,
  }));
  return chart({
    id: 'slots',
    title: 'Late requests of three tasks on one core, by how it is shared',
    height: 280,
    x: { title: 'load of the core (%)' },
    y: { title: 'late (%)' },
    series: DISCIPLINES.map(([name, discipline]) => ({
      name,
      kind: 'dots-and-line' as const,
      points: LOADS.map((load) => {
        const rps = (load * THROUGHPUT_RPS) / TASKS;
        const demand = tasks.map(() => ({ kind: 'constant', rps, durationMs: 600_000 }) as const);
        const run = simulate({
          scenario: makeScenario({ tasks, discipline }),
          workload: drawWorkload(demand, { seed: 1 }),
          policy: staticPolicy('largest'),
        });
        return { x: 100 * load, y: 100 * summarizeSimulation(run).violationRatio };
      }),
    })),
  });
}
