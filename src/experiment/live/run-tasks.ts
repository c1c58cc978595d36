import { type DemandProfile, dueTimes } from '../../load/arrivals.ts';
import { recordsToCsv } from '../../load/records.ts';
import type { Lab, LabTask } from '../lab.ts';
import { type LiveRun, liveRunOf } from './live-run.ts';
import { runLive, type WatchedProcess } from './run-live.ts';
import { THESIS_SLO_MS } from './scenario.ts';

export interface TasksRun {
  /** Heads its figures, and names its files. */
  readonly name: string;
  readonly tasks: readonly LabTask[];
  /** Of each task. */
  readonly demand: readonly DemandProfile[];
  readonly durationMs: number;
  readonly warmUpMs: number;
  /** Of arrivals: the same for all policies that are compared. */
  readonly seed: number;
}

/** Asks what is served at an address for several tasks at once, and keeps every request beside the results. */
export async function runTasks(
  lab: Lab,
  { name, tasks, demand, durationMs, warmUpMs, seed }: TasksRun,
  served: {
    readonly url: string;
    readonly watched: readonly WatchedProcess[];
    readonly connections?: number;
  },
): Promise<LiveRun> {
  const { clock, signal } = lab;
  const raw = await runLive({
    ...served,
    tasks: tasks.map(({ name: task, inputs }, k) => ({
      task,
      inputs,
      dueTimesMs: dueTimes(demand[k]!, { spacing: 'poisson', seed: seed * 100 + k }),
      seed: seed * 100 + k,
    })),
    sloMs: THESIS_SLO_MS,
    clock,
    signal,
  });
  for (const [k, { name: task }] of tasks.entries())
    await lab.keep(`requests-${fileName(name)}-${task}.csv.gz`, recordsToCsv(raw.records[k]!));
  return liveRunOf(raw, {
    name,
    sloMs: THESIS_SLO_MS,
    durationMs,
    countedFromMs: warmUpMs,
    manifests: tasks.map(({ manifest }) => manifest),
    isLabelled: tasks.map(({ isLabelled }) => isLabelled),
    serverNames: served.watched.map((watched) => watched.name),
  });
}

export function fileName(name: string): string {
  return name.replaceAll(/[^a-z0-9]+/gi, '-');
}
