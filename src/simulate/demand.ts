import { InvalidArgumentError } from '../base/errors.ts';
import type { DemandProfile } from '../load/arrivals.ts';
import { readTrace, traceProfile, traceWindow } from '../load/trace.ts';

/** Demands that come with the simulator, by name; each is a list with one profile per task. */
export const BUILT_IN_DEMANDS = {
  burst3: 'three of square bursts × 2 to 5 of 5 to 60 s over a sine of 10 min, 20 min, means 4, 6, 8 req/s',
  burst1: 'one of square bursts, mean 10 req/s',
} as const;

/** Demands cut from the recorded Twitter stream, which the user brings as a file. */
export const TWITTER_DEMANDS = {
  tw3: 'three windows of 21 min of the Twitter stream, means 5, 7, 9 req/s',
  tw1: 'the first window of tw3 alone, mean 12 req/s',
} as const;

export type BuiltInDemand = keyof typeof BUILT_IN_DEMANDS;
export type TwitterDemand = keyof typeof TWITTER_DEMANDS;

/** @param meansRps by task, instead of the demand's own */
export function builtInDemand(name: BuiltInDemand, meansRps?: readonly number[]): DemandProfile[] {
  return meansOf(name, meansRps).map((meanRps, k) => squareBursts({ seconds: 1200, meanRps, seed: k + 1 }));
}

/**
 * Windows of the Twitter stream of August 2021, as InfAdapter (EuroMLSys 2023) prepared it: posts created or deleted per
 * second, `second,count` from the first day on (dataset/twitter_trace of
 * github.com/reconfigurable-ml-pipeline/web-service-datasets).
 * @param path the trace file, gzipped or not
 * @param meansRps by task, instead of the demand's own
 * @throws what `readTrace` throws; InvalidArgumentError for a file that ends before the windows do
 */
export async function twitterDemand(
  name: TwitterDemand,
  path: string,
  meansRps?: readonly number[],
): Promise<DemandProfile[]> {
  const means = meansOf(name, meansRps);
  const trace = await readTrace(path);
  return means.map((meanRps, k) => {
    const startMs = TWITTER_WINDOW_STARTS_S[k]! * 1000;
    return traceProfile(traceWindow(trace, startMs, startMs + TWITTER_WINDOW_S * 1000), meanRps);
  });
}

const DEFAULT_MEANS = { tw3: [5, 7, 9], burst3: [4, 6, 8], tw1: [12], burst1: [10] } as const;

const DAY_S = 86_400;
const TWITTER_WINDOW_S = 21 * 60;
/** Day 15 (from 0) at 82 min, which InfAdapter replays; day 16 at 95 min; day 3 at 20:00. */
const TWITTER_WINDOW_STARTS_S = [15 * DAY_S + 82 * 60, 16 * DAY_S + 95 * 60, 3 * DAY_S + 20 * 3600] as const;

function meansOf(
  name: keyof typeof DEFAULT_MEANS,
  meansRps: readonly number[] | undefined,
): readonly number[] {
  const means = meansRps ?? DEFAULT_MEANS[name];
  const count = DEFAULT_MEANS[name].length;
  if (means.length !== count) {
    throw new InvalidArgumentError(
      `The demand ${name} has ${count} tasks, but ${means.length} means were given.`,
    );
  }
  return means;
}

export const squareBurstDefaults = {
  /** A burst begins with this probability in every second without one. */
  perSecond: 1 / 90,
  factor: [2, 5],
  seconds: [5, 60],
  /** Demand follows 1 + amplitude · sin(2π t / period + seed). */
  periodSeconds: 600,
  amplitude: 0.5,
  /** Each second differs by up to so much. */
  noise: 0.1,
} as const;

/** A demand that bursts: the sort of client that no forecast sees coming. */
export function squareBursts(options: {
  readonly seconds: number;
  readonly meanRps: number;
  readonly seed: number;
}): DemandProfile {
  const { perSecond, factor, seconds: lengths, periodSeconds, amplitude, noise } = squareBurstDefaults;
  const uniform = mulberry32(options.seed);
  const levels: number[] = [];
  let burst = 1;
  let left = 0;
  for (let t = 0; t < options.seconds; t++) {
    if (left <= 0 && uniform() < perSecond) {
      burst = factor[0] + (factor[1] - factor[0]) * uniform();
      left = Math.trunc(lengths[0] + (lengths[1] - lengths[0]) * uniform());
    }
    if (left > 0) left--;
    else burst = 1;
    const wave = 1 + amplitude * Math.sin((2 * Math.PI * t) / periodSeconds + options.seed);
    levels.push(wave * burst * (1 - noise + 2 * noise * uniform()));
  }
  const scale = (options.meanRps * levels.length) / levels.reduce((sum, level) => sum + level, 0);
  return {
    kind: 'steps',
    points: levels.map((level, t) => ({ atMs: 1000 * t, rps: level * scale })),
    durationMs: 1000 * options.seconds,
  };
}

/**
 * The small generator by which the published burst demands were drawn (T. Ettinger, public domain); kept for these
 * alone, so that they stay the same demands. All else draws from `base/random`.
 */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}
