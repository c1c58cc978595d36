import { median } from '../../base/statistics.ts';
import type { DemandSample } from '../policy.ts';

export const demandLevelDefaults = {
  /** Demand is looked at in means over so long: one second's count alone is noise, and a burst lasts some seconds. */
  windowMs: 5_000,
  /** Older demand is forgotten. A shorter memory follows single bursts, too late for each. */
  historyMs: 600_000,
  /** What is expected before much was seen weighs as much as so long a history. */
  priorMs: 180_000,
} as const;

/**
 * Multiples of the usual (median) demand that are expected before much was seen, and their shares of time: lulls, bursts.
 * Not of the mean: one burst in the first minute is half of that.
 */
export const PRIOR_LEVELS: readonly { readonly factor: number; readonly timeRatio: number }[] = [
  { factor: 0.5, timeRatio: 0.4 },
  { factor: 1, timeRatio: 0.4 },
  { factor: 2, timeRatio: 0.15 },
  { factor: 4, timeRatio: 0.05 },
];

/** A demand that was met. */
export interface DemandLevel {
  /** By task, in req/s. */
  readonly rps: readonly number[];
  /** Share of time; those of all levels sum to 1. */
  readonly timeRatio: number;
}

/**
 * What demand has been like: the windows of the history, ordered by the demand of all tasks together, in `count` groups of
 * about equally many requests (so that bursts, which are short, are told apart), the calmest first. A load takes seconds
 * and a set of versions lives for many, so sets are judged by all of these: bursts that came will come again. After a short history, in
 * which there may have been none, multiples of its median stand for what it has not shown (`PRIOR_LEVELS`).
 * @param histories by task, ascending in time
 * @returns fewer than `count` where there is little history
 */
export function demandLevels(
  histories: readonly (readonly DemandSample[])[],
  { nowMs, count }: { readonly nowMs: number; readonly count: number },
): readonly DemandLevel[] {
  const windows = new Map<number, { readonly sums: number[]; readonly samples: number[] }>();
  for (const [k, history] of histories.entries()) {
    for (let i = history.length - 1; i >= 0; i--) {
      const { atMs, demandRps } = history[i]!;
      if (atMs <= nowMs - demandLevelDefaults.historyMs) break;
      const index = Math.ceil(atMs / demandLevelDefaults.windowMs);
      let window = windows.get(index);
      if (window === undefined) {
        window = { sums: histories.map(() => 0), samples: histories.map(() => 0) };
        windows.set(index, window);
      }
      window.sums[k] = window.sums[k]! + demandRps;
      window.samples[k] = window.samples[k]! + 1;
    }
  }
  const { windowMs, priorMs } = demandLevelDefaults;
  const seen = [...windows.values()].map(({ sums, samples }) =>
    demandOf(
      sums.map((sum, k) => (samples[k]! > 0 ? sum / samples[k]! : 0)),
      windowMs,
    ),
  );
  if (seen.length === 0) return [];
  const usualRps = histories.map((_history, k) => median(seen.map(({ rps }) => rps[k]!)));
  const expected = PRIOR_LEVELS.map(({ factor, timeRatio }) =>
    demandOf(
      usualRps.map((each) => factor * each),
      timeRatio * priorMs,
    ),
  );
  return grouped([...seen, ...expected], count);
}

/** A demand that held for so long. */
interface HeldDemand {
  readonly rps: readonly number[];
  readonly totalRps: number;
  readonly durationMs: number;
}

function demandOf(rps: readonly number[], durationMs: number): HeldDemand {
  return { rps, totalRps: rps.reduce((sum, each) => sum + each, 0), durationMs };
}

/** Groups of about equally many requests, from the least demand to the highest. */
function grouped(demands: readonly HeldDemand[], count: number): DemandLevel[] {
  const requestsOf = ({ totalRps, durationMs }: HeldDemand) => totalRps * durationMs;
  const ordered = demands.toSorted((a, b) => a.totalRps - b.totalRps);
  const everything = ordered.reduce((sum, demand) => sum + requestsOf(demand), 0);
  const allMs = ordered.reduce((sum, { durationMs }) => sum + durationMs, 0);
  const groups: HeldDemand[][] = [];
  let before = 0;
  let last = -1;
  for (const demand of ordered) {
    const requests = requestsOf(demand);
    // By the middle of its requests, so that one huge window opens one group.
    const group = Math.floor(((before + requests / 2) * count) / Math.max(everything, Number.MIN_VALUE));
    before += requests;
    if (group !== last) groups.push([]);
    last = group;
    groups.at(-1)!.push(demand);
  }
  return groups.map((members) => {
    const memberMs = members.reduce((sum, { durationMs }) => sum + durationMs, 0);
    const weighted = (k: number) =>
      members.reduce((sum, { rps, durationMs }) => sum + rps[k]! * durationMs, 0);
    return {
      rps: members[0]!.rps.map((_, k) => weighted(k) / memberMs),
      timeRatio: memberMs / allMs,
    };
  });
}
