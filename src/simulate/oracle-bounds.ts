import { InvalidArgumentError } from '../base/errors.ts';
import type { DemandProfile } from '../load/arrivals.ts';
import { type OracleBound, type OracleResult, type OracleTask, oracle } from '../policy/oracle/oracle.ts';
import { type Comparison, intervalsOf } from './compare.ts';
import { type Scenario, versionFigures } from './scenario.ts';
import type { SimulationSummary } from './summary.ts';
import { drawWorkload, type Workload, type WorkloadOptions } from './workload.ts';

export interface OracleBoundsOptions {
  readonly scenario: Scenario;
  readonly demand: readonly DemandProfile[];
  readonly workload: Omit<WorkloadOptions, 'seed'>;
  readonly seeds: readonly number[];
  readonly stepMs?: number;
  /** Awaited after each run, so that the caller can show progress, and stop by throwing. */
  readonly onRun?: (name: string, seed: number, summary: SimulationSummary) => void | Promise<void>;
}

/**
 * The two bounds of what perfect knowledge could have got on the same workloads, as rows of a comparison: every version
 * in memory, as few requests dropped as can be, accuracy as high as can be.
 * @throws InvalidArgumentError for tasks without deadlines
 */
export async function oracleBounds(options: OracleBoundsOptions): Promise<Comparison[]> {
  const { scenario, demand, seeds, stepMs, onRun } = options;
  const workloads = seeds.map((seed) => drawWorkload(demand, { ...options.workload, seed }));
  const comparisons: Comparison[] = [];
  for (const bound of ['feasible', 'relaxed'] as const) {
    const runs: SimulationSummary[] = [];
    for (const [i, workload] of workloads.entries()) {
      const summary = oracleSummary(scenario, workload, bound, stepMs);
      runs.push(summary);
      await onRun?.(`oracle:${bound}`, seeds[i]!, summary);
    }
    comparisons.push({
      name: `oracle:${bound}`,
      meaning: MEANINGS[bound],
      runs,
      intervals: intervalsOf(runs),
    });
  }
  return comparisons;
}

const MEANINGS = {
  feasible: 'knows all arrivals: what surely could have been got',
  relaxed: 'knows all arrivals: what surely could not have been exceeded',
} as const satisfies Record<OracleBound, string>;

/**
 * One bound as a summary. Several slots are one that is so many times faster for the relaxed bound (it can do whatever
 * they can), and take requests in turn for the feasible one.
 */
export function oracleSummary(
  scenario: Scenario,
  workload: Workload,
  bound: OracleBound,
  stepMs?: number,
): SimulationSummary {
  const slots = scenario.cpus * scenario.servers;
  const speed = (bound === 'relaxed' ? slots : 1) / scenario.profileFactor;
  const tasks = scenario.tasks.map((task): OracleTask => {
    if (task.priority === 'batch') {
      throw new InvalidArgumentError(
        `The oracle plans for deadlines, and task ${task.task} has none: leave the oracle or the task out.`,
      );
    }
    const versions = versionFigures(task, scenario)
      .filter(({ accuracy }) => accuracy >= (task.minAccuracy ?? 0))
      .map(({ accuracy, serviceMs }) => ({ accuracy, serviceMs: serviceMs / speed }));
    return { sloMs: task.sloMs, weight: task.weight, versions };
  });
  const parts = bound === 'relaxed' ? [workload] : inTurn(workload, slots);
  const solved = parts.map((part) => oracle(part, tasks, { bound, ...(stepMs !== undefined && { stepMs }) }));
  return summaryOf(scenario, workload, solved, bound === 'relaxed' ? 1 : slots);
}

/** Every slot-th request, from the first, the second, … on. */
function inTurn(
  { arrivalMs, task, multiplier }: Workload,
  slots: number,
): Pick<Workload, 'arrivalMs' | 'task' | 'multiplier'>[] {
  return Array.from({ length: slots }, (_, slot) => {
    const isOwn = (_value: number, i: number) => i % slots === slot;
    return {
      arrivalMs: arrivalMs.filter(isOwn),
      task: task.filter(isOwn),
      multiplier: multiplier.filter(isOwn),
    };
  });
}

function summaryOf(
  scenario: Scenario,
  workload: Workload,
  solved: readonly OracleResult[],
  slots: number,
): SimulationSummary {
  const offered = workload.arrivalMs.length;
  const dropped = sum(solved.map((part) => part.dropped));
  const gained = sum(solved.map((part) => part.effectiveAccuracy * part.offered));
  return {
    offered,
    answered: offered - dropped,
    late: 0,
    shed: dropped,
    errors: 0,
    violationRatio: dropped / offered,
    meanAccuracy: gained / (offered - dropped),
    effectiveAccuracy: gained / offered,
    cpuUtilization: sum(solved.map((part) => part.utilization)) / slots,
    p50Ms: Number.NaN,
    p99Ms: Number.NaN,
    loads: 0,
    loadsPerMinute: 0,
    switches: 0,
    tasks: scenario.tasks.map(({ task }, k) => {
      const parts = solved.map((part) => part.tasks[k]!);
      const asked = sum(parts.map((part) => part.offered));
      const lost = sum(parts.map((part) => part.dropped));
      const accuracy = sum(
        parts.map(({ offered: count, dropped: gone, meanAccuracy }) =>
          count > gone ? meanAccuracy * (count - gone) : 0,
        ),
      );
      return { task, offered: asked, violationRatio: lost / asked, meanAccuracy: accuracy / (asked - lost) };
    }),
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
