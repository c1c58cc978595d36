/** What waits: when its answer is due, how long its inference takes at least, and how much it matters. */
export interface Promised {
  /** The answer must be there by then. */
  readonly deadlineMs: number;
  /** Time of its inference by the fastest version that may answer it, as far as known. */
  readonly serviceMs: number;
  /**
   * What it adds to the work of a queue, where that is less than `serviceMs`: among many that wait, several are computed
   * as one job.
   */
  readonly workMs?: number;
  /** Importance: under overload the least important one is given up first. */
  readonly weight: number;
}

export type Admission<T> =
  | {
      readonly isAdmitted: true;
      /** Those to be given up for it, all of less weight. */
      readonly victims: readonly T[];
    }
  | {
      readonly isAdmitted: false;
      /** Work ahead of the new one, in ms. */
      readonly waitMs: number;
    };

/**
 * Whether a queue can promise one more answer. Work is what is admitted, not requests: a new one is taken in if it and
 * all that wait can be in time by their fastest versions. If not, those of less weight are given up for it, the least
 * important first; without such it is refused.
 * @param queue earliest deadline first
 * @param now.busyMs work that is begun and must end first
 * @param now.queueMs sum of what waits, where the caller keeps it: then most requests, which come last, need no walk
 */
export function admit<T extends Promised>(
  queue: readonly T[],
  item: Promised,
  { nowMs, busyMs, queueMs }: { readonly nowMs: number; readonly busyMs: number; readonly queueMs?: number },
): Admission<T> {
  if (queueMs !== undefined && (queue.at(-1)?.deadlineMs ?? 0) <= item.deadlineMs) {
    // Behind all others it makes nobody late.
    if (nowMs + busyMs + queueMs + item.serviceMs <= item.deadlineMs)
      return { isAdmitted: true, victims: [] };
  }
  const position = positionIn(queue, item.deadlineMs);
  const victims = new Set<T>();
  for (;;) {
    if (isFeasible(queue, item, position, nowMs + busyMs, victims))
      return { isAdmitted: true, victims: [...victims] };
    const victim = leastImportant(queue, item.weight, victims);
    if (victim === undefined) return { isAdmitted: false, waitMs: aheadMs(queue, position) + busyMs };
    victims.add(victim);
  }
}

/** What a request adds to the work of its queue. */
export function workOf({ workMs, serviceMs }: Pick<Promised, 'workMs' | 'serviceMs'>): number {
  return workMs ?? serviceMs;
}

/** Where a deadline belongs in the order of the queue: after all that are as urgent. */
export function positionIn(queue: readonly Pick<Promised, 'deadlineMs'>[], deadlineMs: number): number {
  let low = 0;
  let high = queue.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (queue[middle]!.deadlineMs <= deadlineMs) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The waiting one of the least weight below `weight`, of equals the latest to be due. */
export function leastImportant<T extends Promised>(
  queue: readonly T[],
  weight: number,
  except: ReadonlySet<T> = new Set(),
): T | undefined {
  let least: T | undefined;
  for (const item of queue) {
    if (item.weight >= weight || except.has(item)) continue;
    if (least === undefined || item.weight <= least.weight) least = item;
  }
  return least;
}

/** Whether the new one is in time and, through it, none behind it becomes late. */
function isFeasible<T extends Promised>(
  queue: readonly T[],
  item: Promised,
  position: number,
  freeMs: number,
  victims: ReadonlySet<T>,
): boolean {
  let finishMs = freeMs;
  for (let i = 0; i < position; i++) if (!victims.has(queue[i]!)) finishMs += workOf(queue[i]!);
  if (finishMs + item.serviceMs > item.deadlineMs) return false;
  finishMs += workOf(item);
  for (let i = position; i < queue.length; i++) {
    const behind = queue[i]!;
    if (victims.has(behind)) continue;
    finishMs += workOf(behind);
    // What is late without the new one is not late because of it.
    if (finishMs > behind.deadlineMs && finishMs - workOf(item) <= behind.deadlineMs) return false;
  }
  return true;
}

function aheadMs(queue: readonly Promised[], position: number): number {
  let sum = 0;
  for (let i = 0; i < position; i++) sum += workOf(queue[i]!);
  return sum;
}
