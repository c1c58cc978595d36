import type { ContestedThroughput, Measurement, Profile, Target, Variant } from '../../repository/types.ts';

/** A throughput as a multiple of another one. */
export interface RelativeThroughput {
  readonly median: number;
  /** Smallest by largest repetition, and largest by smallest. */
  readonly low: number;
  readonly high: number;
  /** The repetitions of one of the two kept differing. */
  readonly noisy: boolean;
  /** The other model got less than `MIN_STREAM_RATIO` of its share: the figure is that of a smaller one. */
  readonly short: boolean;
}

/** A tenth less of a share of 25 % is within what throughput varies by. */
export const MIN_STREAM_RATIO = 0.9;

/** Whether the requests of the other model left and were answered nearly as often as they should have been. */
export function keptShare({ share, maximumRps, offeredRps, answeredRps }: StreamRates): boolean {
  return Math.min(offeredRps, answeredRps) >= MIN_STREAM_RATIO * share * maximumRps;
}

type StreamRates = Pick<ContestedThroughput, 'share' | 'maximumRps' | 'offeredRps' | 'answeredRps'>;

/** In what a variant was measured: CPUs of the server, and perhaps another model beside it. */
export interface Situation {
  readonly cpus: number;
  readonly contest?: { readonly by: ContestedThroughput['by']; readonly share: number };
}

export interface RelativeTable {
  /** The target that all is relative to, free: the one with the fewest CPUs. */
  readonly base: Target;
  /** Free ones first, by CPUs; then contested ones. */
  readonly situations: readonly Situation[];
  /** In the order of `situations`; undefined where it was not measured. */
  readonly rows: readonly {
    readonly version: number;
    readonly cells: readonly (RelativeThroughput | undefined)[];
  }[];
}

/**
 * Throughput with more CPUs, and beside another model, as multiples of the free throughput on the fewest CPUs that were
 * profiled of a machine (one, usually). Source: thesis, Table 5.1.
 * @param fingerprint one of the machine's targets
 * @returns undefined if nothing but one free target was profiled
 */
export function relativeThroughputs(
  variants: readonly Variant[],
  fingerprint: string,
): RelativeTable | undefined {
  const machine = variants.map(({ profiles }) => profiles[fingerprint]).find((profile) => profile)?.target;
  if (machine === undefined) return undefined;
  const profilesOf = (variant: Variant): Profile[] =>
    Object.values(variant.profiles).filter(({ target }) => isSameMachine(target, machine));
  const targets = variants.flatMap((variant) => profilesOf(variant).map(({ target }) => target));
  const base = targets.reduce((least, target) => (target.cpus < least.cpus ? target : least), machine);
  const situations = situationsOf(variants.flatMap(profilesOf), base);
  if (situations.length === 0) return undefined;
  const rows = variants.map((variant) => {
    const free = variant.profiles[base.fingerprint];
    const cells = situations.map((situation) => {
      const measured = throughputIn(profilesOf(variant), situation);
      return free === undefined || measured === undefined ? undefined : relative(measured, free);
    });
    return { version: variant.version, cells };
  });
  return { base, situations, rows };
}

interface Measured extends Partial<StreamRates> {
  readonly throughputRps: Measurement;
  readonly noisy?: true;
}

function relative(measured: Measured, free: Measured): RelativeThroughput {
  const [a, b] = [measured.throughputRps, free.throughputRps];
  return {
    median: a.median / b.median,
    low: a.min / b.max,
    high: a.max / b.min,
    noisy: measured.noisy === true || free.noisy === true,
    short: measured.share !== undefined && !keptShare(measured as StreamRates), // Contested ones have all four.
  };
}

function situationsOf(profiles: readonly Profile[], base: Target): Situation[] {
  const situations = new Map<string, Situation>();
  for (const { target, contested = [] } of profiles) {
    const { cpus } = target;
    if (cpus !== base.cpus) situations.set(keyOf({ cpus }), { cpus });
    for (const { by, share } of contested) {
      const situation = { cpus, contest: { by, share } };
      situations.set(keyOf(situation), situation);
    }
  }
  return [...situations.values()].sort(
    (a, b) =>
      Number(a.contest !== undefined) - Number(b.contest !== undefined) ||
      a.cpus - b.cpus ||
      (a.contest?.by.task ?? '').localeCompare(b.contest?.by.task ?? '') ||
      (a.contest?.by.version ?? 0) - (b.contest?.by.version ?? 0) ||
      (a.contest?.share ?? 0) - (b.contest?.share ?? 0),
  );
}

function throughputIn(profiles: readonly Profile[], situation: Situation): Measured | undefined {
  const profile = profiles.find(({ target }) => target.cpus === situation.cpus);
  if (situation.contest === undefined) return profile;
  const key = keyOf(situation);
  return profile?.contested?.find(
    ({ by, share }) => keyOf({ cpus: situation.cpus, contest: { by, share } }) === key,
  );
}

function keyOf({ cpus, contest }: Situation): string {
  return JSON.stringify([cpus, contest?.by.task, contest?.by.version, contest?.share]);
}

/** Whether two targets differ in nothing but their CPU budget. */
function isSameMachine(a: Target, b: Target): boolean {
  const withoutBudget = ({ cpuModel, architecture, runtime, runtimeVersion, unpinned, host, name }: Target) =>
    JSON.stringify({ cpuModel, architecture, runtime, runtimeVersion, unpinned, host, name });
  return withoutBudget(a) === withoutBudget(b);
}
