import { quantile } from '../../base/statistics.ts';
import { dueTimes } from '../../load/arrivals.ts';
import type { RequestRecord } from '../../load/records.ts';
import type { Lab, LabTask } from '../lab.ts';
import { LIVE_CONNECTIONS, type RawRun, runLive } from '../live/run-live.ts';
import { THESIS_SLO_MS } from '../live/scenario.ts';
import { type Bench, openBench } from './bench.ts';
import type { TestedServer } from './server.ts';

/** What a server did with requests at a share of a version's maximal throughput. */
export interface AtShare {
  readonly share: number;
  readonly offeredRps: number;
  /** Median of the samples; null where the CPU cannot be read. */
  readonly cpuUtilization: number | null;
  readonly records: readonly RequestRecord[];
}

/** A queue as the thesis' server has it: nothing is refused, so that it can explode. */
const UNBOUNDED_FLAGS = [
  ...['--max-queue', '1000000', '--max-wait', '1h', '--max-connections', String(2 * LIVE_CONNECTIONS)],
];

/** Answers that take longer are given up: the exploding queue is plain to see long before. */
const TIMEOUT_MS = 60_000;

/** Samples of the CPU in one look. */
const CPU_SAMPLES = 8;

/** One task's inputs are made ready within this time. */
const READY_MS = 300;

/** A bench whose server refuses nothing. */
export function openUnboundedBench(lab: Lab): Promise<Bench> {
  return openBench(lab, lab.cpus, UNBOUNDED_FLAGS);
}

/** Offers shares of a version's maximum, evenly spaced, one after the other. The version has to be ready, and the server warm. */
export async function atShares(
  lab: Lab,
  server: TestedServer,
  subject: { readonly task: LabTask; readonly version: number; readonly maximumRps: number },
  shares: readonly number[],
): Promise<AtShare[]> {
  const { clock, signal, scale, seed, cpus } = lab;
  const { task, version, maximumRps } = subject;
  const found: AtShare[] = [];
  for (const share of shares) {
    const offeredRps = share * maximumRps;
    const raw: RawRun = await runLive({
      url: server.url,
      tasks: [
        {
          task: task.name,
          version: String(version),
          inputs: task.inputs,
          dueTimesMs: dueTimes(
            { kind: 'constant', rps: offeredRps, durationMs: scale.shareMs },
            { spacing: 'even', seed },
          ),
          seed,
        },
      ],
      watched: [{ name: 'server', pid: server.pid, cpuBudget: cpus.length }],
      samplePeriodMs: scale.shareMs / CPU_SAMPLES,
      startDelayMs: READY_MS,
      sloMs: THESIS_SLO_MS,
      timeoutMs: TIMEOUT_MS,
      clock,
      signal,
    });
    const cpu = raw.cpu[0]!.filter(({ atMs }) => atMs <= scale.shareMs).map(({ utilization }) => utilization);
    found.push({
      share,
      offeredRps,
      cpuUtilization: cpu.length === 0 ? null : quantile(cpu, 0.5),
      records: raw.records[0]!,
    });
  }
  return found;
}

/** About how long a look at one share takes: requests are made ready, come, and are waited for. */
export function shareMs({ scale }: Pick<Lab, 'scale'>): number {
  return scale.shareMs + READY_MS + 100;
}
