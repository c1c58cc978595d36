import { mean, quantile } from '../base/statistics.ts';
import { OUTCOME, type SimulationRun } from './run.ts';
import { versionFigures } from './scenario.ts';

/** A run in numbers, over all offered requests. Ratios in [0, 1]; NaN where nothing was counted. */
export interface SimulationSummary {
  readonly offered: number;
  readonly answered: number;
  /** Answered after the deadline, or not at all by the end. */
  readonly late: number;
  readonly shed: number;
  readonly errors: number;
  /** (late + shed + errors) / offered. */
  readonly violationRatio: number;
  /** Normalised accuracy of the versions that answered, over answered requests. */
  readonly meanAccuracy: number;
  /** The same summed over answers in time, over offered requests. */
  readonly effectiveAccuracy: number;
  /** Mean over servers and ticks of the demand's duration. */
  readonly cpuUtilization: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly loads: number;
  readonly loadsPerMinute: number;
  readonly switches: number;
  readonly tasks: readonly TaskSummary[];
}

export interface TaskSummary {
  readonly task: string;
  readonly offered: number;
  readonly violationRatio: number;
  readonly meanAccuracy: number;
}

export function summarizeSimulation(run: SimulationRun): SimulationSummary {
  const { scenario, workload } = run;
  const accuracies = scenario.tasks.map((task) =>
    versionFigures(task, scenario).map(({ accuracy }) => accuracy),
  );
  const tasks = scenario.tasks.map(() => ({ offered: 0, answered: 0, violations: 0, accuracy: 0 }));
  let [answered, late, shed, errors, inTime] = [0, 0, 0, 0, 0];
  for (let i = 0; i < run.outcome.length; i++) {
    const k = workload.task[i]!;
    const task = tasks[k]!;
    task.offered++;
    switch (run.outcome[i]) {
      case OUTCOME.answered: {
        const accuracy = accuracies[k]![run.versionIndex[i]!]!;
        answered++;
        task.answered++;
        task.accuracy += accuracy;
        if (isLate(run, i)) {
          late++;
          task.violations++;
        } else inTime += accuracy;
        break;
      }
      case OUTCOME.shed:
        shed++;
        task.violations++;
        break;
      case OUTCOME.error:
        errors++;
        task.violations++;
        break;
      default:
        late++;
        task.violations++;
    }
  }
  const offered = run.outcome.length;
  const latencies = run.latencyMs.filter((_, i) => run.outcome[i] === OUTCOME.answered);
  const cpu = run.cpu.filter(({ atMs }) => atMs <= workload.durationMs).map(({ utilization }) => utilization);
  return {
    offered,
    answered,
    late,
    shed,
    errors,
    violationRatio: (late + shed + errors) / offered,
    meanAccuracy: tasks.reduce((sum, { accuracy }) => sum + accuracy, 0) / answered,
    effectiveAccuracy: inTime / offered,
    cpuUtilization: mean(cpu),
    p50Ms: quantile(latencies, 0.5),
    p99Ms: quantile(latencies, 0.99),
    loads: run.loads,
    loadsPerMinute: (run.loads * 60_000) / workload.durationMs,
    switches: run.switches,
    tasks: tasks.map((task, k) => ({
      task: scenario.tasks[k]!.task,
      offered: task.offered,
      violationRatio: task.violations / task.offered,
      meanAccuracy: task.accuracy / task.answered,
    })),
  };
}

/** Times of 10^6 ms carry rounding of about 10^-10. */
const ROUNDING_MS = 1e-6;

/** Whether an answered request came after its deadline; `batch` requests have none. */
export function isLate({ scenario, workload, latencyMs }: SimulationRun, i: number): boolean {
  const task = scenario.tasks[workload.task[i]!]!;
  return task.priority !== 'batch' && latencyMs[i]! > task.sloMs + ROUNDING_MS;
}

/** A mean over repetitions with the half width of its 95 % confidence interval (NaN for a single one). */
export interface Interval {
  readonly mean: number;
  readonly halfWidth: number;
}

/** The 95 % interval of a mean by Student's t distribution. */
export function confidenceInterval(values: readonly number[]): Interval {
  const n = values.length;
  const center = mean(values);
  if (n < 2) return { mean: center, halfWidth: Number.NaN };
  const variance = values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (n - 1);
  return { mean: center, halfWidth: studentT95(n - 1) * Math.sqrt(variance / n) };
}

/** Two-sided 95 % quantiles of Student's t by degrees of freedom, 1 to 10, 15, 20, 30; between them the wider one. */
const T95: readonly (readonly [freedom: number, t: number])[] = [
  [1, 12.706],
  [2, 4.303],
  [3, 3.182],
  [4, 2.776],
  [5, 2.571],
  [6, 2.447],
  [7, 2.365],
  [8, 2.306],
  [9, 2.262],
  [10, 2.228],
  [15, 2.131],
  [20, 2.086],
  [30, 2.042],
];

function studentT95(freedom: number): number {
  return T95.findLast(([at]) => at <= freedom)![1];
}
