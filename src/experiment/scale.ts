/** How long and how often experiments measure. */
export interface Scale {
  readonly name: ScaleName;
  /** Repetitions of throughput and latency; the thesis has 20. */
  readonly repeats: number;
  /** Rounds over all versions in which they are profiled at the beginning; their median is what policies plan with. */
  readonly profileRounds: number;
  /** Of one measurement of throughput. */
  readonly windowMs: number;
  /** Single inferences of one measurement of latency; the thesis has 1000. */
  readonly latencyRuns: number;
  /** Versions of a task that take part at most, spread over its frontier; undefined: all, on the frontier or not. */
  readonly frontierSize: number | undefined;
  /** Versions of a family that are measured one by one at most, spread evenly over it. */
  readonly versions: number;
  /** At one share of the maximum, where CPU or latency is looked at. */
  readonly shareMs: number;
  /** One step of demand: of growth, and of decline. */
  readonly growthStepMs: number;
  readonly declineStepMs: number;
  /** In whole seconds, as recorded demand is: one task on a trace; three tasks on one; before either, while demand climbs and nothing counts. */
  readonly singleMs: number;
  readonly coallocationMs: number;
  readonly distributedMs: number;
  readonly warmUpMs: number;
  /** From a server's readiness to the first request. */
  readonly settleMs: number;
  /** Repetitions of co-allocation with other demand. */
  readonly iterations: number;
  /** Factor on the time constants of policies that wait for samples, where demand moves faster than in the thesis. */
  readonly timeScale: number;
  /** Of the league: length of a window, and repetitions. */
  readonly leagueMs: number;
  readonly leagueSeeds: number;
}

export type ScaleName = 'full' | 'quick' | 'tiny';

/** The thesis' repetitions. Runs last until some ten thousand requests tell a thousandth of violations: all in two and a half hours. */
const full: Scale = {
  name: 'full',
  repeats: 20,
  profileRounds: 5,
  windowMs: 400,
  latencyRuns: 1_000,
  frontierSize: undefined,
  versions: 100,
  shareMs: 6_000,
  growthStepMs: 10_000,
  declineStepMs: 10_000,
  singleMs: 120_000,
  coallocationMs: 300_000,
  distributedMs: 150_000,
  warmUpMs: 20_000,
  settleMs: 8_000,
  iterations: 1,
  timeScale: 1,
  leagueMs: 900_000,
  leagueSeeds: 3,
};

/** All figures in a quarter of an hour on two cores. */
const quick: Scale = {
  name: 'quick',
  repeats: 3,
  profileRounds: 3,
  windowMs: 300,
  latencyRuns: 100,
  frontierSize: 5,
  versions: 4,
  shareMs: 1_500,
  growthStepMs: 1_200,
  declineStepMs: 800,
  singleMs: 9_000,
  coallocationMs: 17_000,
  distributedMs: 10_000,
  warmUpMs: 3_000,
  settleMs: 2_000,
  iterations: 1,
  timeScale: 0.1,
  leagueMs: 60_000,
  leagueSeeds: 1,
};

/** For tests: everything happens, nothing is measured well. */
const tiny: Scale = {
  name: 'tiny',
  repeats: 1,
  profileRounds: 1,
  windowMs: 150,
  latencyRuns: 20,
  frontierSize: 3,
  versions: 2,
  shareMs: 500,
  growthStepMs: 500,
  declineStepMs: 300,
  singleMs: 3_000,
  coallocationMs: 3_000,
  distributedMs: 3_000,
  warmUpMs: 1_000,
  settleMs: 500,
  iterations: 1,
  timeScale: 0.05,
  leagueMs: 60_000,
  leagueSeeds: 1,
};

export const SCALES: Readonly<Record<ScaleName, Scale>> = { full, quick, tiny };

/** So many of a list at most, its first and last among them, the others evenly between. */
export function spread<T>(items: readonly T[], most: number): T[] {
  if (items.length <= most) return [...items];
  if (most <= 1) return items.slice(0, most);
  return Array.from({ length: most }, (_, i) => items[Math.round((i * (items.length - 1)) / (most - 1))]!);
}
