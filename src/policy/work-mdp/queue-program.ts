import {
  accepts,
  batchServiceMs,
  type DispatchDecision,
  type DispatchState,
  type DispatchTask,
  type QueuedRequest,
  type ResidentVersion,
  shedUnacceptable,
} from '../dispatch.ts';
import type { WorkPlan } from './plan.ts';
import { onTimeRatio, rewardOf, valueAt } from './value-function.ts';

export const queueProgramDefaults = {
  /** Requests planned one by one; those behind count as the sum of their smallest work. */
  look: 12,
  /** A job without deadline takes at most this share of the tightest objective, so that it blocks little. */
  batchClassShare: 0.25,
  /** A queue tells of more demand than was planned for once it is longer than this share of the head's objective, … */
  surgeQueueShare: 0.125,
  /** … with more requests than chance explains: so many standard deviations of Poisson arrivals, over this share at least. */
  surgeDeviations: 4,
  surgeWindowShare: 0.25,
} as const;

export type QueueProgramOptions = { readonly [K in keyof typeof queueProgramDefaults]: number };

/**
 * Plans the known queue exactly and leaves the unknown future to the value function: over requests r₁ … rₘ in the order
 * of deadlines,
 *
 *     V_{m+1}(w) = h(w)
 *     V_i(w) = max( −P·weight + V_{i+1}(w), max_v { reward of v at slack_i − w  +  V_{i+1}(w + s_v) } )
 *
 * and r₁ gets the version of the largest reward + V₂(s). Only r₁ is committed; the rest is planned anew next time.
 * Buffers are kept from call to call, so one program serves one thread; the decision depends on the state alone.
 */
export class QueueProgram {
  readonly #options: QueueProgramOptions;
  #value = new Float64Array(0);
  #next = new Float64Array(0);
  readonly #views: TaskView[] = [];
  readonly #requests: QueuedRequest[] = [];

  constructor(options: Partial<QueueProgramOptions> = {}) {
    this.#options = { ...queueProgramDefaults, ...options };
  }

  pick(state: DispatchState, plan: WorkPlan): DispatchDecision {
    const { queue, tasks } = state;
    for (let k = 0; k < tasks.length; k++) this.#views[k] = undefined!;
    let isWaiting = false;
    for (let index = 0; index < queue.length; index++) {
      const request = queue[index]!;
      const task = tasks[request.task]!;
      if (request.priority === 'batch') {
        // These stand last, for they have no deadline.
        return isWaiting ? { kind: 'wait' } : this.#fill(state, plan, index);
      }
      if (task.versions.length === 0) {
        // Something loads; until then others need not wait, but the dead are buried.
        if (request.deadlineMs <= state.nowMs) return { kind: 'shed', index, reason: 'unavailable' };
        isWaiting = true;
        continue;
      }
      if (!task.versions.some((version) => accepts(request, version))) {
        return shedUnacceptable(index, request, task);
      }
      return this.#plan(state, this.#surged(state, plan, index), index);
    }
    return { kind: 'wait' };
  }

  /**
   * The plan for the demand that the queue tells of: what has come since the head did, and waits, is the least that came. A
   * forecast is a second old, in which a queue of short inferences becomes as long as the objective.
   */
  #surged(state: DispatchState, plan: WorkPlan, head: number): WorkPlan {
    const { queue, tasks, nowMs } = state;
    const { surgeQueueShare, surgeDeviations, surgeWindowShare } = this.#options;
    const { arrivalMs, task } = queue[head]!;
    const { sloMs } = tasks[task]!;
    const windowMs = Math.max(nowMs - arrivalMs, surgeWindowShare * sloMs);
    const isNews = (count: number) =>
      count - surgeDeviations * Math.sqrt(count) > plan.arrivalsPerMs * windowMs;
    if (plan.surges.length === 0 || !isNews(queue.length - head)) return plan;
    let count = 0;
    let workMs = 0;
    for (let i = head; i < queue.length; i++) {
      const request = queue[i]!;
      if (request.priority === 'batch') break;
      if (request.arrivalMs < arrivalMs) continue;
      count++;
      workMs += leastWorkMs(this.#viewOf(state, plan, request.task), request) ?? 0;
    }
    if (workMs <= surgeQueueShare * sloMs || !isNews(count)) return plan;
    const surge = plan.surges.find((level) => level.arrivalsPerMs * windowMs >= count) ?? plan.surges.at(-1)!;
    return { ...plan, ...surge };
  }

