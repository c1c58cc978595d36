import type { Logger } from 'pino';
import { messageOf } from '../base/errors.ts';
import type { LiveVersion } from './live-version.ts';

/** How often the memory is looked at. */
export const MEMORY_CHECK_MS = 2_000;

/** Freed memory shows only once the old thread is gone and others have run; sooner there is nothing to be seen. */
export const RECYCLE_PAUSE_MS = 30_000;

/**
 * Keeps the resident memory of the server under a limit, as far as it comes from its inference threads: past it, the
 * threads of the version that has computed most since they began are replaced by fresh ones, while it goes on serving.
 * Threads share one memory, so which of them holds it cannot be measured; who computes most piles up most.
 * @returns stops it
 */
export function guardMemory(options: {
  readonly limitBytes: number;
  readonly versions: () => Iterable<LiveVersion>;
  readonly residentBytes: () => number;
  readonly nowMs: () => number;
  readonly logger: Logger;
}): () => void {
  const { limitBytes, versions, residentBytes, nowMs, logger } = options;
  const executionsAtRecycling = new WeakMap<LiveVersion, number>();
  let pausedUntilMs = Number.NEGATIVE_INFINITY;
  const executionsOf = (live: LiveVersion) =>
    live.statistics.executionCount - (executionsAtRecycling.get(live) ?? 0);

  const check = async () => {
    const bytes = residentBytes();
    if (bytes <= limitBytes || nowMs() < pausedUntilMs) return;
    pausedUntilMs = Number.POSITIVE_INFINITY; // Until this one is done.
    let chosen: LiveVersion | undefined;
    for (const live of versions())
      if (executionsOf(live) > (chosen === undefined ? 0 : executionsOf(chosen))) chosen = live;
    try {
      if (chosen !== undefined) {
        executionsAtRecycling.set(chosen, chosen.statistics.executionCount);
        await chosen.recycle();
      }
      logger.warn(
        { version: chosen?.version, residentBytes: bytes, limitBytes, afterBytes: residentBytes() },
        chosen === undefined
          ? 'memory is over its limit, and no inference thread has worked since it was started: unload versions or raise the limit'
          : 'memory is over its limit: the inference threads of a version were replaced',
      );
    } catch (thrown) {
      logger.error({ reason: messageOf(thrown) }, 'inference threads cannot be replaced');
    }
    pausedUntilMs = nowMs() + RECYCLE_PAUSE_MS;
  };
  const timer = setInterval(() => void check(), MEMORY_CHECK_MS);
  timer.unref();
  return () => clearInterval(timer);
}
