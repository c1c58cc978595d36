/** How often it is looked whether a thread of low priority gets on. */
export const STARVATION_CHECK_MS = 250;

/**
 * With less than this share of a CPU a thread counts as starved. On a saturated CPU a thread of the lowest priority gets
 * some 1.5 % of it, and a server that has to step down to a faster variant *is* saturated: waiting on would cost more
 * than the load's own CPU time. On one that idles for a third of the time the thread is done soon enough.
 */
export const STARVED_RATIO = 0.15;

/** No thread stays at low priority longer than this. */
export const LONGEST_PATIENCE_MS = 3000;

/** Calls `raise` once when a thread gets too little CPU, or has taken too long. @returns ends the watch */
export function watchForStarvation(cpuMs: () => number | undefined, raise: () => void): () => void {
  let before = cpuMs();
  let waitedMs = 0;
  const timer = setInterval(() => {
    const now = cpuMs();
    waitedMs += STARVATION_CHECK_MS;
    const gainedMs = now !== undefined && before !== undefined ? now - before : undefined; // Else it has just begun.
    before = now;
    const isStarved = gainedMs !== undefined && gainedMs < STARVED_RATIO * STARVATION_CHECK_MS;
    if (!isStarved && waitedMs < LONGEST_PATIENCE_MS) return;
    clearInterval(timer);
    raise();
  }, STARVATION_CHECK_MS);
  timer.unref();
  return () => clearInterval(timer);
}
