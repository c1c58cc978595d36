import { InvalidArgumentError } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';

/**
 * Demand in requests per second over time, as plain JSON. `linear` and `exponential` move in steps, as the
 * thesis' stress testers do (section 5.2.2): the demand holds for `intervalMs`, then changes.
 */
export type DemandProfile =
  | { readonly kind: 'constant'; readonly rps: number; readonly durationMs: number }
  /** startRps, startRps + stepRps, …; a negative step ends the profile where demand would be ≤ 0. */
  | {
      readonly kind: 'linear';
      readonly startRps: number;
      readonly stepRps: number;
      readonly intervalMs: number;
      /** Steps at most, the first included. */
      readonly steps: number;
    }
  /** startRps × (1, 3, 5, 9, 17, 33, 65, 129, …): after the first step 2^k + 1. */
  | {
      readonly kind: 'exponential';
      readonly startRps: number;
      readonly intervalMs: number;
      readonly steps: number;
    }
  /** meanRps + amplitudeRps · sin(2π t / periodMs + phase), never below 0. */
  | {
      readonly kind: 'sine';
      readonly meanRps: number;
      readonly amplitudeRps: number;
      readonly periodMs: number;
      readonly durationMs: number;
      /** Radians; −π/2 starts in the valley. 0 if absent. */
      readonly phase?: number;
    }
  /** Each demand holds from its time until the next one's, the last until `durationMs`. */
  | { readonly kind: 'steps'; readonly points: readonly DemandPoint[]; readonly durationMs: number }
  /** Straight lines between the points; ends at the last one. */
  | { readonly kind: 'ramp'; readonly points: readonly DemandPoint[] };

export interface DemandPoint {
  readonly atMs: number;
  readonly rps: number;
}

/** How requests lie within the demand: at even distances, or as a Poisson process of that rate. */
export type Spacing = 'even' | 'poisson';

/** A sine is followed by straight lines of this length: at periods of 10 s or more they err by < 0.05 % of the amplitude. */
export const SINE_PIECE_MS = 100;

/** Arrivals this near behind the end of a piece (in requests) count as rounding and fall into the next one. */
export const ROUNDING_REQUESTS = 1e-9;

/**
 * When requests are due, in ms from the start, ascending. With Λ(t) the demand integrated to t, even
 * spacing puts request k where Λ(t) = k; Poisson puts it where Λ(t) = E₁ + … + Eₖ₊₁, E exponential with
 * mean 1 (time rescaling). At a constant 10 req/s even spacing gives 0, 100, 200, … ms.
 * @throws InvalidArgumentError for a profile with impossible numbers.
 */
export function dueTimes(profile: DemandProfile, options: { spacing: Spacing; seed: number }): Float64Array {
  const random = seededRandom(options.seed).fork('arrivals');
  const gap = options.spacing === 'even' ? () => 1 : () => random.exponential(1);
  const due: number[] = [];
  let target = options.spacing === 'even' ? 0 : gap();
  let offered = 0;
  for (const piece of piecesOf(profile)) {
    const lengthMs = piece.endMs - piece.startMs;
    const total = ((piece.startRps + piece.endRps) / 2) * (lengthMs / 1000);
    while (target < offered + total - ROUNDING_REQUESTS) {
      due.push(piece.startMs + timeToOffer(Math.max(0, target - offered), piece));
      target += gap();
    }
    offered += total;
  }
  return Float64Array.from(due);
}

/** Demand in req/s at `tMs`; 0 before the start and after the end. */
export function demandAt(profile: DemandProfile, tMs: number): number {
  if (tMs < 0 || tMs >= durationMsOf(profile)) return 0;
  if (profile.kind === 'sine') return sineAt(profile, tMs);
  const piece = piecesOf(profile).find(({ startMs, endMs }) => tMs >= startMs && tMs < endMs);
  if (piece === undefined) return 0;
  const share = (tMs - piece.startMs) / (piece.endMs - piece.startMs);
  return piece.startRps + share * (piece.endRps - piece.startRps);
}

/** How long the profile lasts. */
export function durationMsOf(profile: DemandProfile): number {
  switch (profile.kind) {
    case 'constant':
    case 'sine':
    case 'steps':
      return profile.durationMs;
    case 'linear':
    case 'exponential':
      return seriesOf(profile).length * profile.intervalMs;
    case 'ramp':
      return profile.points.at(-1)?.atMs ?? 0;
    default:
      return profile satisfies never;
  }
}

/**
 * The changes of demand that a figure marks: where a stepwise profile jumps, and every `sampleMs` of one
 * that moves all the time.
 */
