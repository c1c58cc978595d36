import { InvalidArgumentError } from '../../base/errors.ts';
import { summarize } from '../../base/statistics.ts';
import { workerUrl } from '../../base/worker-url.ts';
import type { Measurement } from '../../repository/types.ts';
import { runJob } from '../worker-job.ts';
import type { LatencyOptions } from './latency.ts';

/**
 * Latencies of several networks that are to be compared: single inferences at batch 1 in one worker thread. Networks take
 * turns, so that whatever else the machine does meets all of them alike. A turn is `turnRuns` runs after one that does not
 * count: it finds the caches full of another network's weights, which a server that runs one network never does.
 * @param models bytes or paths of ONNX files
 * @returns milliseconds of each, in the given order, over all runs after the warm-up
 * @throws what `profileLatency` throws
 */
export async function compareLatency(
  models: readonly (string | Uint8Array)[],
  options: LatencyOptions = {},
): Promise<readonly Measurement[]> {
  const { signal, ...given } = options;
  const order: ComparisonOrder = { ...comparisonDefaults, ...given, models };
  const isCount = (value: number, least: number) => Number.isInteger(value) && value >= least;
  if (models.length === 0 || !isCount(order.runs, 1) || !isCount(order.warmup, 0)) {
    throw new InvalidArgumentError(
      `Cannot compare ${models.length} networks over ${order.runs} runs after ${order.warmup} to warm up; all are ` +
        'counts, networks and runs at least 1.',
    );
  }
  const url = workerUrl(import.meta.url, 'compare-latency-worker');
  const latencies = await runJob<ComparisonOrder, never, Float64Array[]>(url, order, { signal });
  return latencies.map(summarize);
}

export const comparisonDefaults = {
  /** Of each network. The medians of 300 turns differ by about 1 % between repetitions on a quiet machine. */
  runs: 300,
  warmup: 20,
  threads: 1,
  seed: 1,
} as const satisfies LatencyOptions;

/** Runs of a network in a row, so many that the one that does not count is little beside them. */
export const turnRuns = 8;

/** What the worker is asked for; it answers with the latency of each run of each network in ms. */
export interface ComparisonOrder {
  readonly models: readonly (string | Uint8Array)[];
  readonly runs: number;
  readonly warmup: number;
  readonly threads: number;
  readonly seed: number;
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  readonly undisturbed?: boolean;
}
