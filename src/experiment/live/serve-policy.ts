import { setTimeout as sleep } from 'node:timers/promises';
import { type DemandProfile, dueTimes } from '../../load/arrivals.ts';
import { recordsToCsv } from '../../load/records.ts';
import { frontierOf } from '../../repository/frontier.ts';
import type { Lab, LabTask } from '../lab.ts';
import { startTestedServer } from '../measuring/server.ts';
import { type LiveRun, liveRunOf } from './live-run.ts';
import { LIVE_CONNECTIONS, runLive } from './run-live.ts';
import { THESIS_SLO_MS } from './scenario.ts';

export interface ServedRun {
  /** Heads its figures, and names its files. */
  readonly name: string;
  /** Of `bonsai serve --policy`. */
  readonly policy: string;
  readonly tasks: readonly LabTask[];
  /** Of each task. */
  readonly demand: readonly DemandProfile[];
  readonly durationMs: number;
  readonly warmUpMs: number;
  /** Of arrivals: the same for all policies that are compared. */
  readonly seed: number;
}

/** One server under one policy, asked for several tasks at once: how every live run on one machine is made. */
export async function serveUnder(lab: Lab, run: ServedRun): Promise<LiveRun> {
  const { name, policy, tasks, demand, durationMs, warmUpMs, seed } = run;
  const { scale, clock, signal, cpus } = lab;
  const due = demand.map((profile, k) => dueTimes(profile, { spacing: 'poisson', seed: seed * 100 + k }));
  const server = await startTestedServer(lab, {
    cpus,
    flags: [
      ...['--policy', policy, '--initial', initialOf(policy, tasks), '--slo', `${THESIS_SLO_MS}ms`],
      ...['--time-scale', String(scale.timeScale), '--max-connections', String(2 * LIVE_CONNECTIONS)],
    ],
  });
  try {
    await sleep(scale.settleMs, undefined, { signal });
    const before = server.log.length;
    const raw = await runLive({
      url: server.url,
      tasks: tasks.map(({ name: task, inputs }, k) => ({
        task,
        inputs,
        dueTimesMs: due[k]!,
        seed: seed * 100 + k,
      })),
      watched: [{ name: 'server', pid: server.pid, cpuBudget: cpus.length }],
      sloMs: THESIS_SLO_MS,
      clock,
      signal,
    });
    const loads = server.log.slice(before).filter((line) => line.includes('version loaded')).length;
    for (const [k, { name: task }] of tasks.entries())
      await lab.keep(`requests-${fileName(name)}-${task}.csv.gz`, recordsToCsv(raw.records[k]!));
    await lab.keep(`server-${fileName(name)}.log.gz`, `${server.log.join('\n')}\n`);
    return liveRunOf(raw, {
      name,
      sloMs: THESIS_SLO_MS,
      durationMs,
      countedFromMs: warmUpMs,
      manifests: tasks.map(({ manifest }) => manifest),
      isLabelled: tasks.map(({ isLabelled }) => isLabelled),
      serverNames: ['server'],
      loads,
    });
  } finally {
    await server.close();
  }
}

/** Runs begin with the most accurate versions of the frontier, as the thesis' do; one whose policy is to serve the smallest begins with those. */
function initialOf(policy: string, tasks: readonly LabTask[]): string {
  return tasks
    .map(({ name, manifest }) => {
      const frontier = frontierOf(manifest.variants, 'inverseThroughput');
      const first = policy === 'static:smallest' ? frontier.at(-1)! : frontier[0]!; // Tasks of the lab are profiled.
      return `${name}=${first.version}`;
    })
    .join(',');
}

export function fileName(name: string): string {
  return name.replaceAll(/[^a-z0-9]+/gi, '-');
}

/** What a run takes beside the demand itself: the start of a server, its settling and its end. */
export function servedRunMs(lab: Pick<Lab, 'scale'>, durationMs: number): number {
  return durationMs + lab.scale.settleMs + 4_000;
}
