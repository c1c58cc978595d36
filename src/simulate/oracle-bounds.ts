import { InvalidArgumentError } from '../base/errors.ts';
import type { DemandProfile } from '../load/arrivals.ts';
import { allocationChain } from '../policy/allocation.ts';
import { interpolatedOracle } from '../policy/oracle/interpolated.ts';
import { type OracleBound, type OracleTask, oracle, oracleDefaults } from '../policy/oracle/oracle.ts';
import type { OracleOutcome } from '../policy/oracle/outcome.ts';
import { singleVersionOracle } from '../policy/oracle/single-version.ts';
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
 * What perfect knowledge could have got on the same workloads, as rows of a comparison: as few requests dropped as can be,
 * accuracy as high as can be. Two bounds with a version for each request, every version in memory; and with one version
 * per task that may change every second, whether changes are free or keep the server from its requests.
 * @throws InvalidArgumentError for tasks without deadlines
 */
export async function oracleBounds(options: OracleBoundsOptions): Promise<Comparison[]> {
  const { scenario, demand, seeds, stepMs, onRun } = options;
  const workloads = seeds.map((seed) => drawWorkload(demand, { ...options.workload, seed }));
  const comparisons: Comparison[] = [];
  for (const kind of ORACLES) {
    const runs: SimulationSummary[] = [];
    for (const [i, workload] of workloads.entries()) {
      const summary = oracleSummary(scenario, workload, kind, stepMs);
      runs.push(summary);
      await onRun?.(`oracle:${kind}`, seeds[i]!, summary);
    }
    comparisons.push({ name: `oracle:${kind}`, meaning: MEANINGS[kind], runs, intervals: intervalsOf(runs) });
  }
  return comparisons;
}

export const ORACLES = ['feasible', 'relaxed', 'single-version', 'single-version-loading'] as const;
export type OracleKind = (typeof ORACLES)[number];

const MEANINGS = {
  feasible: 'knows all arrivals: what surely could have been got',
  relaxed: 'knows all arrivals: what surely could not have been exceeded',
  'single-version': 'knows all arrivals, one version per task each second, every version in memory',
  'single-version-loading': 'the same where a load keeps the CPU from requests',
} as const satisfies Record<OracleKind, string>;

/** Of service times of fewer cells rounding up makes more than a tenth too much: what is feasible is found otherwise. */
const COARSE_CELLS = 10;

/**
 * One oracle as a summary. Several slots are one that is so many times faster for the relaxed bound (it can do whatever
 * they can), and take requests in turn for the feasible one.
 */
export function oracleSummary(
  scenario: Scenario,
  workload: Workload,
  kind: OracleKind,
  stepMs?: number,
): SimulationSummary {
  const slots = scenario.cpus * scenario.servers;
  const bound: OracleBound = kind === 'relaxed' ? 'relaxed' : 'feasible';
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
  const grid = stepMs === undefined ? {} : { stepMs };
  const shortestMs = Math.min(...tasks.flatMap(({ versions }) => versions.map(({ serviceMs }) => serviceMs)));
  const isCoarse = shortestMs < COARSE_CELLS * (stepMs ?? oracleDefaults.stepMs);
  const solved = parts.map((part): OracleOutcome => {
    if (kind === 'feasible' && isCoarse) return interpolatedOracle(part, tasks, grid);
    if (kind === 'feasible' || kind === 'relaxed') return oracle(part, tasks, { bound, ...grid });
    const allocations = chainOf(part, tasks);
    const isLoading = kind === 'single-version-loading';
    const switchMs = (from: readonly number[], to: readonly number[]) => loadsMs(scenario, tasks, from, to);
    return singleVersionOracle(part, tasks, { allocations, ...grid, ...(isLoading && { switchMs }) });
  });
  return summaryOf(scenario, workload, solved, bound === 'relaxed' ? 1 : slots);
}

/** A version of each task, from the most accurate ones to the smallest, by the mean demand of each. */
function chainOf({ task }: Pick<Workload, 'task'>, tasks: readonly OracleTask[]): number[][] {
  const ladders = tasks.map(({ versions, weight }, k) => ({
    task: String(k),
    weight,
    demandRps: task.reduce((count, each) => count + (each === k ? 1 : 0), 0),
    steps: versions.map(({ accuracy, serviceMs }, version) => ({
      version,
      cost: serviceMs,
      normalisedAccuracy: accuracy,
    })),
  }));
  return allocationChain(ladders).map(({ positions }) => [...positions]);
}

/** CPU time of the loads and warm-ups that a change of versions takes. */
function loadsMs(
  scenario: Scenario,
  tasks: readonly OracleTask[],
  from: readonly number[],
  to: readonly number[],
): number {
  let sumMs = 0;
  for (const [k, version] of to.entries()) {
    if (version === from[k]) continue;
    const { loadMs } = versionFigures(scenario.tasks[k]!, scenario)[version]!;
    sumMs += loadMs + scenario.warmUps * tasks[k]!.versions[version]!.serviceMs;
  }
  return sumMs;
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
  solved: readonly OracleOutcome[],
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
