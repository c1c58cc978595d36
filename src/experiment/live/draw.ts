import { chart } from '../../report/chart.ts';
import type { Part } from '../../report/experiment-report.ts';
import type { RunReport } from '../../report/report-types.ts';
import { runFigure, sharedScales } from '../../report/run-figure.ts';
import { csv } from '../csv.ts';
import { figure, percent } from '../wording.ts';
import { DOT_OUTCOMES, type LiveRun } from './live-run.ts';

/** A task of a run as the thesis draws it. */
export function runReportOf(
  run: LiveRun,
  k: number,
  options: { readonly name: string; readonly withCpu: boolean; readonly steps?: RunReport['demand'] },
): RunReport {
  const task = run.tasks[k]!;
  const { dots } = task;
  const [server] = run.servers;
  return {
    name: options.name,
    durationMs: run.durationMs,
    requests: dots.dueMs.map((dueMs, i) => ({
      dueMs,
      latencyMs: dots.latencyMs[i]!,
      outcome: DOT_OUTCOMES[dots.outcome[i]!]!,
    })),
    versions: task.bands,
    demand: options.steps ?? [],
    ...(options.steps === undefined && {
      demandCurve: task.demandRps.map((rps, i) => ({ atMs: (i + 0.5) * task.bucketMs, rps })),
    }),
    cpu: options.withCpu ? (server?.cpu ?? []) : [],
    summary: {
      offered: task.offered,
      lateRatio: task.violationRatio,
      meanAccuracy: task.accuracy,
      effectiveAccuracy: task.accuracy * (1 - task.violationRatio),
      p50Ms: task.p50Ms ?? Number.NaN,
      p99Ms: task.p99Ms ?? Number.NaN,
      cpuUtilization: server?.utilization ?? Number.NaN,
      switches: Math.max(0, task.bands.length - 1),
    },
  };
}

/** Runs of one task on common axes, one figure each. */
export function runParts(
  reports: readonly { readonly report: RunReport; readonly caption: string }[],
  sloMs: number,
  id: string,
): Part[] {
  const shared = sharedScales(
    reports.map(({ report }) => report),
    sloMs,
  );
  return reports.map(({ report, caption }, i) => ({
    kind: 'figure',
    figure: runFigure(report, sloMs, shared, `${id}-${i + 1}`),
    caption,
  }));
}

/** CPU over time of the servers of one run, or of the same server in several runs. */
export function cpuPart(
  series: readonly { readonly name: string; readonly cpu: LiveRun['servers'][number]['cpu'] }[],
  durationMs: number,
  id: string,
  caption: string,
): Part {
  return {
    kind: 'figure',
    caption,
    figure: chart({
      id,
      title: 'CPU utilisation over time',
      x: { title: 'time (s)', domain: [0, durationMs / 1000] },
      y: { title: 'CPU utilisation (%)', domain: [0, 120] },
      rules: [{ y: 100, name: 'all of it' }],
      series: series.map(({ name, cpu }) => ({
        name,
        kind: 'line',
        points: cpu.map(({ atMs, utilization }) => ({ x: atMs / 1000, y: 100 * utilization })),
      })),
    }),
  };
}

/** Violations over time, all tasks of a run together. */
export function violationsPart(runs: readonly LiveRun[], id: string, caption: string): Part {
  return {
    kind: 'figure',
    caption,
    figure: chart({
      id,
      title: 'Share of requests without an answer in time',
      height: 230,
      x: { title: 'time (s)', domain: [0, Math.max(...runs.map(({ durationMs }) => durationMs)) / 1000] },
      y: { title: 'violations (%)', domain: [0, 100] },
      series: runs.map((run) => ({ name: run.name, kind: 'line', points: violationsOf(run) })),
    }),
  };
}

function violationsOf({ tasks }: LiveRun): { x: number; y: number }[] {
  const [first] = tasks;
  if (first === undefined) return [];
  return first.demandRps.map((_, i) => {
    let [offered, violated] = [0, 0];
    for (const { demandRps, violationRatios } of tasks) {
      offered += demandRps[i] ?? 0;
      violated += (demandRps[i] ?? 0) * (violationRatios[i] ?? 0);
    }
    return { x: ((i + 0.5) * first.bucketMs) / 1000, y: offered === 0 ? 0 : (100 * violated) / offered };
  });
}

/** Runs in numbers. */
export function runsTable(runs: readonly LiveRun[], caption: string): Part {
  return {
    kind: 'table',
    caption,
    headings: ['run', 'requests', 'violations', 'normalised accuracy', 'CPU', 'loads', 'p99 ms'],
    rows: runs.map((run) => [
      run.name,
      run.offered.toLocaleString('en-US'),
      percent(run.violationRatio, 3),
      percent(run.normalisedAccuracy),
      run.servers.map(({ utilization }) => percent(utilization, 1)).join(' / '),
      run.loads === undefined ? '–' : String(run.loads),
      run.tasks.map(({ p99Ms }) => figure(p99Ms)).join(' / '),
    ]),
  };
}

/** Every run and task as a line, every bucket of time as a line, every sample of CPU as a line. */
export function liveFiles(runs: readonly LiveRun[]): Record<string, string> {
  return {
    'runs.csv': csv(
      [
        ...['run', 'task', 'offered', 'answered', 'late', 'refused', 'failed', 'violation_ratio', 'accuracy'],
        ...[
          'normalised_accuracy',
          'scored_accuracy',
          'p50_ms',
          'p99_ms',
          'cpu_utilization',
          'loads',
          'versions',
        ],
      ],
      runs.flatMap((run) =>
        run.tasks.map((task) => [
          ...[run.name, task.task, task.offered, task.answered, task.late, task.refused, task.failed],
          ...[task.violationRatio, task.accuracy, task.normalisedAccuracy, task.scoredAccuracy ?? undefined],
          ...[task.p50Ms ?? undefined, task.p99Ms ?? undefined],
          run.servers.map(({ utilization }) => utilization).join(';'),
          run.loads,
          task.shares.map(({ version, ratio }) => `${version}:${ratio}`).join(';'),
        ]),
      ),
    ),
    'timeline.csv': csv(
      ['run', 'task', 'at_ms', 'demand_rps', 'violation_ratio'],
      runs.flatMap((run) =>
        run.tasks.flatMap(({ task, bucketMs, demandRps, violationRatios }) =>
          demandRps.map((rps, i) => [run.name, task, Math.round(i * bucketMs), rps, violationRatios[i]]),
        ),
      ),
    ),
    'versions.csv': csv(
      ['run', 'task', 'from_ms', 'version', 'accuracy'],
      runs.flatMap((run) =>
        run.tasks.flatMap(({ task, bands }) =>
          bands.map(({ atMs, version, accuracy }) => [run.name, task, atMs, version, accuracy]),
        ),
      ),
    ),
    'cpu.csv': csv(
      ['run', 'server', 'at_ms', 'utilization'],
      runs.flatMap((run) =>
        run.servers.flatMap(({ name, cpu }) =>
          cpu.map(({ atMs, utilization }) => [run.name, name, atMs, utilization]),
        ),
      ),
    ),
  };
}
