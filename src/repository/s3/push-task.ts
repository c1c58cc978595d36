import { InvalidArgumentError } from '../../base/errors.ts';
import { DIGEST_FIELD, manifestText } from '../manifest.ts';
import { descriptionFiles, readTask, verifyVariant } from '../store.ts';
import type { TaskManifest } from '../types.ts';
import { withClaim } from './claim.ts';
import { manifestKey, networkKey, networksPrefix, tritonKey, tritonNetworkKey } from './layout.ts';
import type { ObjectStore, ReadObject } from './object-store.ts';
import { s3Text } from './s3-url.ts';
import { StoreError } from './store-error.ts';

export interface PushOptions {
  /** Also puts copies where Triton looks for them; the store makes them. */
  readonly hasTritonLayout?: boolean;
  /** Removes networks that the new family does not name, once they are older than `UNUSED_GRACE_MS`. */
  readonly removesUnused?: boolean;
  /** Milliseconds since the Unix epoch; for what is old. */
  readonly nowMs: number;
  readonly signal?: AbortSignal;
  /** Told of what is being done, a sentence. */
  readonly onStep?: (text: string) => void;
}

export interface PushedTask {
  readonly task: string;
  /** `unchanged` if the bucket had this very family. */
  readonly outcome: 'published' | 'unchanged';
  readonly uploadedNetworks: number;
  readonly uploadedBytes: number;
  /** Networks that were removed since no family names them any more. */
  readonly removedNetworks: number;
}

/** Readers may be about to fetch what the manifest named that they have read; publishers what they have just put there. */
export const UNUSED_GRACE_MS = 24 * 3_600_000;

/**
 * Publishes a task of a folder: the networks first, each under its digest, then the manifest, and that only if it still
 * is the one that was there at the beginning. So a reader sees the family of before or the new one, and of two
 * publishers at once one wins and the other is told. What an interrupted push has put there is not sent again.
 * @throws StoreError `conflict` if somebody else published meanwhile; CorruptRepositoryError for a damaged folder
 */
export async function pushTask(
  store: ObjectStore,
  root: string,
  task: string,
  options: PushOptions,
): Promise<PushedTask> {
  const { signal, onStep = () => undefined } = options;
  const { manifest, problems } = await readTask(root, task);
  if (manifest === undefined)
    throw new InvalidArgumentError(
      `${task} has no bonsai.json, so its networks have no digests to publish them under. Only tasks that Bonsai made can be pushed.`,
    );
  if (problems.length > 0) throw problems[0]!.error;
  const text = manifestText(manifest);
  const before = asRead(await store.read(manifestKey(task), { signal }));
  let uploadedNetworks = 0;
  let uploadedBytes = 0;
  for (const variant of manifest.variants) {
    const key = networkKey(task, variant.digest);
    const there = await store.status(key, signal);
    if (there?.sizeBytes === variant.sizeBytes) continue;
    onStep(`${task}/${variant.version}: sending ${(variant.sizeBytes / 1e6).toFixed(1)} MB`);
    await store.write(key, await verifyVariant(root, task, variant), { signal });
    uploadedNetworks++;
    uploadedBytes += variant.sizeBytes;
  }
  const isNew = !isSame(before, text);
  if (isNew) {
    onStep(`${task}: publishing ${manifest.variants.length} versions`);
    await publish(store, task, text, before, signal);
  }
  if (options.hasTritonLayout) await copyForTriton(store, manifest, signal);
  return {
    task,
    outcome: isNew ? 'published' : 'unchanged',
    uploadedNetworks,
    uploadedBytes,
    removedNetworks: options.removesUnused ? await removeUnused(store, manifest, options) : 0,
  };
}

type Before = ReadObject | undefined;

async function publish(
  store: ObjectStore,
  task: string,
  text: string,
  before: Before,
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
        const now = asRead(await store.read(key, { signal }));
        // The answer to a write that happened may be lost; its repetition then finds what it wrote itself.
        if (isSame(now, text)) return;
        throw new StoreError('conflict', conflictText(store, key, now), { cause: thrown });
      }
    },
    async () => {
      // Without conditions of the store's, the claim keeps others away, and this comparison those that came before it.
      const now = asRead(await store.read(key, { signal }));
      if (now?.etag !== before?.etag) throw new StoreError('conflict', conflictText(store, key, now));
    },
  );
}

function conflictText(store: ObjectStore, key: string, now: Before): string {
  const what = now === undefined ? 'removed it' : `published the family with digest ${digestIn(now)}`;
  return `${s3Text(store.url, key)}: somebody else ${what} while this push was under way, so that yours is not published. Look at it (bonsai repo show), then push again if yours is to replace it.`;
}

function digestIn({ bytes }: ReadObject): string {
  try {
    return String((JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>)[DIGEST_FIELD]);
  } catch {
    return '(damaged)';
  }
}

function isSame(object: Before, text: string): boolean {
  return object !== undefined && new TextDecoder().decode(object.bytes) === text;
}

/** Without an ETag to compare with, no store says `unchanged`. */
function asRead(read: ReadObject | 'unchanged' | undefined): Before {
  return read === 'unchanged' ? undefined : read;
}

async function copyForTriton(
  store: ObjectStore,
  manifest: TaskManifest,
  signal?: AbortSignal,
): Promise<void> {
  const { task, variants } = manifest;
  for (const { version, digest } of variants)
    await store.copy(networkKey(task, digest), tritonNetworkKey(task, version), signal);
  for (const [name, text] of descriptionFiles(manifest))
    await store.write(tritonKey(task, name), new TextEncoder().encode(text), { signal });
}

async function removeUnused(
  store: ObjectStore,
  { task, variants }: TaskManifest,
  { nowMs, signal }: PushOptions,
): Promise<number> {
  const used = new Set(variants.map(({ digest }) => networkKey(task, digest)));
  let removed = 0;
  for (const { key, writtenMs } of await store.list(networksPrefix(task), signal)) {
    if (used.has(key) || nowMs - writtenMs < UNUSED_GRACE_MS) continue;
    await store.remove(key, signal);
    removed++;
  }
  return removed;
}
