import { RefusedError } from './errors.ts';

/** What waits: when its answer is due, how long its inference takes at least, and how much it matters. */
export interface Waiting {
  /** The answer must be there by then. */
  readonly deadlineMs: number;
  /** Time of its inference by the fastest version that may answer it, as far as known. */
  readonly serviceMs: number;
  /** Importance: under overload the least important one is given up first. */
  readonly weight: number;
}

/**
 * The requests that wait for one slot, the most urgent first (earliest deadline; equals in order of arrival). It takes
 * in nothing that cannot be in time even by the fastest version, so that under overload it stays as short as the
 * deadlines are, and what it has taken in is not made late by what comes after, unless that is more important.
 */
export class DeadlineQueue<T extends Waiting> {
  readonly #items: T[] = [];
  #workMs = 0;

  get length(): number {
    return this.#items.length;
  }

  /** Earliest deadline first; valid until the queue changes. */
  get items(): readonly T[] {
    return this.#items;
  }

  /** Sum of what waits, by the fastest versions. */
  get workMs(): number {
    return this.#workMs;
  }

  /**
   * @param nowMs the time on the scale of `deadlineMs`
   * @param busyMs work that the slot has begun and must end first
   * @returns those given up to make room, all of less weight than the new one
   * @throws RefusedError `deadline_exceeded` if the work ahead takes too long, or what waits would be late
   */
  add(item: T, nowMs: number, busyMs: number): readonly T[] {
    const victims = this.#victimsFor(item, nowMs, busyMs);
    for (const victim of victims) this.remove(victim);
    this.restore(item);
    return victims;
  }

  /** Whether `add` would take it in, without doing so. @throws RefusedError as `add` */
  check(item: Waiting, nowMs: number, busyMs: number): void {
    this.#victimsFor(item, nowMs, busyMs);
  }

  /** Puts in, or back, whatever the deadlines. */
  restore(item: T): void {
    this.#items.splice(this.#positionOf(item.deadlineMs), 0, item);
    this.#workMs += item.serviceMs;
  }

  removeAt(index: number): T {
    const [item] = this.#items.splice(index, 1);
    // Sums of floating-point numbers drift; an empty queue has no work.
    this.#workMs = this.#items.length === 0 ? 0 : this.#workMs - item!.serviceMs;
    return item!;
  }

  /** Removes one that is no longer wanted. @returns whether it was waiting */
  remove(item: T): boolean {
    const index = this.#items.indexOf(item);
    if (index >= 0) this.removeAt(index);
    return index >= 0;
  }

  /** Removes and returns those that can no longer be in time. */
  takeExpired(nowMs: number): T[] {
    const expired: T[] = [];
    for (let i = this.#items.length - 1; i >= 0; i--) {
      const { deadlineMs, serviceMs } = this.#items[i]!;
      if (deadlineMs - serviceMs < nowMs) expired.push(this.removeAt(i));
    }
    return expired.reverse();
  }

  takeAll(): T[] {
    this.#workMs = 0;
    return this.#items.splice(0);
  }

  #victimsFor(item: Waiting, nowMs: number, busyMs: number): readonly T[] {
    const position = this.#positionOf(item.deadlineMs);
    const victims = new Set<T>();
    for (;;) {
      if (this.#isFeasible(item, position, nowMs + busyMs, victims)) return [...victims];
      const victim = this.leastImportant(item.weight, victims);
      if (victim === undefined) throw refusal(item, nowMs, this.#aheadMs(position) + busyMs);
      victims.add(victim);
    }
  }

  /** Whether the new one is in time and, through it, none behind it becomes late. */
  #isFeasible(item: Waiting, position: number, freeMs: number, victims: ReadonlySet<T>): boolean {
    let finishMs = freeMs;
    const isLast = position === this.#items.length && victims.size === 0;
    if (isLast) finishMs += this.#workMs;
    else
      for (let i = 0; i < position; i++)
        if (!victims.has(this.#items[i]!)) finishMs += this.#items[i]!.serviceMs;
    finishMs += item.serviceMs;
    if (finishMs > item.deadlineMs) return false;
    for (let i = position; i < this.#items.length; i++) {
      const behind = this.#items[i]!;
      if (victims.has(behind)) continue;
      finishMs += behind.serviceMs;
      // What is late without the new one is not late because of it.
      if (finishMs > behind.deadlineMs && finishMs - item.serviceMs <= behind.deadlineMs) return false;
    }
    return true;
  }

  /** The waiting one of the least weight below `weight`, of equals the latest to be due. */
  leastImportant(weight: number, except: ReadonlySet<T> = new Set()): T | undefined {
    let least: T | undefined;
    for (const item of this.#items) {
      if (item.weight >= weight || except.has(item)) continue;
      if (least === undefined || item.weight <= least.weight) least = item;
    }
    return least;
  }

  #aheadMs(position: number): number {
    let sum = 0;
    for (let i = 0; i < position; i++) sum += this.#items[i]!.serviceMs;
    return sum;
  }

  /** After all that are as urgent. */
  #positionOf(deadlineMs: number): number {
    let low = 0;
    let high = this.#items.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#items[middle]!.deadlineMs <= deadlineMs) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function refusal({ deadlineMs, serviceMs }: Waiting, nowMs: number, waitMs: number): RefusedError {
  const allowedMs = Math.max(0, deadlineMs - serviceMs - nowMs);
  const message =
    waitMs > allowedMs
      ? `Refused: the expected wait of ${waitMs.toFixed(1)} ms is longer than the ${allowedMs.toFixed(1)} ms allowed`
      : `Refused: taking it in would make requests late that were promised an answer`;
  return new RefusedError('deadline_exceeded', message, waitMs);
}
