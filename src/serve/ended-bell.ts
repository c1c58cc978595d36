/**
 * Rung by every inference thread of this process after each inference that it ended, so that the thread with the
 * sockets can sleep without overlooking one: a count that wraps, and what `Atomics.wait` waits on.
 */
export type EndedBell = Int32Array<SharedArrayBuffer>;

/** The process's own; inference threads are handed it. */
export const endedBell: EndedBell = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));

export function ring(bell: EndedBell): void {
  Atomics.add(bell, 0, 1);
  Atomics.notify(bell, 0);
}

/**
 * Sleeps until an inference ends, but no longer than told. Whoever calls it has looked for ended ones after it read
 * `since`, so that none that ends between is slept through.
 * @param since what `count` said before
 */
export function sleepUntilRung(bell: EndedBell, since: number, timeoutMs: number): void {
  Atomics.wait(bell, 0, since, timeoutMs);
}

/** How often it was rung. */
export function countOf(bell: EndedBell): number {
  return Atomics.load(bell, 0);
}
