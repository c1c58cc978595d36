import type { CostMetric, Variant } from '../repository/types.ts';

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
  /** Requests that arrived, sample by sample, ascending in time. */
  readonly demand: readonly DemandSample[];
  /** The frontier for the policy's metric, most accurate first. */
  readonly frontier: readonly Variant[];
  /** Requests waiting in the server's queue. */
  readonly queued?: number;
}

export interface CpuSample {
  readonly atMs: number;
  readonly utilization: number;
}

export interface DemandSample {
  readonly atMs: number;
  /** Arrivals per second since the sample before, refused ones included. */
  readonly demandRps: number;
}

export interface Decision {
  readonly actions: readonly Action[];
  /** One sentence with its numbers: why these actions, or why none. */
  readonly reason: string;
  /** For the administrators: observation and model part. */
  readonly notice?: string;
  readonly memory?: unknown;
}

export interface Action {
  readonly kind: 'switch';
  readonly task: string;
  readonly toVersion: number;
}
