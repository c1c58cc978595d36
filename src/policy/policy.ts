import type { CostMetric, Variant } from '../repository/types.ts';
import type { Dispatch } from './dispatch.ts';

/**
 * A policy decides which version of each task serves. It is a pure function: no I/O, no clock, no random numbers,
 * its input untouched; so that the same object runs live and in the simulator. What it remembers between calls it
 * returns as `memory` and finds again in the next state.
 */
export interface Policy {
  readonly name: string;
  /** The cost by which the caller makes `TaskState.frontier`; `inverseThroughput` if absent. */
  readonly metric?: CostMetric;
  /** How often the policy wants to be asked, in ms; the caller's default if absent. */
  readonly periodMs?: number;
  decide(state: PolicyState): Decision;
  /** Chooses the version request by request; where absent, each task is answered by the version last switched to. */
  readonly dispatch?: Dispatch;
}

/** What is asked of a task; where absent: weight 1, the caller's SLO, any accuracy. */
export interface TaskObjective {
  /** Importance among tasks, > 0. */
  readonly weight?: number;
  readonly sloMs?: number;
  /** The least normalised accuracy, in [0, 1]: versions below are never used. */
  readonly minAccuracy?: number;
}

/** All that a policy may know. Times are on one monotonic scale, in ms. */
export interface PolicyState {
  readonly nowMs: number;
  readonly tasks: readonly TaskState[];
  /** Ascending in time; `utilization` is CPU used / CPU budget since the sample before, 1 = all of it. */
  readonly cpu: readonly CpuSample[];
  /** When the last change of allocation began; undefined: none yet. */
  readonly lastChangeMs?: number;
  /** Cores given to the server. */
  readonly cpuBudget: number;
  /** Inferences that the server computes at a time; undefined: one on each whole CPU. */
  readonly slots?: number;
  readonly memory?: unknown;
}

export interface TaskState {
  readonly task: string;
  /** Share of importance among tasks, 1 by default. */
  readonly weight: number;
  readonly sloMs: number;
  /** The version that serves now; undefined: none. */
  readonly servingVersion?: number;
  /** A switch under way. */
  readonly loadingVersion?: number;
  /** Requests with an objective that arrived, sample by sample, ascending in time. */
  readonly demand: readonly DemandSample[];
  /** The frontier for the policy's metric, most accurate first; what is too inaccurate for the task is left out. */
  readonly frontier: readonly Variant[];
  /** Requests with an objective that wait in the server's queue. */
  readonly queued?: number;
  /** Versions that can answer at once, ascending; where absent, the serving one alone. */
  readonly resident?: readonly number[];
  /** Versions on their way to residency by `Decision.residency`. */
  readonly loading?: readonly number[];
  /** How many versions of the task may be resident; where absent, one and the one that replaces it. */
  readonly residencyLimit?: number;
  /** What the server itself expects of its versions, where it measures them; it counts more than their profiles. */
  readonly planned?: readonly PlannedService[];
  /** Requests computed since the policy was last asked, by version. */
  readonly service?: readonly ServiceSample[];
  /** Requests since the policy was last asked that were shed, failed or late. */
  readonly violations?: number;
}

/** The time that a server's own dispatch reckons with for one inference by a version. */
export interface PlannedService {
  readonly version: number;
  readonly serviceMs: number;
}

/** What the requests computed by one version took, from dispatch to answer. */
export interface ServiceSample {
  readonly version: number;
  readonly count: number;
  readonly meanMs: number;
  /** Of the planning time that the dispatch was told, over the same requests. */
  readonly meanExpectedMs: number;
  /** Mean of |actual − expected| / expected. */
  readonly meanDeviation: number;
  /** Mean of (actual / expected)²; tells spread from bias. */
  readonly meanSquaredRatio?: number;
}

export interface CpuSample {
  readonly atMs: number;
  readonly utilization: number;
}

export interface DemandSample {
  readonly atMs: number;
  /** Arrivals per second since the sample before, refused ones included, those of the batch class not. */
  readonly demandRps: number;
}

export interface Decision {
  readonly actions: readonly Action[];
  /** One sentence with its numbers: why these actions, or why none. */
  readonly reason: string;
  /** For the administrators: observation and model part. */
  readonly notice?: string;
  readonly memory?: unknown;
  /** Versions to bring to memory or to let go, beside those of `actions`; for servers that keep several per task. */
  readonly residency?: readonly ResidencyAction[];
  /** What the policy's dispatch finds as `plan` until the next decision; where absent, the plan before stays. */
  readonly plan?: unknown;
}

/** A version that is loaded answers requests where the dispatch chooses it; one let go drains first. */
export interface ResidencyAction {
  readonly kind: 'load' | 'unload';
  readonly task: string;
  readonly version: number;
}

export interface Action {
  readonly kind: 'switch';
  readonly task: string;
  readonly toVersion: number;
}
