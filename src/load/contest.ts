import type { Clock } from '../base/clock.ts';
import { InvalidArgumentError } from '../base/errors.ts';
import { dueTimes } from './arrivals.ts';
import type { LabelledInputs } from './labelled-inputs.ts';
import { runOpenLoop } from './open-loop.ts';

/** A model whose requests come beside those that are measured. */
export interface Contestant {
  readonly task: string;
  readonly version: number;
  readonly inputs: LabelledInputs;
}

/** What became of the stream beside a measurement, or beside several added up. */
export interface StreamCount {
  readonly sent: number;
  readonly answered: number;
  readonly elapsedMs: number;
}

/** An answer of a full queue comes sooner; what takes longer counts as not answered. */
export const CONTEST_TIMEOUT_MS = 30_000;

/** Fewer requests beside a window would make its throughput depend on where they happen to fall. */
export const CONTEST_REQUESTS_PER_WINDOW = 10;

/**
 * Offers requests for another model at a constant rate, open loop and evenly spaced, as long as `measure` runs.
 * The stream starts with it: measurements have a warm-up of their own.
 * @param options.longestMs how long `measure` may take; the stream ends then at the latest
 * @throws what `measure` throws
 */
export async function whileContested<T>(
  options: {
    readonly url: string;
    readonly contestant: Contestant;
    readonly rps: number;
    readonly longestMs: number;
    readonly seed: number;
    readonly clock: Clock;
    readonly signal: AbortSignal;
  },
  measure: () => Promise<T>,
): Promise<{ readonly measured: T; readonly stream: StreamCount }> {
  const { url, contestant, rps, longestMs, seed, clock, signal } = options;
  if (!(rps > 0 && Number.isFinite(rps)))
    throw new InvalidArgumentError(`A stream of ${rps} requests per second cannot be offered.`);
  const { task, version, inputs } = contestant;
  const end = new AbortController();
  const startMs = clock.nowMs();
  const stream = runOpenLoop({
    url,
    model: task,
    version: String(version),
    inputs,
    dueTimesMs: dueTimes({ kind: 'constant', rps, durationMs: longestMs }, { spacing: 'even', seed }),
    timeoutMs: CONTEST_TIMEOUT_MS,
    sloMs: CONTEST_TIMEOUT_MS,
    seed,
    clock,
    signal: AbortSignal.any([signal, end.signal]),
  });
  // Both end before anything else begins, so that no stream reaches into the next measurement.
  const [measured, records] = await Promise.allSettled([
    measure().finally(() => end.abort(clock.nowMs())),
    stream,
  ]);
  if (measured.status === 'rejected') throw measured.reason;
  if (records.status === 'rejected') throw records.reason;
  const endMs: number = end.signal.reason; // Set above.
  return {
    measured: measured.value,
    stream: {
      sent: records.value.length,
      answered: records.value.filter(({ outcome }) => outcome === 'ok').length,
      elapsedMs: Math.min(endMs - startMs, longestMs),
    },
  };
}

export function addStreams(streams: readonly StreamCount[]): StreamCount {
  const sum = (of: (stream: StreamCount) => number) =>
    streams.reduce((total, stream) => total + of(stream), 0);
  return {
    sent: sum(({ sent }) => sent),
    answered: sum(({ answered }) => answered),
    elapsedMs: sum(({ elapsedMs }) => elapsedMs),
  };
}
