import type { DemandProfile } from '../../load/arrivals.ts';
import { demandSteps, durationMsOf } from '../../load/arrivals.ts';
import { versionFigures } from '../../simulate/scenario.ts';
import type { Experiment } from '../experiment.ts';
import type { Lab } from '../lab.ts';
import { volatileDemand } from '../live/demand.ts';
import type { LiveRun } from '../live/live-run.ts';
import { fileName } from '../live/run-tasks.ts';
import { feasibleOverload, overloadRates, serverScenario, THESIS_SLO_MS } from '../live/scenario.ts';
import { servedRunMs, serveUnder } from '../live/serve-policy.ts';
import { drawSingleTask } from './draw.ts';

export interface SingleTaskResults {
  readonly task: string;
  /** Maximal throughput by version, on the frontier. */
  readonly chain: readonly {
    readonly version: number;
    readonly accuracy: number;
    readonly throughputRps: number;
  }[];
  readonly workloads: readonly {
    readonly kind: WorkloadKind;
    /** Changes of demand, where it moves in steps. */
    readonly steps?: readonly { readonly atMs: number; readonly rps: number }[];
    readonly runs: readonly LiveRun[];
  }[];
}

export type WorkloadKind = 'linear-up' | 'exponential' | 'linear-down' | 'trace';

/** The thesis' exponential growth ends at 33 times where it began (1, 3, 5, 9, 17, 33), a little above what the smallest version can. */
const GROWTH_STEPS = 6;
const GROWTH_RATIO = 33;
const PAST_THE_MAXIMUM = 1.05;

/** Figure 5.12 goes from a quarter of the largest version's maximum to one and a half times of it. */
const LINEAR_UP = { first: 0.25, steps: 6 } as const;

/** Figure 5.15: from 51 of the smallest version's 76 requests a second down by 5. */
const LINEAR_DOWN = { first: 51 / 76, step: -5 / 76, steps: 11 } as const;

const POLICIES: Readonly<Record<WorkloadKind, readonly string[]>> = {
  'linear-up': ['static:largest'],
  exponential: ['static:largest', 'static:smallest', 'trivial', 'bonsai'],
  'linear-down': ['static:largest', 'static:smallest', 'trivial', 'bonsai'],
  trace: ['static:largest', 'static:smallest', 'trivial', 'bonsai'],
};

/** What the smallest version does hardly needs to be looked at twice. */
const QUICK_WITHOUT = 'static:smallest';

/** Figures 5.12 to 5.16: one task whose demand grows, falls, and moves as it was recorded. */
export const singleTask: Experiment<SingleTaskResults> = {
  name: 'single-task',
  thesis: 'Fig. 5.11 to 5.16',
  question: 'How do policies move one task along its family while demand grows, falls and fluctuates?',
  estimateMs: (lab) =>
    (Object.keys(POLICIES) as WorkloadKind[]).reduce(
      (sum, kind) => sum + policiesOf(lab, kind).length * servedRunMs(lab, lengthOf(lab, kind)),
      0,
    ),
  async run(lab) {
    const [task] = lab.tasks;
    const scenario = serverScenario([task!.manifest], THESIS_SLO_MS);
    const figures = versionFigures(scenario.tasks[0]!, scenario);
    const chain = figures.map(({ version, serviceMs }) => ({
      version,
      accuracy: task!.manifest.variants.find((variant) => variant.version === version)!.accuracy.test,
      throughputRps: 1000 / serviceMs,
    }));
    const workloads: SingleTaskResults['workloads'][number][] = [];
    for (const kind of Object.keys(POLICIES) as WorkloadKind[]) {
      const { demand, warmUpMs } = await demandOf(lab, kind, chain);
      const durationMs = durationMsOf(demand) - warmUpMs;
      const runs: LiveRun[] = [];
      for (const policy of policiesOf(lab, kind)) {
        runs.push(
          await lab.part(`${kind}-${fileName(policy)}`, () =>
            serveUnder(lab, {
              name: `${kind}: ${policy}`,
              policy,
              tasks: [task!],
              demand: [demand],
              durationMs,
              warmUpMs,
              seed: lab.seed,
            }),
          ),
        );
      }
      workloads.push({ kind, runs, ...(kind !== 'trace' && { steps: demandSteps(demand, durationMs) }) });
    }
    return { task: task!.name, chain, workloads };
  },
  draw: drawSingleTask,
};

function policiesOf({ scale }: Pick<Lab, 'scale'>, kind: WorkloadKind): readonly string[] {
  const all = POLICIES[kind];
  return scale.name === 'full' || kind === 'exponential'
    ? all
    : all.filter((policy) => policy !== QUICK_WITHOUT);
}

function lengthOf({ scale }: Pick<Lab, 'scale'>, kind: WorkloadKind): number {
  switch (kind) {
    case 'linear-up':
      return LINEAR_UP.steps * scale.growthStepMs;
    case 'exponential':
      return GROWTH_STEPS * scale.growthStepMs;
    case 'linear-down':
      return LINEAR_DOWN.steps * scale.declineStepMs;
    case 'trace':
      return scale.singleMs + scale.warmUpMs;
    default:
      return kind satisfies never;
  }
}

/** The thesis' workloads in units of what the family can. */
async function demandOf(
  lab: Lab,
  kind: WorkloadKind,
  chain: SingleTaskResults['chain'],
): Promise<{ demand: DemandProfile; warmUpMs: number }> {
  const { scale, seed } = lab;
  const slowest = chain[0]!.throughputRps;
  const fastest = chain.at(-1)!.throughputRps;
  switch (kind) {
    case 'linear-up': {
      const rps = LINEAR_UP.first * slowest;
      const { steps } = LINEAR_UP;
      return {
        demand: { kind: 'linear', startRps: rps, stepRps: rps, intervalMs: scale.growthStepMs, steps },
        warmUpMs: 0,
      };
    }
    case 'exponential': {
      const startRps = (PAST_THE_MAXIMUM * fastest) / GROWTH_RATIO;
      return {
        demand: { kind, startRps, intervalMs: scale.growthStepMs, steps: GROWTH_STEPS },
        warmUpMs: 0,
      };
    }
    case 'linear-down': {
      const { first, step, steps } = LINEAR_DOWN;
      return {
        demand: {
          kind: 'linear',
          startRps: first * fastest,
          stepRps: step * fastest,
          intervalMs: scale.declineStepMs,
          steps,
        },
        warmUpMs: 0,
      };
    }
    case 'trace': {
      const scenario = serverScenario([lab.tasks[0]!.manifest], THESIS_SLO_MS);
      const [demand] = await volatileDemand(lab, {
        meansRps: overloadRates(scenario, feasibleOverload(scenario)),
        durationMs: scale.singleMs,
        warmUpMs: scale.warmUpMs,
        seed,
      });
      return { demand: demand!, warmUpMs: scale.warmUpMs };
    }
    default:
      return kind satisfies never;
  }
}
