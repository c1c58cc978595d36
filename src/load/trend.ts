import { InvalidArgumentError } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';
import { type DemandProfile, demandAt, durationMsOf } from './arrivals.ts';

export const trendDefaults = {
  /** The thesis adds up eight. */
  sines: 8,
  /** Periods in a run, at least and at most: macro trends, not noise. */
  fewestPeriods: 0.5,
  mostPeriods: 6,
  /** The largest swing, as a share of the mean demand. */
  swing: 0.5,
  /** Resolution: that of the traces. */
  stepMs: 1_000,
} as const;

export interface TrendOptions {
  readonly seed: number;
  readonly sines?: number;
  readonly swing?: number;
  /** Demand climbs from 0 to what it is meant to be within this time. 0 by default. */
  readonly warmUpMs?: number;
}

/**
 * A macro trend over a profile, as the thesis manipulates traces (section 5.2.2): a sum of sines of random amplitude,
 * frequency and phase that starts at 0 is added, the demand climbs linearly during a warm-up, and all is scaled so that
 * the mean behind the warm-up stays what it was. Demand never falls below 0.
 * @throws InvalidArgumentError for a profile without demand, or no longer than the warm-up
 */
export function withTrend(profile: DemandProfile, options: TrendOptions): DemandProfile {
  const { stepMs, sines, swing } = { ...trendDefaults, ...options };
  const warmUpMs = options.warmUpMs ?? 0;
  const durationMs = durationMsOf(profile);
  if (!(warmUpMs >= 0 && warmUpMs < durationMs)) {
    throw new InvalidArgumentError(
      `A warm-up of ${warmUpMs} ms does not fit into ${durationMs} ms of demand.`,
    );
  }
  const times = Array.from({ length: Math.ceil(durationMs / stepMs) }, (_, i) => i * stepMs);
  const demand = times.map((atMs) => demandAt(profile, atMs));
  const settled = (values: readonly number[]) => {
    const counted = values.filter((_, i) => times[i]! >= warmUpMs);
    return counted.reduce((sum, value) => sum + value, 0) / counted.length;
  };
  const meanRps = settled(demand);
  if (!(meanRps > 0)) throw new InvalidArgumentError('A profile without demand has no trend.');
  const wave = sumOfSines(times, durationMs, { seed: options.seed, sines });
  const peak = Math.max(...wave.map(Math.abs), Number.MIN_VALUE);
  const moved = demand.map((rps, i) => Math.max(0, rps + (meanRps * swing * wave[i]!) / peak));
  const factor = meanRps / settled(moved);
  return {
    kind: 'steps',
    points: times.map((atMs, i) => ({
      atMs,
      rps: moved[i]! * factor * (warmUpMs > 0 ? Math.min(1, (atMs + stepMs / 2) / warmUpMs) : 1),
    })),
    durationMs,
  };
}

/** Σ aᵢ (sin(2π fᵢ t + φᵢ) − sin φᵢ), which is 0 at t = 0. */
function sumOfSines(
  times: readonly number[],
  durationMs: number,
  { seed, sines }: { seed: number; sines: number },
): number[] {
  const random = seededRandom(seed).fork('trend');
  const { fewestPeriods, mostPeriods } = trendDefaults;
  const terms = Array.from({ length: sines }, () => ({
    amplitude: random.uniform(),
    perMs: (2 * Math.PI * (fewestPeriods + random.uniform() * (mostPeriods - fewestPeriods))) / durationMs,
    phase: 2 * Math.PI * random.uniform(),
  }));
  return times.map((atMs) =>
    terms.reduce(
      (sum, { amplitude, perMs, phase }) =>
        sum + amplitude * (Math.sin(perMs * atMs + phase) - Math.sin(phase)),
      0,
    ),
  );
}
