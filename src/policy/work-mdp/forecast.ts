import type { DemandSample } from '../policy.ts';

/** Gains and weights were chosen in simulation on bursts and Twitter windows; results are flat around them. */
export const forecastDefaults = {
  /** Share of a surprise that the level follows at once. */
  levelGain: 0.25,
  deviationGain: 0.1,
  /**
   * What a sample has more than chance explains is followed whole: demand has risen, and each second of doubt fills the queue. Chance
   * explains so many standard deviations, of Poisson arrivals or of what demand has been like.
   */
  chanceDeviations: 4,
  /** The forecast never falls below these shares of recent means: a lull of some seconds is no end of demand. */
  shortWindowMs: 3_000,
  shortShare: 0.9,
  longWindowMs: 10_000,
  longShare: 0.8,
  /** A task is never thought to be without demand. */
  minRps: 0.05,
} as const;

/** What is remembered of a task's demand between decisions. Plain data. */
export interface DemandMemory {
  /** Of the last sample that was learned from. */
  readonly atMs: number;
  readonly levelRps: number;
  /** Mean absolute deviation of samples from the level before them. */
  readonly deviationRps: number;
}

/** Learns from the samples that came since. The gains are per second, however often samples come. */
export function learnDemand(
  memory: DemandMemory | undefined,
  demand: readonly DemandSample[],
): DemandMemory | undefined {
  let next = memory;
  for (let i = firstAfter(demand, memory?.atMs ?? Number.NEGATIVE_INFINITY); i < demand.length; i++) {
    const { atMs, demandRps } = demand[i]!;
    if (next === undefined) {
      next = { atMs, levelRps: demandRps, deviationRps: Math.sqrt(demandRps) };
      continue;
    }
    const seconds = Math.max(0, atMs - next.atMs) / 1000;
    const surprise = demandRps - next.levelRps;
    const rise = Math.max(0, surprise - chanceRps(next, seconds));
    next = {
      atMs,
      levelRps: next.levelRps + rise + gainOver(forecastDefaults.levelGain, seconds) * (surprise - rise),
      deviationRps:
        next.deviationRps +
        gainOver(forecastDefaults.deviationGain, seconds) * (Math.abs(surprise) - next.deviationRps),
    };
  }
  return next;
}

/** Of a normal distribution, by its mean absolute deviation. */
const STANDARD_BY_MEAN_DEVIATION = 1.25;

/** By how much a sample over so many seconds may exceed the level without being news. */
function chanceRps({ levelRps, deviationRps }: DemandMemory, seconds: number): number {
  const poissonRps = Math.sqrt(Math.max(levelRps, forecastDefaults.minRps) / Math.max(seconds, 1e-3));
  return forecastDefaults.chanceDeviations * Math.max(poissonRps, STANDARD_BY_MEAN_DEVIATION * deviationRps);
}

/**
 * Demand to plan for in the next second, in req/s: the level, or a share of recent means where that is more, and so
 * many deviations as caution asks for.
 */
export function forecastRps(
  memory: DemandMemory | undefined,
  demand: readonly DemandSample[],
  { nowMs, caution }: { readonly nowMs: number; readonly caution: number },
): number {
  if (memory === undefined) return forecastDefaults.minRps;
  const { shortWindowMs, shortShare, longWindowMs, longShare, minRps } = forecastDefaults;
  const level = Math.max(
    memory.levelRps,
    shortShare * meanSince(demand, nowMs - shortWindowMs),
    longShare * meanSince(demand, nowMs - longWindowMs),
  );
  return Math.max(minRps, level + caution * 0.9 * memory.deviationRps);
}

/** Share of a surprise that is followed after `seconds`, if it is `gain` after one. */
function gainOver(gain: number, seconds: number): number {
  return seconds === 1 ? gain : 1 - (1 - gain) ** seconds;
}

/** Mean of the samples after `sinceMs`; 0 without any. */
export function meanSince(demand: readonly DemandSample[], sinceMs: number): number {
  let sum = 0;
  let count = 0;
  for (let i = demand.length - 1; i >= 0 && demand[i]!.atMs > sinceMs; i--) {
    sum += demand[i]!.demandRps;
    count++;
  }
  return count > 0 ? sum / count : 0;
}

function firstAfter(demand: readonly DemandSample[], atMs: number): number {
  let first = demand.length;
  while (first > 0 && demand[first - 1]!.atMs > atMs) first--;
  return first;
}
