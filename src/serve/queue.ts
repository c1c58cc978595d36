import { admit, leastImportant, type Promised, positionIn, workOf } from '../policy/admission.ts';
import { RefusedError } from './errors.ts';

/**
 * The requests that wait for one slot, the most urgent first (earliest deadline; equals in order of arrival). It takes
 * in nothing that cannot be in time even by the fastest version, so that under overload it stays as short as the
 * deadlines are, and what it has taken in is not made late by what comes after, unless that is more important.
 */
export class DeadlineQueue<T extends Promised> {
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
  check(item: Promised, nowMs: number, busyMs: number): void {
    this.#victimsFor(item, nowMs, busyMs);
  }

  /** Puts in, or back, whatever the deadlines. */
  restore(item: T): void {
    this.#items.splice(positionIn(this.#items, item.deadlineMs), 0, item);
    this.#workMs += workOf(item);
  }

  removeAt(index: number): T {
    const [item] = this.#items.splice(index, 1);
    // Sums of floating-point numbers drift; an empty queue has no work.
    this.#workMs = this.#items.length === 0 ? 0 : this.#workMs - workOf(item!);
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

  #victimsFor(item: Promised, nowMs: number, busyMs: number): readonly T[] {
    const admission = admit(this.#items, item, { nowMs, busyMs, queueMs: this.#workMs });
    if (!admission.isAdmitted) throw refusal(item, nowMs, admission.waitMs);
    return admission.victims;
  }

  /** The waiting one of the least weight below `weight`, of equals the latest to be due. */
  leastImportant(weight: number): T | undefined {
    return leastImportant(this.#items, weight);
  }
}

function refusal({ deadlineMs, serviceMs }: Promised, nowMs: number, waitMs: number): RefusedError {
  const allowedMs = Math.max(0, deadlineMs - serviceMs - nowMs);
  const leftMs = deadlineMs - nowMs;
  if (serviceMs > leftMs) {
    const message = `Refused: the answer is due in ${rounded(Math.max(0, leftMs))} ms, and the fastest version in memory that the request accepts takes some ${rounded(serviceMs)} ms`;
    return new RefusedError('deadline_exceeded', message, waitMs);
  }
  const message =
    waitMs > allowedMs
      ? `Refused: the expected wait of ${waitMs.toFixed(1)} ms is longer than the ${allowedMs.toFixed(1)} ms allowed`
      : `Refused: taking it in would make requests late that were promised an answer`;
  return new RefusedError('deadline_exceeded', message, waitMs);
}

/** To two digits, and never as a power of ten. */
function rounded(ms: number): string {
  return String(Number(ms.toPrecision(2)));
}
