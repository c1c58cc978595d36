import { randomUUID } from 'node:crypto';
import { claimsPrefix } from './layout.ts';
import type { ObjectStore } from './object-store.ts';
import { s3Text } from './s3-url.ts';
import { StoreError } from './store-error.ts';

/** A claim that is older was left by a publisher that died: what a claim guards takes seconds. */
export const CLAIM_LIFETIME_MS = 600_000;

const EMPTY = new Uint8Array();

/**
 * Publishes under mutual exclusion. Stores that know conditional writes need nothing else. On others a publisher puts a
 * claim beside the task and then looks for others': since one that is written is listed at once (as in every store of
 * today), of two at once at least one sees the other's, and gives up. So at most one goes on.
 * @param publish does the conditional write
 * @param check rejects if what was there at the beginning has changed; called where the store knows no conditions
 * @throws StoreError `conflict` if somebody else is publishing
 */
export async function withClaim(
  store: ObjectStore,
  task: string,
  signal: AbortSignal | undefined,
  publish: () => Promise<void>,
  check: () => Promise<void>,
): Promise<void> {
  if (await hasConditionalWrites(store, task, signal)) return publish();
  const prefix = claimsPrefix(task);
  const own = `${prefix}${randomUUID()}`;
  await store.write(own, EMPTY, { signal });
  try {
    const claims = (await store.list(prefix, signal)).filter(({ key }) => key !== probeKey(task));
    // By the store's own clock: that of this machine may be wrong.
    const nowMs = claims.find(({ key }) => key === own)?.writtenMs ?? 0;
    const others = claims.filter(
      ({ key, writtenMs }) => key !== own && nowMs - writtenMs < CLAIM_LIFETIME_MS,
    );
    if (others.length > 0)
      throw new StoreError(
        'conflict',
        `${s3Text(store.url, others[0]!.key)}: somebody else is publishing "${task}" at this moment, so that yours is not published. Try again in a minute.`,
      );
    await check();
    await publish();
    for (const { key, writtenMs } of claims)
      if (nowMs - writtenMs >= CLAIM_LIFETIME_MS) await store.remove(key, signal);
  } finally {
    await store.remove(own).catch(() => undefined); // It expires.
  }
}

/** Whether the store heeds `If-None-Match`: tried on an empty object that is there for it. */
async function hasConditionalWrites(
  store: ObjectStore,
  task: string,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  for (let tries = 0; tries < 2; tries++) {
    try {
      await store.write(probeKey(task), EMPTY, { condition: 'absent', signal });
    } catch (thrown) {
      if (thrown instanceof StoreError && thrown.problem === 'conflict') return true;
      // Some stores say that they do not know the header.
      if (
        thrown instanceof StoreError &&
        (thrown.problem === 'refused' || /NotImplemented/.test(thrown.message))
      )
        return false;
      throw thrown;
    }
  }
  return false;
}

function probeKey(task: string): string {
  return `${claimsPrefix(task)}probe`;
}
