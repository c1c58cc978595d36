import { InvalidArgumentError } from '../base/errors.ts';
import { type Random, seededRandom } from '../base/random.ts';
import { type DemandProfile, dueTimes, durationMsOf } from '../load/arrivals.ts';

/** Every request of a run: when it comes, for which task, and how its service time differs from the mean. */
export interface Workload {
  readonly durationMs: number;
  /** Ascending. */
  readonly arrivalMs: Float64Array;
  /** Index of the task. */
  readonly task: Uint16Array;
  /** Service time / mean service time of the version. */
  readonly multiplier: Float64Array;
  /** The demand that it was drawn from, by task. */
  readonly demand: readonly DemandProfile[];
}

export interface WorkloadOptions {
  /** How requests of one task lie within its demand. */
  readonly spacing?: 'poisson' | 'even';
  /** Mean size of clumps that arrive at one moment (geometric sizes); 1: requests come one by one. */
  readonly clumpMean?: number;
  /** Coefficient of variation of service times, which are gamma distributed; 0: constant, 1: exponential. */
  readonly serviceCv?: number;
  /** Some requests take longer. */
  readonly stragglers?: { readonly ratio: number; readonly factor: number };
  readonly seed: number;
}

export const workloadDefaults = {
  spacing: 'poisson',
  clumpMean: 1,
  /** Of convolutional networks on one pinned CPU; inputs have one size, so little varies. */
  serviceCv: 0.1,
} as const;

/**
 * Draws a workload. Arrivals and service times come from streams of their own for each task, so that the same
 * requests come whatever else is changed.
 * @param demand by task
 * @throws InvalidArgumentError for impossible numbers
 */
export function drawWorkload(demand: readonly DemandProfile[], options: WorkloadOptions): Workload {
  const { clumpMean, serviceCv } = { ...workloadDefaults, ...options };
  if (!(clumpMean >= 1)) throw new InvalidArgumentError(`Clumps must hold ≥ 1 requests, got ${clumpMean}.`);
  if (!(serviceCv >= 0)) throw new InvalidArgumentError(`Service times need a CV ≥ 0, got ${serviceCv}.`);
  const perTask = demand.map((profile, task) => arrivalsOf(profile, task, options));
  const count = perTask.reduce((sum, times) => sum + times.length, 0);
  const arrivalMs = new Float64Array(count);
  const tasks = new Uint16Array(count);
  const next = perTask.map(() => 0);
  for (let i = 0; i < count; i++) {
    let first = -1;
    for (let task = 0; task < perTask.length; task++) {
      const timeMs = perTask[task]![next[task]!];
      if (timeMs !== undefined && (first < 0 || timeMs < perTask[first]![next[first]!]!)) first = task;
    }
    arrivalMs[i] = perTask[first]![next[first]!++]!;
    tasks[i] = first;
  }
  return {
    durationMs: Math.max(...demand.map(durationMsOf)),
    arrivalMs,
    task: tasks,
    multiplier: multipliers(tasks, demand.length, serviceCv, options),
    demand,
  };
}

function arrivalsOf(profile: DemandProfile, task: number, options: WorkloadOptions): ArrayLike<number> {
  const { clumpMean, spacing } = { ...workloadDefaults, ...options };
  const seed = seedOf(options.seed, task);
  if (clumpMean === 1) return dueTimes(profile, { spacing, seed });
  // Clumps of geometric size come as a process of rate demand / mean size.
  const clumps = dueTimes(scaledDemand(profile, 1 / clumpMean), { spacing, seed });
  const random = seededRandom(seed).fork('clumps');
  const times: number[] = [];
  for (const timeMs of clumps) {
    do times.push(timeMs);
    while (random.uniform() < 1 - 1 / clumpMean);
  }
  return times;
}

/** The profile with every demand multiplied. */
export function scaledDemand(profile: DemandProfile, factor: number): DemandProfile {
  const points = (list: readonly { atMs: number; rps: number }[]) =>
    list.map(({ atMs, rps }) => ({ atMs, rps: rps * factor }));
  switch (profile.kind) {
    case 'constant':
      return { ...profile, rps: profile.rps * factor };
    case 'linear':
      return { ...profile, startRps: profile.startRps * factor, stepRps: profile.stepRps * factor };
    case 'exponential':
      return { ...profile, startRps: profile.startRps * factor };
    case 'sine':
      return { ...profile, meanRps: profile.meanRps * factor, amplitudeRps: profile.amplitudeRps * factor };
    case 'steps':
      return { ...profile, points: points(profile.points) };
    case 'ramp':
      return { ...profile, points: points(profile.points) };
    default:
      return profile satisfies never;
  }
}

function multipliers(
  tasks: Uint16Array,
  taskCount: number,
  serviceCv: number,
  { seed, stragglers }: WorkloadOptions,
): Float64Array {
  const streams = Array.from({ length: taskCount }, (_, task) => {
    const random = seededRandom(seedOf(seed, task));
    return { service: random.fork('service'), straggler: random.fork('stragglers') };
  });
  return Float64Array.from(tasks, (task) => {
    const { service, straggler } = streams[task]!;
    const multiplier = gammaOfMeanOne(service, serviceCv);
    if (stragglers === undefined) return multiplier;
    return straggler.uniform() < stragglers.ratio ? multiplier * stragglers.factor : multiplier;
  });
}

/**
 * A gamma variate with mean 1 and the given coefficient of variation: shape k = 1/cv², scale 1/k. cv = 1 is the
 * exponential distribution. Source: Marsaglia and Tsang, "A simple method for generating gamma variables", 2000.
 */
export function gammaOfMeanOne(random: Random, cv: number): number {
  if (cv === 0) return 1;
  const shape = 1 / (cv * cv);
  if (shape < 1) {
    // Gamma(k) = Gamma(k + 1) · U^(1/k)
    const boosted = gammaShape(random, shape + 1);
    return (boosted * (1 - random.uniform()) ** (1 / shape)) / shape;
  }
  return gammaShape(random, shape) / shape;
}

function gammaShape(random: Random, shape: number): number {
  const d = shape - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = random.normal();
    const v = (1 + c * x) ** 3;
    if (v <= 0) continue;
    const u = 1 - random.uniform();
    if (Math.log(u) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v;
  }
}

/** Seeds of tasks lie far apart, so that neighbouring seeds of runs share no stream. */
function seedOf(seed: number, task: number): number {
  return (Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(task + 1, 0x85ebca77)) | 0;
}
