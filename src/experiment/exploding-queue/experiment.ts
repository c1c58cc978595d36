import { median, quantile } from '../../base/statistics.ts';
import type { RequestRecord } from '../../load/records.ts';
import type { Experiment } from '../experiment.ts';
import { thinned } from '../live/live-run.ts';
import { benchMs, throughputsMs } from '../measuring/bench.ts';
import { atShares, openUnboundedBench, shareMs } from '../measuring/shares.ts';
import { measuredVersions } from '../measuring/versions.ts';
import { describeVariant } from '../wording.ts';
import { drawExplodingQueue } from './draw.ts';
import { QUEUE_SHARES } from './thesis.ts';

export interface ExplodingQueueResults {
  readonly task: string;
  readonly durationMs: number;
  /** Most accurate first. */
  readonly versions: readonly {
    readonly version: number;
    readonly description: string;
    /** As found right before, requests per second. */
    readonly maximumRps: number;
    readonly runs: readonly QueueRun[];
  }[];
}

export interface QueueRun {
  /** Of the maximum. */
  readonly share: number;
  readonly offeredRps: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Rise of latency, ms a second: what remains of each second's work for later. */
  readonly growthMsPerS: number;
  /** Whether latency rose all the time, and to what no noise explains. */
  readonly isExploding: boolean;
  readonly dots: { readonly dueMs: readonly number[]; readonly latencyMs: readonly number[] };
}

/**
 * A queue explodes where the last quarter of requests waits this much longer than the first: half of what the excess alone
 * would add over the run, and more than a hiccup.
 */
export const EXPLOSION = { excessRatio: 0.5, leastMs: 25 } as const;

/** Figures 5.10 and A.1: what happens above what a version can? */
export const explodingQueue: Experiment<ExplodingQueueResults> = {
  name: 'exploding-queue',
  thesis: 'Fig. 5.10, A.1',
  question: 'What becomes of latency when requests come a little faster than a version can answer?',
  estimateMs(lab) {
    const [first] = lab.tasks;
    if (first === undefined) return 0;
    const versionMs = benchMs(lab) + throughputsMs(lab, 3) + QUEUE_SHARES.length * shareMs(lab);
    return measuredVersions(lab, first).length * versionMs;
  },
  async run(lab) {
    const [task] = lab.tasks;
    const versions: ExplodingQueueResults['versions'][number][] = [];
    for (const variant of measuredVersions(lab, task!)) {
      const { version } = variant;
      const measured = await lab.part(`version ${version}`, async () => {
        const bench = await openUnboundedBench(lab);
        try {
          await bench.ready(task!.name, [version]);
          // Of the same server, right before: a maximum of another hour, or of a busier machine, would shift all shares.
          const { ratesRps } = await bench.throughputs(
            { task: task!.name, version, inputs: task!.inputs },
            Math.min(3, lab.scale.repeats),
          );
          const maximumRps = median(ratesRps);
          const subject = { task: task!, version, maximumRps };
          const looks = await atShares(lab, bench.server, subject, QUEUE_SHARES);
          for (const { share, records } of looks)
            await lab.keep(
              `requests-version-${version}-${Math.round(100 * share)}.csv.gz`,
              latencies(records),
            );
          return {
            maximumRps,
            runs: looks.map(({ share, offeredRps, records }) =>
              queueRunOf(share, offeredRps, records, lab.scale.shareMs),
            ),
          };
        } finally {
          await bench.close();
        }
      });
      versions.push({ version, description: describeVariant(variant), ...measured });
    }
    return {
      task: task!.name,
      durationMs: lab.scale.shareMs,
      versions: versions.toSorted((a, b) => a.version - b.version),
    };
  },
  draw: drawExplodingQueue,
};

/** A run in numbers; latencies of requests that were given up count as long as they were waited for. */
export function queueRunOf(
  share: number,
  offeredRps: number,
  records: readonly Pick<RequestRecord, 'dueMs' | 'latencyMs' | 'outcome'>[],
  durationMs: number,
): QueueRun {
  const latenciesMs = records.map(({ latencyMs }) => latencyMs);
  const quarter = (from: number, to: number) =>
    median(
      records
        .filter(({ dueMs }) => dueMs >= from * durationMs && dueMs < to * durationMs)
        .map(({ latencyMs }) => latencyMs),
    );
  const rise = quarter(0.75, 1) - quarter(0, 0.25);
  // From the middle of the first quarter to that of the last, a queue that gets `share` for each 1 that it gives.
  const expected = Math.max(0, share - 1) * 0.75 * durationMs;
  const { dueMs, latencyMs } = thinned(records, durationMs);
  return {
    share,
    offeredRps,
    p50Ms: quantile(latenciesMs, 0.5),
    p99Ms: quantile(latenciesMs, 0.99),
    growthMsPerS: rise / ((0.75 * durationMs) / 1000),
    isExploding: rise > Math.max(EXPLOSION.leastMs, EXPLOSION.excessRatio * expected),
    dots: { dueMs, latencyMs },
  };
}

function latencies(records: readonly RequestRecord[]): string {
  const lines = records.map(
    ({ dueMs, latencyMs, outcome }) => `${dueMs.toFixed(3)},${latencyMs.toFixed(3)},${outcome}`,
  );
  return `${['due_ms,latency_ms,outcome', ...lines].join('\n')}\n`;
}
