import type { ServiceSample } from '../policy.ts';

export const serviceTimeDefaults = {
  /** Weight of one request against what is known: some fifty requests are remembered. */
  gain: 0.02,
  /** A version's own times count fully only after many of them; before, those of all versions speak for it. */
  priorRequests: 25,
  /** Coefficient of variation that is assumed before anything is known. */
  initialCv: 0.1,
  /** So many requests are what is assumed before worth. */
  initialRequests: 5,
} as const;

/** How long requests really take relative to the planning times that the dispatch was told. Plain data. */
export interface ServiceRatio {
  /** Mean of actual / expected. */
  readonly ratio: number;
  /** Mean of (actual / expected)². */
  readonly squared: number;
  /** Requests learned from, fading. */
  readonly weight: number;
}

export interface ServiceMemory {
  /** Of all versions of all tasks: another load on the machine, or a wrong profile, concerns them all alike. */
  readonly all: ServiceRatio;
  /** By task and version. */
  readonly versions: Readonly<Record<string, Readonly<Record<number, ServiceRatio>>>>;
}

export const UNKNOWN_RATIO: ServiceRatio = {
  ratio: 1,
  squared: 1 + serviceTimeDefaults.initialCv ** 2,
  weight: serviceTimeDefaults.initialRequests,
};

export const EMPTY_SERVICE_MEMORY: ServiceMemory = { all: UNKNOWN_RATIO, versions: {} };

/** Learns from the requests that were computed since the decision before. */
export function learnServiceTimes(
  memory: ServiceMemory,
  tasks: readonly { readonly task: string; readonly service?: readonly ServiceSample[] }[],
): ServiceMemory {
  let { all } = memory;
  const versions: Record<string, Record<number, ServiceRatio>> = { ...memory.versions };
  for (const { task, service } of tasks) {
    if (service === undefined || service.length === 0) continue;
    const known: Record<number, ServiceRatio> = { ...versions[task] };
    for (const sample of service) {
      if (!(sample.count > 0 && sample.meanExpectedMs > 0 && Number.isFinite(sample.meanMs))) continue;
      all = learned(all, sample);
      known[sample.version] = learned(known[sample.version] ?? UNKNOWN_RATIO, sample);
    }
    versions[task] = known;
  }
  return { all, versions };
}

/** What to expect of a version: its own times, as far as they are known, else those of all. */
export function serviceRatioOf(
  { all, versions }: ServiceMemory,
  task: string,
  version: number,
): { readonly ratio: number; readonly variance: number } {
  const own = versions[task]?.[version];
  const trust = own === undefined ? 0 : own.weight / (own.weight + serviceTimeDefaults.priorRequests);
  const ratio = all.ratio + trust * ((own?.ratio ?? 0) - all.ratio);
  const squared = all.squared + trust * ((own?.squared ?? 0) - all.squared);
  return { ratio, variance: Math.max(0, squared - ratio * ratio) };
}

function learned(known: ServiceRatio, sample: ServiceSample): ServiceRatio {
  const { count } = sample;
  const ratio = sample.meanMs / sample.meanExpectedMs;
  // With little known all requests weigh alike; later old ones fade at the gain.
  const weight = Math.min(known.weight + count, 1 / serviceTimeDefaults.gain);
  const share = 1 - (1 - 1 / weight) ** count;
  return {
    ratio: known.ratio + share * (ratio - known.ratio),
    squared: known.squared + share * (squaredOf(sample, ratio) - known.squared),
    weight,
  };
}

/** Mean of (actual / expected)² over the sample. */
function squaredOf({ meanSquaredRatio, meanDeviation }: ServiceSample, ratio: number): number {
  if (meanSquaredRatio !== undefined) return meanSquaredRatio;
  // A normal distribution's mean deviation is 0.8 σ; the deviations that are given are around 1, not around the mean.
  const deviation = Math.max(0, meanDeviation - Math.abs(ratio - 1)) / 0.8;
  return ratio * ratio + deviation * deviation;
}
