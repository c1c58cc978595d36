import { DIGEST_FIELD } from '../manifest.ts';
import { withClaim } from './claim.ts';
import { manifestKey } from './layout.ts';
import type { ObjectStore, ReadObject } from './object-store.ts';
import { s3Text } from './s3-url.ts';
import { StoreError } from './store-error.ts';

/** The description of a task as it lies in a bucket; undefined where there is none. @throws StoreError */
export async function readPublished(
  store: ObjectStore,
  task: string,
  signal?: AbortSignal,
): Promise<ReadObject | undefined> {
  const read = await store.read(manifestKey(task), { signal });
  // Without an ETag to compare with, no store says `unchanged`.
  return read === 'unchanged' ? undefined : read;
}

/**
 * Writes the description of a task, if the one that is there still is the one of before.
 * @param before undefined: there was none
 * @throws StoreError `conflict` if somebody else published meanwhile
 */
export async function publishManifest(
  store: ObjectStore,
  task: string,
  text: string,
  before: ReadObject | undefined,
  signal: AbortSignal | undefined,
): Promise<void> {
  const key = manifestKey(task);
  const bytes = new TextEncoder().encode(text);
  await withClaim(
    store,
    task,
    signal,
    async () => {
      try {
        await store.write(key, bytes, {
          condition: before === undefined ? 'absent' : { etag: before.etag },
          signal,
        });
      } catch (thrown) {
        if (!(thrown instanceof StoreError) || thrown.problem !== 'conflict') throw thrown;
        const now = await readPublished(store, task, signal);
        // The answer to a write that happened may be lost; its repetition then finds what it wrote itself.
        if (isText(now, text)) return;
        throw new StoreError('conflict', conflictText(store, key, now), { cause: thrown });
      }
    },
    async () => {
      // Without conditions of the store's, the claim keeps others away, and this comparison those that came before it.
      const now = await readPublished(store, task, signal);
      if (now?.etag !== before?.etag) throw new StoreError('conflict', conflictText(store, key, now));
    },
  );
}

export function isText(object: ReadObject | undefined, text: string): boolean {
  return object !== undefined && textOf(object) === text;
}

export function textOf({ bytes }: ReadObject): string {
  return new TextDecoder().decode(bytes);
}

function conflictText(store: ObjectStore, key: string, now: ReadObject | undefined): string {
  const what = now === undefined ? 'removed it' : `published the family with digest ${digestIn(now)}`;
  return `${s3Text(store.url, key)}: somebody else ${what} while this push was under way, so that yours is not published. Look at it (bonsai repo show), then push again if yours is to replace it.`;
}

function digestIn(object: ReadObject): string {
  try {
    return String((JSON.parse(textOf(object)) as Record<string, unknown>)[DIGEST_FIELD]);
  } catch {
    return '(damaged)';
  }
}