  /** The decision for the request at `head`, the first that can be answered. */
  #plan(state: DispatchState, plan: WorkPlan, head: number): DispatchDecision {
    const { queue, nowMs, guardMs } = state;
    const request = queue[head]!;
    const view = this.#viewOf(state, plan, request.task);
    const slackMs = request.deadlineMs - nowMs;
    const smallest = smallestOf(view, request);
    if (smallest.meanMs > slackMs) return { kind: 'shed', index: head, reason: 'deadline' };

    this.#lookAhead(state, plan, this.#gather(state, head));
    const shedReward = -plan.lateCost * request.weight;
    let best = smallest;
    let batch = 1;
    let bestValue = Number.NEGATIVE_INFINITY;
    for (const version of view.versions) {
      if (!accepts(request, version.resident)) continue;
      const reward = rewardOf(
        { reward: request.weight * version.accuracy, meanMs: version.meanMs },
        version.deviationMs,
        shedReward,
        slackMs - guardMs,
      );
      const value = reward + valueAt(this.#value, plan.stepMs, version.meanMs);
      // Of equal values the faster version: time in hand is worth something in practice.
      if (value > bestValue || (value === bestValue && version.meanMs <= best.meanMs)) {
        best = version;
        bestValue = value;
      }
    }
    if (shedReward + this.#value[0]! > bestValue && this.#mayShed(state, plan, head)) {
      return { kind: 'shed', index: head, reason: 'overload' };
    }
    for (const candidate of this.#batches(state, plan, head, view)) {
      if (candidate.value <= bestValue + 1e-9) continue;
      bestValue = candidate.value;
      best = candidate.version;
      batch = candidate.batch;
    }
    const run = { kind: 'run', index: head, version: best.resident.version } as const;
    return batch === 1 ? run : { ...run, batch };
  }

  /**
   * Whether a request may be given up for others: only where not all that wait can be in time even with their smallest
   * versions.
   */
  #mayShed(state: DispatchState, plan: WorkPlan, head: number): boolean {
    const { queue, nowMs } = state;
    let workMs = 0;
    for (let i = head; i < queue.length; i++) {
      const request = queue[i]!;
      if (request.priority === 'batch') break;
      const leastMs = leastWorkMs(this.#viewOf(state, plan, request.task), request);
      if (leastMs === undefined) continue;
      workMs += leastMs;
      if (nowMs + workMs > request.deadlineMs) return true;
    }
    return false;
  }