export function demandSteps(profile: DemandProfile, sampleMs: number): DemandPoint[] {
  if (profile.kind !== 'sine' && profile.kind !== 'ramp') {
    return piecesOf(profile).map(({ startMs, startRps }) => ({ atMs: startMs, rps: startRps }));
  }
  const count = Math.ceil(durationMsOf(profile) / sampleMs);
  return Array.from({ length: count }, (_, i) => ({
    atMs: i * sampleMs,
    rps: demandAt(profile, i * sampleMs),
  }));
}

/** A stretch of time in which demand is a straight line. */
interface Piece {
  readonly startMs: number;
  readonly endMs: number;
  readonly startRps: number;
  readonly endRps: number;
}

/** ms from the piece's start until its demand has offered `requests`: the root of a·t + b·t²/2 = requests. */
function timeToOffer(requests: number, { startMs, endMs, startRps, endRps }: Piece): number {
  const perMs = startRps / 1000;
  const growth = (endRps - startRps) / 1000 / (endMs - startMs);
  const root = Math.sqrt(Math.max(0, perMs * perMs + 2 * growth * requests));
  // 2c / (a + √…) rather than (√… − a) / b: it neither cancels nor divides by a growth of 0.
  return requests === 0 ? 0 : (2 * requests) / (perMs + root);
}

function piecesOf(profile: DemandProfile): Piece[] {
  const pieces = piecesOfKind(profile);
  for (const { startMs, endMs, startRps, endRps } of pieces) {
    if (!(endMs > startMs && Number.isFinite(endMs))) {
      throw new InvalidArgumentError(
        `Demand profile "${profile.kind}": ${startMs} ms to ${endMs} ms is not a stretch of time.`,
      );
    }
    if (!(startRps >= 0 && endRps >= 0 && Number.isFinite(startRps + endRps))) {
      throw new InvalidArgumentError(
        `Demand profile "${profile.kind}": ${startRps} to ${endRps} req/s is not a demand ≥ 0.`,
      );
    }
  }
  if (pieces.length === 0) throw new InvalidArgumentError(`Demand profile "${profile.kind}" is empty.`);
  return pieces;
}

function piecesOfKind(profile: DemandProfile): Piece[] {
  switch (profile.kind) {
    case 'constant':
      return [{ startMs: 0, endMs: profile.durationMs, startRps: profile.rps, endRps: profile.rps }];
    case 'linear':
    case 'exponential':
      return seriesOf(profile).map((rps, step) => ({
        startMs: step * profile.intervalMs,
        endMs: (step + 1) * profile.intervalMs,
        startRps: rps,
        endRps: rps,
      }));
    case 'sine': {
      const count = Math.ceil(profile.durationMs / SINE_PIECE_MS);
      return Array.from({ length: count }, (_, i) => {
        const startMs = i * SINE_PIECE_MS;
        const endMs = Math.min(profile.durationMs, startMs + SINE_PIECE_MS);
        return { startMs, endMs, startRps: sineAt(profile, startMs), endRps: sineAt(profile, endMs) };
      });
    }
    case 'steps':
      return profile.points.map(({ atMs, rps }, i) => ({
        startMs: atMs,
        endMs: profile.points[i + 1]?.atMs ?? profile.durationMs,
        startRps: rps,
        endRps: rps,
      }));
    case 'ramp':
      return profile.points.slice(1).map(({ atMs, rps }, i) => ({
        startMs: profile.points[i]!.atMs,
        endMs: atMs,
        startRps: profile.points[i]!.rps,
        endRps: rps,
      }));
    default:
      return profile satisfies never;
  }
}

/** The demands of a stepwise profile, one after another. */
function seriesOf(profile: Extract<DemandProfile, { kind: 'linear' | 'exponential' }>): number[] {
  if (!(Number.isInteger(profile.steps) && profile.steps > 0 && profile.intervalMs > 0)) {
    throw new InvalidArgumentError(
      `Demand profile "${profile.kind}" needs ≥ 1 steps of > 0 ms, got ${profile.steps} of ${profile.intervalMs} ms.`,
    );
  }
  const steps = Array.from({ length: profile.steps }, (_, k) => k);
  if (profile.kind === 'exponential') return steps.map((k) => profile.startRps * (k === 0 ? 1 : 2 ** k + 1));
  const demands = steps.map((k) => profile.startRps + k * profile.stepRps);
  const end = demands.findIndex((rps) => rps <= 0);
  return end === -1 ? demands : demands.slice(0, end);
}

function sineAt(profile: Extract<DemandProfile, { kind: 'sine' }>, tMs: number): number {
  const angle = (2 * Math.PI * tMs) / profile.periodMs + (profile.phase ?? 0);
  return Math.max(0, profile.meanRps + profile.amplitudeRps * Math.sin(angle));
}
