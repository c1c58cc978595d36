/**
 * Chooses which version answers a waiting request, at the moment when a slot (a CPU server that computes one job at a
 * time) is free. It runs for every request, live and in the simulator: a pure function of plain data, no clock, no
 * random numbers, its input untouched. What the slow half of a policy has planned (`Decision.plan`) reaches it as `plan`.
 */
export interface Dispatch {
  readonly name: string;
  pick(state: DispatchState): DispatchDecision;
}

/** All that a dispatch may know. Times in ms on one monotonic scale; the arrays may be reused by the caller afterwards. */
export interface DispatchState {
  readonly nowMs: number;
  /** Number of the slot that is free. */
  readonly slot: number;
  /** The requests that wait for this slot, earliest deadline first, of equal deadlines the earlier arrival; never empty. */
  readonly queue: readonly QueuedRequest[];
  readonly tasks: readonly DispatchTask[];
  /** Safety margin to keep before each deadline: what the planning times do not know of. */
  readonly guardMs: number;
  /** What the policy's `decide` last returned as `plan`; undefined before its first decision. */
  readonly plan?: unknown;
}

export interface QueuedRequest {
  /** Index into `DispatchState.tasks`. */
  readonly task: number;
  readonly arrivalMs: number;
  /** The answer must be there by then; `Infinity` where there is no deadline. */
  readonly deadlineMs: number;
  /** The least normalised accuracy, in [0, 1], that the client accepts. */
  readonly minAccuracy?: number;
  /** The only version that the client accepts. */
  readonly version?: number;
  /** Examples that the request brings, computed together; 1 where absent. */
  readonly rows?: number;
  /** Importance; 1 by default. */
  readonly weight: number;
  /** `batch` requests have no deadline and fill idle time. */
  readonly priority: 'realtime' | 'batch';
}

export interface DispatchTask {
  readonly task: string;
  /** Versions that can answer at once, most accurate first; empty: none is loaded. */
  readonly versions: readonly ResidentVersion[];
  /** The version that the policy last named for the task (`Action` of kind `switch`), once it is resident. */
  readonly servingVersion?: number;
  /** The latency objective of the task. */
  readonly sloMs: number;
  readonly weight: number;
}

export interface ResidentVersion {
  readonly version: number;
  /** Accuracy over that of the task's most accurate version, in [0, 1]. */
  readonly accuracy: number;
  /** Planning time of one inference on this slot, from dispatch to answer. */
  readonly serviceMs: number;
  /**
   * The share α of `serviceMs` that a batch pays once: b requests take serviceMs · (α + (1 − α) · b).
   * 0 or absent: batches save nothing.
   */
  readonly batchSharedRatio?: number;
  /** Largest batch that the version accepts; 1 where absent. */
  readonly maxBatch?: number;
  /** Requests given to the version since the present plan came (all slots). */
  readonly dispatched: number;
}

export type DispatchDecision =
  | {
      readonly kind: 'run';
      /** Index into `queue` of the request to run. */
      readonly index: number;
      readonly version: number;
      /** So many requests of the same task run as one job: this one and those that follow it in the queue. 1 if absent. */
      readonly batch?: number;
    }
  | { readonly kind: 'shed'; readonly index: number; readonly reason: ShedReason }
  /** Nothing now; asked again when a request arrives, a version becomes resident, or at `untilMs`. */
  | { readonly kind: 'wait'; readonly untilMs?: number };

/**
 * `deadline`: even the fastest acceptable version would be late. `overload`: given up so that others are in time.
 * `accuracy`: no resident version is accurate enough. `unavailable`: no acceptable version is resident.
 */
export type ShedReason = 'deadline' | 'overload' | 'accuracy' | 'unavailable';

/** Time that `batch` requests take as one job by the version. */
export function batchServiceMs(
  { serviceMs, batchSharedRatio = 0 }: Pick<ResidentVersion, 'serviceMs' | 'batchSharedRatio'>,
  batch: number,
): number {
  return serviceMs * (batchSharedRatio + (1 - batchSharedRatio) * batch);
}

/** Whether the client of the request accepts this version. */
export function accepts(request: QueuedRequest, { version, accuracy }: ResidentVersion): boolean {
  return (
    (request.version === undefined || request.version === version) &&
    (request.minAccuracy === undefined || accuracy >= request.minAccuracy)
  );
}

/** The acceptable resident version that takes the least time; undefined if there is none. */
export function fastestVersion(request: QueuedRequest, task: DispatchTask): ResidentVersion | undefined {
  let fastest: ResidentVersion | undefined;
  for (const version of task.versions) {
    if (!accepts(request, version)) continue;
    if (fastest === undefined || version.serviceMs < fastest.serviceMs) fastest = version;
  }
  return fastest;
}

/** Sheds a request that no resident version of its task may answer, and says why. */
export function shedUnacceptable(
  index: number,
  request: QueuedRequest,
  task: DispatchTask,
): DispatchDecision {
  const tooInaccurate = task.versions.length > 0 && request.version === undefined;
  return { kind: 'shed', index, reason: tooInaccurate ? 'accuracy' : 'unavailable' };
}