  /**
   * Fills `#requests` with those that are planned one by one behind the head (and without its batch).
   * @returns index of the first request behind them
   */
  #gather({ queue }: DispatchState, head: number, without?: ReadonlySet<number>): number {
    const requests = this.#requests;
    requests.length = 0;
    let i = head + 1;
    for (; i < queue.length && requests.length < this.#options.look - 1; i++) {
      if (without?.has(i)) continue;
      const request = queue[i]!;
      if (request.priority === 'batch') break;
      requests.push(request);
    }
    return i;
  }

  /** V₂ into `#value`, by cells of work committed from now. */
  #lookAhead(state: DispatchState, plan: WorkPlan, rest: number): void {
    const { nowMs, guardMs } = state;
    const requests = this.#requests;
    const cells = plan.values.length;
    if (this.#value.length !== cells) {
      this.#value = new Float64Array(cells);
      this.#next = new Float64Array(cells);
    }
    this.#foldRest(state, plan, rest);
    for (let i = requests.length - 1; i >= 0; i--) {
      const request = requests[i]!;
      const view = this.#viewOf(state, plan, request.task);
      const shedReward = -plan.lateCost * request.weight;
      const value = this.#value;
      const next = this.#next;
      for (let cell = 0; cell < cells; cell++) next[cell] = shedReward + value[cell]!;
      const slackMs = request.deadlineMs - nowMs - guardMs;
      for (const version of view.versions) {
        if (accepts(request, version.resident)) {
          improveBy(next, value, version, request.weight * version.accuracy, shedReward, slackMs, plan);
        }
      }
      this.#value = next;
      this.#next = value;
    }
  }

  /** V_{m+1} into `#value`: h, moved by the smallest work of the requests that are not planned one by one. */
  #foldRest(state: DispatchState, plan: WorkPlan, from: number): void {
    const { queue, nowMs, guardMs } = state;
    const { stepMs, lateCost, values } = plan;
    let workMs = 0;
    let roomMs = Number.POSITIVE_INFINITY;
    let costPerMs = 0;
    for (let i = from; i < queue.length; i++) {
      const request = queue[i]!;
      if (request.priority === 'batch') break;
      const leastMs = leastWorkMs(this.#viewOf(state, plan, request.task), request);
      if (leastMs === undefined) continue;
      workMs += leastMs;
      roomMs = Math.min(roomMs, request.deadlineMs - nowMs - guardMs - workMs);
      costPerMs = Math.max(costPerMs, (lateCost * request.weight) / leastMs);
    }
    const value = this.#value;
    if (workMs === 0) {
      for (let cell = 0; cell < value.length; cell++) value[cell] = values[cell]!;
      return;
    }
    for (let cell = 0; cell < value.length; cell++) {
      // Each smallest service time beyond the room that they leave loses one of them.
      const overMs = Math.max(0, cell * stepMs - roomMs);
      value[cell] = valueAt(values, stepMs, cell * stepMs + workMs - overMs) - overMs * costPerMs;
    }
  }

  /** Batches of the head with those of its task that follow, where batches pay. */
  *#batches(
    state: DispatchState,
    plan: WorkPlan,
    head: number,
    view: TaskView,
  ): Generator<{ version: VersionView; batch: number; value: number }> {
    const { queue, nowMs, guardMs } = state;
    const largest = view.versions.reduce((most, { batchable }) => Math.max(most, batchable), 1);
    if (largest < 2) return;
    const members: number[] = [];
    for (let i = head; i < queue.length && members.length < largest; i++) {
      const { task, priority } = queue[i]!;
      if (task === queue[head]!.task && priority !== 'batch') members.push(i);
    }
    for (let batch = 2; batch <= members.length; batch *= 2) {
      const taken = members.slice(0, batch);
      this.#lookAhead(state, plan, this.#gather(state, head, new Set(taken)));
      for (const version of view.versions) {
        if (batch > version.batchable) continue;
        if (!taken.every((i) => accepts(queue[i]!, version.resident))) continue;
        const stretch = batchServiceMs(version.resident, batch) / version.resident.serviceMs;
        const meanMs = version.meanMs * stretch;
        let value = valueAt(this.#value, plan.stepMs, meanMs);
        for (const i of taken) {
          const { weight, deadlineMs } = queue[i]!;
          const slackMs = deadlineMs - nowMs - guardMs;
          const figures = { reward: weight * version.accuracy, meanMs };
          value += rewardOf(figures, version.deviationMs * stretch, -plan.lateCost * weight, slackMs);
        }
        yield { version, batch, value };
      }
    }
  }

  /**
   * A job without deadline for an idle slot: the version whose accuracy is worth most beyond the price of its time,
   * none while time is dearer than any accuracy.
   */
  #fill(state: DispatchState, plan: WorkPlan, index: number): DispatchDecision {
    const request = state.queue[index]!;
    const task = state.tasks[request.task]!;
    if (task.versions.length === 0) return { kind: 'wait' };
    if (!task.versions.some((version) => accepts(request, version))) {
      return shedUnacceptable(index, request, task);
    }
    const tightestMs = state.tasks.reduce((least, { sloMs }) => Math.min(least, sloMs), task.sloMs);
    const limitMs = this.#options.batchClassShare * tightestMs;
    let best: VersionView | undefined;
    let bestValue = 0;
    for (const version of this.#viewOf(state, plan, request.task).versions) {
      if (version.meanMs > limitMs || !accepts(request, version.resident)) continue;
      const priceOfTime = plan.values[0]! - valueAt(plan.values, plan.stepMs, version.meanMs);
      const value = request.weight * version.accuracy - priceOfTime;
      if (value > bestValue) {
        best = version;
        bestValue = value;
      }
    }
    return best === undefined ? { kind: 'wait' } : { kind: 'run', index, version: best.resident.version };
  }

  #viewOf({ tasks, queue }: DispatchState, plan: WorkPlan, index: number): TaskView {
    this.#views[index] ??= taskView(tasks[index]!, plan, index, queue);
    return this.#views[index];
  }
}

