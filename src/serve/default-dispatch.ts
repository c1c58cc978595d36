import {
  accepts,
  batchServiceMs,
  type Dispatch,
  type DispatchDecision,
  type DispatchState,
  type DispatchTask,
  fastestVersion,
  type QueuedRequest,
  type ResidentVersion,
  shedUnacceptable,
} from '../policy/dispatch.ts';

/**
 * What the default dispatch goes by beside the state: the shares of traffic of each task's versions, by the task's
 * name. A task without an entry is answered by the version that serves.
 */
export interface SharesPlan {
  readonly shares: ReadonlyMap<string, ReadonlyMap<number, number>>;
}

/** Requests looked at behind the first one when a slower version is weighed. */
export const LOOK_AHEAD = 24;

/** The longest that a `batch` request may hold up a realtime one, as a ratio of the task's latency objective. */
export const BATCH_CLASS_SLO_RATIO = 0.25;

/**
 * The dispatch of a server to which no policy has given its own. The most urgent request is answered by the version
 * that serves (or, where the task has shares, by the one that is furthest behind its share), if that is acceptable to
 * the client and in time, also for those that wait behind; else by the most accurate one that is. It is shed if not
 * even the fastest would be in time. Requests that wait behind it for the same task join it as one job where that is
 * known to pay. A request of the `batch` class runs only as a job that is short against the task's objective.
 */
export const defaultDispatch: Dispatch = {
  name: 'default',
  pick(state) {
    const request = state.queue[0]!;
    const task = state.tasks[request.task]!;
    if (task.versions.length === 0) return shedUnacceptable(0, request, task);
    const wanted = wantedVersion(request, task, state.plan);
    if (request.priority === 'batch') return pickForBatchClass(request, task, wanted);
    if (task.versions.length === 1) {
      const only = task.versions[0]!;
      if (!accepts(request, only)) return shedUnacceptable(0, request, task);
      if (!isInTime(state, request, only)) return { kind: 'shed', index: 0, reason: 'deadline' };
      return run(state, only);
    }
    const chosen =
      wanted !== undefined && keepsAll(state, request, wanted) ? wanted : mostAccurate(state, request, task);
    if (chosen !== undefined) return run(state, chosen);
    const fastest = fastestVersion(request, task);
    if (fastest === undefined) return shedUnacceptable(0, request, task);
    // Nothing keeps every promise: the smallest job does the least harm.
    return isInTime(state, request, fastest)
      ? run(state, fastest)
      : { kind: 'shed', index: 0, reason: 'deadline' };
  },
};

function run(state: DispatchState, version: ResidentVersion): DispatchDecision {
  const batch = batchFor(state, version);
  return batch === 1
    ? { kind: 'run', index: 0, version: version.version }
    : { kind: 'run', index: 0, version: version.version, batch };
}

/** The version by shares or the serving one, if the client accepts it. */
function wantedVersion(
  request: QueuedRequest,
  task: DispatchTask,
  plan: unknown,
): ResidentVersion | undefined {
  const shares = (plan as SharesPlan | undefined)?.shares.get(task.task); // This dispatch runs with its own plan only.
  if (request.version === undefined && shares !== undefined) {
    const byShare = furthestBehind(task.versions, shares, request);
    if (byShare !== undefined) return byShare;
  }
  for (const version of task.versions) {
    const isWanted = version.version === (request.version ?? task.servingVersion);
    if (isWanted && accepts(request, version)) return version;
  }
  return undefined;
}

/**
 * Smooth weighted round robin: the version that would be furthest behind its share of all requests up to and with this
 * one. Any stretch of requests is split by the shares up to one request, unlike with random choice.
 * Source: nginx's upstream module (smooth weighted round robin), in the form that follows from counts alone.
 */
function furthestBehind(
  versions: readonly ResidentVersion[],
  shares: ReadonlyMap<number, number>,
  request: QueuedRequest,
): ResidentVersion | undefined {
  let total = 1;
  for (const { version, dispatched } of versions) if (shares.has(version)) total += dispatched;
  let best: ResidentVersion | undefined;
  let bestDeficit = Number.NEGATIVE_INFINITY;
  for (const version of versions) {
    const share = shares.get(version.version) ?? 0;
    if (share === 0 || !accepts(request, version)) continue;
    const deficit = share * total - version.dispatched;
    if (deficit > bestDeficit) {
      bestDeficit = deficit;
      best = version;
    }
  }
  return best;
}

/** Of the versions that keep every promise, the most accurate. */
function mostAccurate(
  state: DispatchState,
  request: QueuedRequest,
  task: DispatchTask,
): ResidentVersion | undefined {
  return task.versions.find((version) => accepts(request, version) && keepsAll(state, request, version));
}

function isInTime(
  { nowMs, guardMs }: DispatchState,
  request: QueuedRequest,
  version: ResidentVersion,
): boolean {
  return nowMs + batchServiceMs(version, request.rows ?? 1) <= request.deadlineMs - guardMs;
}

/** Whether this version is in time for the first request and leaves time for those behind, by their fastest versions. */
function keepsAll(state: DispatchState, request: QueuedRequest, version: ResidentVersion): boolean {
  if (!isInTime(state, request, version)) return false;
  const { queue, tasks, guardMs } = state;
  let finishMs = state.nowMs + batchServiceMs(version, request.rows ?? 1);
  const end = Math.min(queue.length, 1 + LOOK_AHEAD);
  for (let i = 1; i < end; i++) {
    const behind = queue[i]!;
    const fastest = fastestVersion(behind, tasks[behind.task]!);
    if (fastest === undefined) continue;
    finishMs += batchServiceMs(fastest, behind.rows ?? 1);
    if (finishMs > behind.deadlineMs - guardMs) return false;
  }
  return true;
}

/**
 * How many requests, the first included, run as one job without making the most urgent of them late. One is left behind:
 * if all were answered at once, there would be nothing to compute until their clients have sent the next ones.
 */
function batchFor({ queue, nowMs, guardMs }: DispatchState, version: ResidentVersion): number {
  const { maxBatch = 1 } = version;
  if (maxBatch === 1 || queue.length <= 2) return 1;
  const first = queue[0]!;
  let batch = 1;
  let rows = first.rows ?? 1;
  for (let i = 1; i < queue.length && batch < queue.length - 1; i++) {
    const request = queue[i]!;
    if (request.task !== first.task || !accepts(request, version)) continue;
    rows += request.rows ?? 1;
    if (rows > maxBatch) break;
    if (nowMs + batchServiceMs(version, rows) > first.deadlineMs - guardMs) break;
    batch++;
  }
  return batch;
}

/** The wanted version if its job is short enough, else the most accurate one whose job is. */
function pickForBatchClass(
  request: QueuedRequest,
  task: DispatchTask,
  wanted: ResidentVersion | undefined,
): DispatchDecision {
  const limitMs = task.sloMs * BATCH_CLASS_SLO_RATIO;
  const isShort = (version: ResidentVersion) => batchServiceMs(version, request.rows ?? 1) <= limitMs;
  const chosen =
    wanted !== undefined && isShort(wanted)
      ? wanted
      : (task.versions.find((version) => accepts(request, version) && isShort(version)) ??
        fastestVersion(request, task));
  if (chosen === undefined) return shedUnacceptable(0, request, task);
  return { kind: 'run', index: 0, version: chosen.version };
}
