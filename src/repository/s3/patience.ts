import { setTimeout as delay } from 'node:timers/promises';
import type { Random } from '../../base/random.ts';
import { CLAIM_LIFETIME_MS } from './claim.ts';
import { StoreError } from './store-error.ts';

export interface Patience {
  /** Keeps apart those that wait for each other. */
  readonly random: Random;
  readonly signal?: AbortSignal;
  /** Told why it is tried again, once for each kind of trouble. */
  readonly onWait?: (reason: string) => void;
  /** All waits together; by default longer than the claim of somebody who died lies there. */
  readonly limitMs?: number;
}

const FIRST_WAIT_MS = 50;
const LONGEST_WAIT_MS = 5_000;

/**
 * Does again what failed because somebody else was quicker, or because the store was away: for results of hours of work that
 * several bring at once. What is wrong for good is thrown at once.
 * @throws StoreError, the last one, when the patience is at an end; what else the work throws
 */
export async function patiently<T>(work: () => Promise<T>, patience: Patience): Promise<T> {
  const { random, signal, onWait, limitMs = CLAIM_LIFETIME_MS + 60_000 } = patience;
  const told = new Set<string>();
  let waitedMs = 0;
  for (let waitMs = FIRST_WAIT_MS; ; waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS)) {
    try {
      return await work();
    } catch (thrown) {
      const passes =
        thrown instanceof StoreError && (thrown.problem === 'conflict' || thrown.problem === 'unreachable');
      if (!passes || waitedMs >= limitMs) throw thrown;
      if (!told.has(thrown.problem) && (thrown.problem === 'unreachable' || waitMs === LONGEST_WAIT_MS)) {
        told.add(thrown.problem);
        onWait?.(`Trying again: ${thrown.message}`);
      }
      const restMs = waitMs * (0.5 + random.uniform());
      waitedMs += restMs;
      await delay(restMs, undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }
}
