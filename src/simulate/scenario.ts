import { InvalidArgumentError } from '../base/errors.ts';
import { profileOf, requestCpuMs, type Variant } from '../repository/types.ts';

/** The servers of a simulation and what they serve; the demand is the workload's, the decisions are the policy's. */
export interface Scenario {
  readonly tasks: readonly SimulatedTask[];
  /** CPUs of each server: with `edf` so many requests are computed at once. */
  readonly cpus: number;
  readonly servers: number;
  readonly routing: Routing;
  readonly discipline: Discipline;
  readonly admission: Admission;
  /** How many versions of each task may be resident. */
  readonly residency: number | 'all';
  /** The version of each task that serves at the start. */
  readonly initial: 'largest' | 'smallest';
  /** Share of the CPU of a version that loads, relative to a request's. */
  readonly loaderWeight: number;
  /** Loads under way at once on a server; more wait. */
  readonly parallelLoads: number;
  /** CPU time of a load where the variant's profile has none. */
  readonly loadMs: number;
  /** Inferences with which a loaded version is warmed. */
  readonly warmUps: number;
  /** Margin before deadlines that a dispatch is told to keep. */
  readonly guardMs: number;
  /** True mean service time / the profile's. */
  readonly profileFactor: number;
  /** The target whose profiles count; by default a variant's most recent one. */
  readonly fingerprint?: string;
  readonly failures: readonly ServerFailure[];
}

export interface SimulatedTask {
  readonly task: string;
  readonly sloMs: number;
  readonly weight: number;
  readonly variants: readonly Variant[];
  /** The least normalised accuracy that its clients accept; policies do not see versions below. */
  readonly minAccuracy?: number;
  /** `batch`: no deadline, fills idle time. */
  readonly priority?: 'realtime' | 'batch';
  /** See `ResidentVersion`. */
  readonly batchSharedRatio?: number;
  readonly maxBatch?: number;
}

/**
 * `ps`: a queue for each task in order of arrival, one request of each in computation, which share the CPU equally
 * (one model server per task, as in the thesis). `edf`: a queue for each CPU in order of deadlines, one request in
 * computation.
 */
export type Discipline = 'ps' | 'edf';

/**
 * `all`: every request is queued. `feasible`: one that cannot be in time, or would make others late, is refused at once
 * as our runtime does, or takes the place of those of less weight.
 */
export type Admission = 'all' | 'feasible';

/** `leastWork`: to the queue with the least work committed; `roundRobin`: to the servers in turn. */
export type Routing = 'leastWork' | 'roundRobin';

/** A server is gone for a time: what it computes fails, what waits goes to the others; it comes back cold. */
export interface ServerFailure {
  readonly server: number;
  readonly fromMs: number;
  readonly untilMs: number;
}

export const scenarioDefaults = {
  cpus: 1,
  servers: 1,
  routing: 'leastWork',
  discipline: 'edf',
  admission: 'all',
  residency: 'all',
  initial: 'smallest',
  /** nice 19 against 0 is 15 to 1024. */
  loaderWeight: 0.015,
  parallelLoads: 1,
  /** Reading, building and optimising a session of a network of some MB, as measured with ONNX Runtime. */
  loadMs: 600,
  warmUps: 2,
  guardMs: 20,
  profileFactor: 1,
  failures: [],
} as const satisfies Omit<Scenario, 'tasks' | 'fingerprint'>;

/**
 * A scenario from what is special about it.
 * @throws InvalidArgumentError naming what cannot be simulated
 */
export function makeScenario(options: Partial<Scenario> & Pick<Scenario, 'tasks'>): Scenario {
  const scenario: Scenario = { ...scenarioDefaults, ...options };
  const { tasks, cpus, servers, residency, loaderWeight, parallelLoads } = scenario;
  if (tasks.length === 0) throw new InvalidArgumentError('There is no task to simulate.');
  for (const [name, value] of Object.entries({ cpus, servers, parallelLoads })) {
    if (!(value >= 1) || (name !== 'parallelLoads' && !Number.isInteger(value))) {
      throw new InvalidArgumentError(`A simulation needs ${name} ≥ 1, got ${value}.`);
    }
  }
  if (residency !== 'all' && !(Number.isInteger(residency) && residency >= 1)) {
    throw new InvalidArgumentError(
      `Resident versions per task: expected a number ≥ 1 or all, got ${residency}.`,
    );
  }
  if (!(loaderWeight > 0))
    throw new InvalidArgumentError(`The loader's weight must be > 0, got ${loaderWeight}.`);
  for (const { server, fromMs, untilMs } of scenario.failures) {
    if (!(server >= 0 && server < servers && fromMs >= 0 && untilMs > fromMs)) {
      throw new InvalidArgumentError(
        `A failure of server ${server} (of ${servers}) from ${fromMs} to ${untilMs} ms cannot be simulated.`,
      );
    }
  }
  for (const { task, variants, sloMs } of tasks) {
    if (!(sloMs > 0)) throw new InvalidArgumentError(`Task ${task} needs an SLO > 0, got ${sloMs} ms.`);
    if (variants.length === 0) throw new InvalidArgumentError(`Task ${task} has no variant.`);
    for (const variant of variants) {
      if (profileOf(variant, scenario.fingerprint) === undefined) {
        const target = scenario.fingerprint === undefined ? '' : ` for target ${scenario.fingerprint}`;
        throw new InvalidArgumentError(
          `Version ${variant.version} of ${task} has no profile${target}: run bonsai profile, or bonsai repo show lists the targets there are.`,
        );
      }
    }
  }
  return scenario;
}

/** What the simulation knows of one version, from its profile. */
export interface VersionFigures {
  readonly version: number;
  /** Normalised by the task's most accurate version, in [0, 1]. */
  readonly accuracy: number;
  /** CPU time of one inference by the profile, in ms. */
  readonly serviceMs: number;
  readonly loadMs: number;
}

/** The versions of a task, most accurate first (of equally accurate ones the faster first). */
export function versionFigures(task: SimulatedTask, scenario: Scenario): VersionFigures[] {
  const best = Math.max(...task.variants.map(({ accuracy }) => accuracy.test));
  return task.variants
    .map((variant) => {
      // makeScenario has seen that there is one.
      const profile = profileOf(variant, scenario.fingerprint)!;
      return {
        version: variant.version,
        accuracy: best > 0 ? variant.accuracy.test / best : 1,
        serviceMs: requestCpuMs(profile),
        loadMs: profile.loadMs ?? scenario.loadMs,
      };
    })
    .sort((a, b) => b.accuracy - a.accuracy || a.serviceMs - b.serviceMs);
}
