import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { summarize } from '../../base/statistics.ts';
import type { Measurement } from '../../repository/types.ts';

/**
 * Repeats a measurement until it is steady: until the last `repeats` figures differ by no more than `spreadLimit`
 * (largest / smallest). On a machine that others use, the first figures are often disturbed; those drop out.
 * @param measure gives one figure > 0, for instance the maximal throughput that a load generator found
 * @returns statistics over the steady window; if none was found in `maxRepeats`, over the one that came closest
 */
export async function repeatUntilStable(
  measure: () => Promise<number>,
  options: RepeatOptions = {},
): Promise<StableMeasurement> {
  const { repeats, maxRepeats, spreadLimit, signal } = { ...repeatDefaults, ...options };
  if (!(Number.isInteger(repeats) && repeats >= 1 && maxRepeats >= repeats && spreadLimit >= 1)) {
    throw new InvalidArgumentError(
      `Cannot repeat ${repeats} to ${maxRepeats} times within a spread of ${spreadLimit}: repeats is a count, the maximum at least that, the spread at least 1.`,
    );
  }
  const figures: number[] = [];
  let best: { window: readonly number[]; spread: number } = { window: [], spread: Number.POSITIVE_INFINITY };
  while (figures.length < maxRepeats) {
    if (signal?.aborted)
      throw new BonsaiError('aborted', `Profiling was stopped after ${figures.length} measurements.`);
    figures.push(await measure());
    if (figures.length < repeats) continue;
    const window = figures.slice(-repeats);
    const spread = Math.max(...window) / Math.min(...window);
    if (best.window.length === 0 || spread < best.spread) best = { window, spread };
    if (spread <= spreadLimit) return { ...summarize(window), stable: true };
  }
  return { ...summarize(best.window), stable: false };
}

export interface RepeatOptions {
  readonly repeats?: number;
  readonly maxRepeats?: number;
  readonly spreadLimit?: number;
  readonly signal?: AbortSignal;
}

export const repeatDefaults = {
  /** The fewest that have a median which one outlier cannot move. */
  repeats: 3,
  /** Three times as many: a disturbance of a third of the time still leaves a calm window. */
  maxRepeats: 9,
  /** The project's bar for a profile that can be trusted. */
  spreadLimit: 1.15,
} as const satisfies RepeatOptions;

/**
 * Repeats a measurement over a window of time in which nothing was answered at all, each time with a longer window:
 * a machine that was busy for a moment, and a network slower than the window, are no reason to lose a whole profile.
 * @param measure does it in windows of `windowFactor` times their usual length; `server_unreachable` says that a
 *   window had no answer, every other error ends it at once
 * @param what whose measurement it is, for the message, such as `version 2 of "mnist"`
 * @throws BonsaiError `server_unreachable` after `EMPTY_WINDOW_FACTORS.length` windows, with the last one's reason
 */
export async function untilAnswered<T>(
  what: string,
  measure: (windowFactor: number) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  let last: BonsaiError | undefined;
  for (const factor of EMPTY_WINDOW_FACTORS) {
    try {
      return await measure(factor);
    } catch (thrown) {
      if (!(thrown instanceof BonsaiError) || thrown.code !== 'server_unreachable' || signal?.aborted)
        throw thrown;
      last = thrown;
    }
  }
  throw new BonsaiError(
    'server_unreachable',
    `The throughput of ${what} could not be measured: ${EMPTY_WINDOW_FACTORS.length} windows, the last ` +
      `${EMPTY_WINDOW_FACTORS.at(-1)} times as long as the first, passed without an answer. The last one: ${last?.message} ` +
      'Look whether the server still runs and whether something else takes its CPU, then run the same command again.',
    { cause: last },
  );
}

/**
 * Lengths of the windows that are tried, relative to the usual one. A disturbance rarely outlasts the second; the
 * third admits networks that take up to four windows for one answer, and ends within some ten seconds.
 */
export const EMPTY_WINDOW_FACTORS = [1, 2, 4] as const;

export interface StableMeasurement extends Measurement {
  /** Whether the window kept to the spread limit. */
  readonly stable: boolean;
}