/** A task as the program sees it: its resident versions, most accurate first, with the times that were learned. */
interface TaskView {
  readonly versions: readonly VersionView[];
  /** `leastWorkMs` of a request that accepts any version: of most, and of long queues it is asked for each. */
  readonly leastMs: number | undefined;
}

interface VersionView {
  readonly resident: ResidentVersion;
  readonly accuracy: number;
  readonly meanMs: number;
  readonly deviationMs: number;
  /** Largest batch that pays; 1: none does. */
  readonly batchable: number;
  /** Mean time of a request among those that wait now: computed together with others of its task where that pays. */
  readonly workMs: number;
}

function taskView(
  task: DispatchTask,
  plan: WorkPlan,
  index: number,
  queue: readonly QueuedRequest[],
): TaskView {
  const largest = task.versions.reduce((most, { maxBatch = 1 }) => Math.max(most, maxBatch), 1);
  let waiting = 0;
  for (let i = 0; i < queue.length && waiting < largest; i++) {
    if (queue[i]!.task === index && queue[i]!.priority !== 'batch') waiting++;
  }
  const planned =
    plan.tasks[index]?.task === task.task
      ? plan.tasks[index]
      : plan.tasks.find((candidate) => candidate.task === task.task);
  const versions = task.versions.map((resident): VersionView => {
    const learned = planned?.versions.find(({ version }) => version === resident.version) ?? planned;
    const ratio = learned?.ratio ?? 1;
    const batchable = resident.maxBatch ?? 1;
    const batch = Math.max(1, Math.min(batchable, waiting));
    return {
      resident,
      accuracy: resident.accuracy,
      meanMs: resident.serviceMs * ratio,
      deviationMs: resident.serviceMs * (learned?.deviation ?? 0),
      batchable,
      workMs: (batchServiceMs(resident, batch) / batch) * ratio,
    };
  });
  const leastMs = versions.length === 0 ? undefined : Math.min(...versions.map(({ workMs }) => workMs));
  return { versions, leastMs };
}

function smallestIfAny({ versions }: TaskView, request: QueuedRequest): VersionView | undefined {
  let smallest: VersionView | undefined;
  for (const version of versions) {
    if (!accepts(request, version.resident)) continue;
    if (smallest === undefined || version.meanMs < smallest.meanMs) smallest = version;
  }
  return smallest;
}

/** The least that a request among those that wait takes of the slot; undefined: no version may answer it. */
function leastWorkMs({ versions, leastMs: anyMs }: TaskView, request: QueuedRequest): number | undefined {
  if (request.version === undefined && request.minAccuracy === undefined) return anyMs;
  let leastMs: number | undefined;
  for (const { resident, workMs } of versions) {
    if (accepts(request, resident) && (leastMs === undefined || workMs < leastMs)) leastMs = workMs;
  }
  return leastMs;
}

/** @param request one that some version of the view may answer */
function smallestOf(view: TaskView, request: QueuedRequest): VersionView {
  return smallestIfAny(view, request)!;
}

/** next(w) = max(next(w), reward at slack − w + value(w + s)). */
function improveBy(
  next: Float64Array,
  value: Float64Array,
  { meanMs, deviationMs }: VersionView,
  reward: number,
  shedReward: number,
  slackMs: number,
  { stepMs, varianceMs }: WorkPlan,
): void {
  const last = value.length - 1;
  const place = meanMs / stepMs;
  const whole = Math.floor(place);
  const part = place - whole;
  for (let cell = 0; cell <= last; cell++) {
    const workMs = cell * stepMs;
    const marginMs = slackMs - workMs - meanMs;
    const spreadMs = Math.sqrt(deviationMs * deviationMs + varianceMs * workMs);
    const onTime = onTimeRatio(marginMs, spreadMs);
    if (onTime === 0) return;
    const earned = onTime === 1 ? reward : onTime * reward + (1 - onTime) * shedReward;
    const at = cell + whole;
    const after = at >= last ? value[last]! : value[at]! + part * (value[at + 1]! - value[at]!);
    const total = earned + after;
    if (total > next[cell]!) next[cell] = total;
  }
}
