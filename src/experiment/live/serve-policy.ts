import { setTimeout as sleep } from 'node:timers/promises';
import { frontierOf } from '../../repository/frontier.ts';
import type { Lab, LabTask } from '../lab.ts';
import { startTestedServer } from '../measuring/server.ts';
import type { LiveRun } from './live-run.ts';
import { LIVE_CONNECTIONS } from './run-live.ts';
import { fileName, runTasks, type TasksRun } from './run-tasks.ts';
import { THESIS_SLO_MS } from './scenario.ts';

export interface ServedRun extends TasksRun {
  /** Of `bonsai serve --policy`. */
  readonly policy: string;
}

/** One server under one policy, asked for several tasks at once: how every live run on one machine is made. */
export async function serveUnder(lab: Lab, run: ServedRun): Promise<LiveRun> {
  const { name, policy, tasks } = run;
  const { scale, signal, cpus } = lab;
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
    const result = await runTasks(lab, run, {
      url: server.url,
      watched: [{ name: 'server', pid: server.pid, cpuBudget: cpus.length }],
    });
    const loads = server.log.slice(before).filter((line) => line.includes('version loaded')).length;
    await lab.keep(`server-${fileName(name)}.log.gz`, `${server.log.join('\n')}\n`);
    return { ...result, loads };
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

/** What a run takes beside the demand itself: the start of a server, its settling and its end. */
export function servedRunMs(lab: Pick<Lab, 'scale'>, durationMs: number): number {
  return durationMs + lab.scale.settleMs + 4_000;
}
