import { RefusedError } from './errors.ts';

/** What waits: the latest time at which its inference may begin, and how long that will take, as far as known. */
export interface Waiting {
  readonly startByMs: number;
  readonly serviceMs: number;
}

/**
 * The waiting requests, the most urgent first (earliest deadline; equals in order of arrival). Bounded, and it takes in
 * nothing that cannot be started in time, so that under overload it stays as short as the deadlines are.
 */
export class DeadlineQueue<T extends Waiting> {
  readonly #maxLength: number;
  readonly #items: T[] = [];

  constructor(maxLength: number) {
    this.#maxLength = maxLength;
  }

  get length(): number {
    return this.#items.length;
  }

  /**
   * @param nowMs the time on the scale of `startByMs`
   * @param slots how many inferences run at a time
   * @param busyMs work that is committed already, summed over the slots
   * @throws RefusedError `queue_full`, or `deadline_exceeded` if the work ahead takes too long already
   */
  add(item: T, nowMs: number, slots: number, busyMs: number): void {
    if (this.#items.length >= this.#maxLength) {
      throw new RefusedError('queue_full', 'Exceeds maximum queue size', this.waitMs(slots, busyMs));
    }
    const position = this.#positionOf(item.startByMs);
    let aheadMs = busyMs;
    for (let i = 0; i < position; i++) aheadMs += this.#items[i]!.serviceMs;
    const waitMs = aheadMs / slots;
    if (nowMs + waitMs > item.startByMs) {
      throw new RefusedError(
        'deadline_exceeded',
        `Refused: the expected wait of ${waitMs.toFixed(1)} ms is longer than the ${Math.max(0, item.startByMs - nowMs).toFixed(1)} ms allowed`,
        waitMs,
      );
    }
    this.#items.splice(position, 0, item);
  }

  /** Puts back what had been taken, whatever the bounds. */
  restore(item: T): void {
    this.#items.splice(this.#positionOf(item.startByMs), 0, item);
  }

  /** Removes and returns the most urgent one that the predicate accepts. */
  take(accepts: (item: T) => boolean): T | undefined {
    const index = this.#items.findIndex(accepts);
    return index < 0 ? undefined : this.#items.splice(index, 1)[0];
  }

  /** Removes one that is no longer wanted. @returns whether it was waiting */
  remove(item: T): boolean {
    const index = this.#items.indexOf(item);
    if (index >= 0) this.#items.splice(index, 1);
    return index >= 0;
  }

  /** Removes and returns those whose time has passed. */
  takeExpired(nowMs: number): T[] {
    let count = 0;
    while (count < this.#items.length && this.#items[count]!.startByMs < nowMs) count++;
    return this.#items.splice(0, count);
  }

  takeAll(): T[] {
    return this.#items.splice(0);
  }

  count(accepts: (item: T) => boolean): number {
    let count = 0;
    for (const item of this.#items) if (accepts(item)) count++;
    return count;
  }

  /** The wait of one who came last. */
  waitMs(slots: number, busyMs: number): number {
    return this.#items.reduce((sum, item) => sum + item.serviceMs, busyMs) / slots;
  }

  /** After all that are as urgent. */
  #positionOf(startByMs: number): number {
    let low = 0;
    let high = this.#items.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#items[middle]!.startByMs <= startByMs) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
