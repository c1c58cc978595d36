import type { SimulationRun } from './run.ts';
import { versionFigures } from './scenario.ts';
import { isLate } from './summary.ts';

/** One task of a run as a report draws it (`report/report-types.ts`), without the marks of demand. */
export interface TaskRun {
  readonly name: string;
  readonly durationMs: number;
  readonly requests: readonly {
    dueMs: number;
    latencyMs: number;
    outcome: 'ok' | 'refused' | 'error' | 'timeout';
  }[];
  readonly versions: readonly { atMs: number; version: string; accuracy: number }[];
  readonly cpu: readonly { atMs: number; utilization: number }[];
  readonly summary: {
    readonly offered: number;
    readonly lateRatio: number;
    readonly meanAccuracy: number;
    readonly effectiveAccuracy: number;
    readonly p50Ms: number;
    readonly p99Ms: number;
    readonly cpuUtilization: number;
    readonly switches: number;
  };
}

/** Bands of versions show the most used one of each stretch of this length. */
export const BAND_MS = 5_000;

/** A report for each task of the run. */
export function runReports(run: SimulationRun): TaskRun[] {
  return run.scenario.tasks.map((_, k) => taskRun(run, k));
}

function taskRun(run: SimulationRun, k: number): TaskRun {
  const { scenario, workload } = run;
  const task = scenario.tasks[k]!;
  const figures = versionFigures(task, scenario);
  const requests: TaskRun['requests'][number][] = [];
  const latencies: number[] = [];
  let [violations, accuracy, inTime] = [0, 0, 0];
  for (let i = 0; i < run.outcome.length; i++) {
    if (workload.task[i] !== k) continue;
    const outcome = OUTCOMES[run.outcome[i]!]!;
    const latencyMs = outcome === 'ok' ? run.latencyMs[i]! : 0;
    requests.push({ dueMs: workload.arrivalMs[i]!, latencyMs, outcome });
    if (outcome !== 'ok') {
      violations++;
      continue;
    }
    const answered = figures[run.versionIndex[i]!]!.accuracy;
    accuracy += answered;
    latencies.push(latencyMs);
    if (isLate(run, i)) violations++;
    else inTime += answered;
  }
  latencies.sort((a, b) => a - b);
  const at = (q: number) => latencies[Math.floor(q * (latencies.length - 1))] ?? Number.NaN;
  const cpu = meanCpu(run);
  const versions = bandsOf(run, k);
  return {
    name: `${task.task}: ${run.policy}`,
    durationMs: workload.durationMs,
    requests,
    versions,
    cpu,
    summary: {
      offered: requests.length,
      lateRatio: violations / requests.length,
      meanAccuracy: accuracy / latencies.length,
      effectiveAccuracy: inTime / requests.length,
      p50Ms: at(0.5),
      p99Ms: at(0.99),
      cpuUtilization: cpu.reduce((sum, { utilization }) => sum + utilization, 0) / cpu.length,
      switches: Math.max(0, versions.length - 1),
    },
  };
}

/** In the order of the numbers of `OUTCOME`. */
const OUTCOMES = ['timeout', 'ok', 'refused', 'error'] as const;

/** The version that answered most requests of the task in each stretch of time. */
function bandsOf({ scenario, workload, versionIndex }: SimulationRun, k: number): TaskRun['versions'] {
  const figures = versionFigures(scenario.tasks[k]!, scenario);
  const counts = Array.from({ length: Math.ceil(workload.durationMs / BAND_MS) }, () => figures.map(() => 0));
  for (let i = 0; i < versionIndex.length; i++) {
    const band = counts[Math.floor(workload.arrivalMs[i]! / BAND_MS)];
    if (workload.task[i] === k && versionIndex[i]! >= 0 && band !== undefined) band[versionIndex[i]!]!++;
  }
  const bands: { atMs: number; version: string; accuracy: number }[] = [];
  for (const [i, band] of counts.entries()) {
    const most = Math.max(...band);
    if (most === 0) continue;
    const { version, accuracy } = figures[band.indexOf(most)]!;
    if (bands.at(-1)?.version !== String(version)) {
      bands.push({ atMs: bands.length === 0 ? 0 : i * BAND_MS, version: String(version), accuracy });
    }
  }
  return bands;
}

/** Mean over servers, tick by tick. */
function meanCpu({ cpu, scenario, workload }: SimulationRun): { atMs: number; utilization: number }[] {
  const byTime = new Map<number, number>();
  for (const { atMs, utilization } of cpu) {
    if (atMs <= workload.durationMs)
      byTime.set(atMs, (byTime.get(atMs) ?? 0) + utilization / scenario.servers);
  }
  return [...byTime].map(([atMs, utilization]) => ({ atMs, utilization }));
}
