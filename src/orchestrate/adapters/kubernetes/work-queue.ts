import { setTimeout as delay } from 'node:timers/promises';
import { followDefaults } from './follow.ts';

export const queueDefaults = {
  /** Keys worked on in the same moment. */
  concurrency: 8,
} as const;

/** Work about keys: one at a time for each key, again if it was asked for meanwhile, and again later if it failed. */
export interface WorkQueue {
  add(key: string): void;
  /** Resolves when nothing is under way; to be awaited after the signal. */
  idle(): Promise<void>;
}

/**
 * @param work may throw: it is tried again, at first soon and then ever later
 * @param onError told of each failure
 */
export function workQueue(options: {
  readonly work: (key: string) => Promise<void>;
  readonly onError: (key: string, error: unknown) => void;
  readonly signal: AbortSignal;
  readonly firstBackoffMs?: number;
}): WorkQueue {
  const { work, onError, signal, firstBackoffMs = followDefaults.firstBackoffMs } = options;
  const waiting = new Set<string>();
  const active = new Map<string, Promise<void>>();
  const failures = new Map<string, number>();

  const begin = () => {
    for (const key of waiting) {
      if (signal.aborted || active.size >= queueDefaults.concurrency) return;
      if (active.has(key)) continue;
      waiting.delete(key);
      const done = run(key).finally(() => {
        active.delete(key);
        begin();
      });
      active.set(key, done);
    }
  };
  const run = async (key: string) => {
    try {
      await work(key);
      failures.delete(key);
    } catch (error) {
      if (signal.aborted) return;
      const count = failures.get(key) ?? 0;
      failures.set(key, count + 1);
      onError(key, error);
      const waitMs = Math.min(firstBackoffMs * 2 ** count, followDefaults.lastBackoffMs);
      // Not part of the work: others go on, and news about the key come through at once.
      void delay(waitMs, undefined, { signal }).then(
        () => add(key),
        () => {},
      );
    }
  };
  const add = (key: string) => {
    if (signal.aborted) return;
    waiting.add(key);
    begin();
  };
  return {
    add,
    async idle() {
      while (active.size > 0) await Promise.all(active.values());
    },
  };
}
