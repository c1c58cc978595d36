import { InvalidArgumentError } from '../../base/errors.ts';
import { mean, quantile, summarize } from '../../base/statistics.ts';
import { workerUrl } from '../../base/worker-url.ts';
import type { Measurement } from '../../repository/types.ts';
import { runJob } from '../worker-job.ts';

/**
 * Latency of single inferences by ONNX Runtime alone: batch 1, in a worker thread of its own, on seeded inputs of the
 * network's real shapes.
 * @param model bytes or path of an ONNX file
 * @returns milliseconds over all runs after the warm-up
 * @throws BonsaiError `load_failed` or `engine_failure` as the session does, `invalid_argument` if an input has a
 *   size that only the caller can know, `worker_lost`, `aborted`
 */
export async function profileLatency(
  model: string | Uint8Array,
  options: LatencyOptions = {},
): Promise<LatencyMeasurement> {
  const { signal, ...given } = options;
  const order: LatencyOrder = { ...latencyDefaults, ...given, model };
  if (
    !(Number.isInteger(order.runs) && order.runs > 0 && Number.isInteger(order.warmup) && order.warmup >= 0)
  ) {
    throw new InvalidArgumentError(
      `Cannot profile ${order.runs} runs after ${order.warmup} to warm up; both are counts, runs at least 1.`,
    );
  }
  const url = workerUrl(import.meta.url, 'latency-worker');
  return summarizeLatencies(await runJob<LatencyOrder, never, Float64Array>(url, order, { signal }));
}

/** Location and spread of latencies: what `summarize` gives, the 95th percentile and the standard deviation. */
export function summarizeLatencies(latenciesMs: ArrayLike<number>): LatencyMeasurement {
  const center = mean(latenciesMs);
  const squares = Array.from(latenciesMs, (latency) => (latency - center) ** 2);
  return {
    ...summarize(latenciesMs),
    p95: quantile(latenciesMs, 0.95),
    standardDeviation:
      squares.length < 2 ? 0 : Math.sqrt((mean(squares) * squares.length) / (squares.length - 1)),
  };
}

export type LatencyMeasurement = Measurement &
  Required<Pick<Measurement, 'p95' | 'p99' | 'standardDeviation'>>;

export interface LatencyOptions {
  readonly runs?: number;
  readonly warmup?: number;
  /** Intra-op threads of ONNX Runtime. */
  readonly threads?: number;
  readonly seed?: number;
  /** Sizes for inputs that leave more than the batch open, by input name, batch included. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  /**
   * Leaves out the time that the thread waited for a CPU while others had it: what the machine would take if it did
   * nothing else. Has an effect on Linux only, and counts the calling thread, so use it with one thread.
   */
  readonly undisturbed?: boolean;
  readonly signal?: AbortSignal;
}

export const latencyDefaults = {
  /** The thesis' number (section 5.3): enough for a 99th percentile that ten runs stand behind. */
  runs: 1000,
  /** The arena and caches settle within a handful of runs; twenty leave a margin. */
  warmup: 20,
  threads: 1,
  seed: 1,
} as const satisfies LatencyOptions;

/** What the worker is asked for; it answers with the latency of each run in ms. */
export interface LatencyOrder {
  readonly model: string | Uint8Array;
  readonly runs: number;
  readonly warmup: number;
  readonly threads: number;
  readonly seed: number;
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  readonly undisturbed?: boolean;
}
