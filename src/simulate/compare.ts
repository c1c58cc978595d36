import type { DemandProfile } from '../load/arrivals.ts';
import type { Contestant } from './contestants.ts';
import { makeScenario, type Scenario } from './scenario.ts';
import { simulate } from './simulate.ts';
import { confidenceInterval, type Interval, type SimulationSummary, summarizeSimulation } from './summary.ts';
import { drawWorkload, type WorkloadOptions } from './workload.ts';

/** One contestant over all seeds. */
export interface Comparison {
  readonly name: string;
  readonly meaning: string;
  /** By seed. */
  readonly runs: readonly SimulationSummary[];
  readonly intervals: Readonly<Record<CompareFigure, Interval>>;
}

export const COMPARE_FIGURES = [
  'violationRatio',
  'meanAccuracy',
  'effectiveAccuracy',
  'cpuUtilization',
  'p99Ms',
  'loadsPerMinute',
] as const;
export type CompareFigure = (typeof COMPARE_FIGURES)[number];

export interface CompareOptions {
  readonly contestants: readonly Contestant[];
  /** Its discipline, residency and loader are replaced by each contestant's plumbing, except what `fixed` names. */
  readonly scenario: Scenario;
  readonly fixed?: Partial<Scenario>;
  readonly demand: readonly DemandProfile[];
  readonly workload: Omit<WorkloadOptions, 'seed'>;
  readonly seeds: readonly number[];
  /** Awaited after each run, so that the caller can show progress, and stop by throwing. */
  readonly onRun?: (name: string, seed: number, summary: SimulationSummary) => void | Promise<void>;
}

/** Runs every contestant on the same workloads, one per seed. */
export async function compare(options: CompareOptions): Promise<Comparison[]> {
  const { contestants, scenario, demand, seeds, onRun } = options;
  const workloads = seeds.map((seed) => drawWorkload(demand, { ...options.workload, seed }));
  const comparisons: Comparison[] = [];
  for (const { name, meaning, plumbing, makePolicy } of contestants) {
    const own = makeScenario({ ...scenario, ...plumbing, ...options.fixed });
    const runs: SimulationSummary[] = [];
    for (const [i, workload] of workloads.entries()) {
      const run = simulate({ scenario: own, workload, policy: makePolicy(own, workload) });
      const summary = summarizeSimulation(run);
      runs.push(summary);
      await onRun?.(name, seeds[i]!, summary);
    }
    comparisons.push({ name, meaning, runs, intervals: intervalsOf(runs) });
  }
  return comparisons;
}

export function intervalsOf(runs: readonly SimulationSummary[]): Record<CompareFigure, Interval> {
  const entries = COMPARE_FIGURES.map((figure) => [
    figure,
    confidenceInterval(runs.map((run) => run[figure])),
  ]);
  return Object.fromEntries(entries); // One entry for each name of the list.
}
