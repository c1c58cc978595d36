import { InvalidArgumentError } from '../../base/errors.ts';
import { manifestText, parseManifest } from '../manifest.ts';
import { withNewerProfiles } from '../profiles.ts';
import { descriptionFiles, readTask, verifyVariant } from '../store.ts';
import type { TaskManifest } from '../types.ts';
import {
  manifestKey,
  networkKey,
  networksPrefix,
  stepsPrefix,
  tritonKey,
  tritonNetworkKey,
} from './layout.ts';
import type { ListedObject, ObjectStore, ReadObject } from './object-store.ts';
import { type Patience, patiently } from './patience.ts';
import { isText, publishManifest, readPublished, textOf } from './publish-manifest.ts';
import { s3Text } from './s3-url.ts';

export interface PushOptions {
  /** Also puts copies where Triton looks for them; the store makes them. */
  readonly hasTritonLayout?: boolean;
  /** Also sends networks that are there already: one that was damaged in the store has its size all the same. */
  readonly sendsAll?: boolean;
  /** Removes networks that the new family does not name, once they are older than `UNUSED_GRACE_MS`. */
  readonly removesUnused?: boolean;
  /**
   * Given: profiles that the bucket has of the same networks stay where they are newer or of another target, also those
   * that come while this push is under way. By default the folder's description replaces that of the bucket.
   */
  readonly keepsProfiles?: Patience;
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
  /** Files of finished steps that several workers of a porting had left for each other. */
  readonly removedSteps: number;
}

/**
 * Readers may be about to fetch what the manifest named that they have read; publishers what they have just put there. A
 * porting that has written no step for so long is over; one that goes on does again what it misses.
 */
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
  const before = await readPublished(store, task, signal);
  let uploadedNetworks = 0;
  let uploadedBytes = 0;
  for (const variant of manifest.variants) {
    const key = networkKey(task, variant.digest);
    const there = await store.status(key, signal);
    if (there?.sizeBytes === variant.sizeBytes && options.sendsAll !== true) continue;
    onStep(`${task}/${variant.version}: sending ${(variant.sizeBytes / 1e6).toFixed(1)} MB`);
    await store.write(key, await verifyVariant(root, task, variant), { signal });
    uploadedNetworks++;
    uploadedBytes += variant.sizeBytes;
  }
  const isNew = await publish(store, manifest, before, options);
  if (options.hasTritonLayout) await copyForTriton(store, manifest, signal);
  return {
    task,
    outcome: isNew ? 'published' : 'unchanged',
    uploadedNetworks,
    uploadedBytes,
    ...(options.removesUnused
      ? await removeUnused(store, manifest, options)
      : { removedNetworks: 0, removedSteps: 0 }),
  };
}

/** @returns whether the bucket had another description */
async function publish(
  store: ObjectStore,
  manifest: TaskManifest,
  before: ReadObject | undefined,
  { keepsProfiles, signal, onStep }: PushOptions,
): Promise<boolean> {
  const { task } = manifest;
  const publishOver = async (there: ReadObject | undefined, text: string) => {
    if (isText(there, text)) return false;
    onStep?.(`${task}: publishing ${manifest.variants.length} versions`);
    await publishManifest(store, task, text, there, signal);
    return true;
  };
  if (keepsProfiles === undefined) return publishOver(before, manifestText(manifest));
  const family = familyIn(store, task, before);
  const outcome = await patiently(async () => {
    const now = await readPublished(store, task, signal);
    // Somebody who measured is no rival; somebody who published another family is.
    if (familyIn(store, task, now) !== family) return 'rival';
    const theirs = manifestIn(store, task, now);
    const whole = theirs === undefined ? manifest : withNewerProfiles(manifest, theirs);
    return publishOver(now, manifestText(whole));
  }, keepsProfiles);
  if (outcome !== 'rival') return outcome;
  await publishManifest(store, task, manifestText(manifest), before, signal); // Is refused, and says by whom.
  return true;
}

/** The digests of a family's networks as a text that compares; undefined where there is none. */
function familyIn(store: ObjectStore, task: string, published: ReadObject | undefined): string | undefined {
  return manifestIn(store, task, published)
    ?.variants.map(({ digest }) => digest)
    .join();
}

/** Undefined also for one that is damaged, which is to be replaced. */
function manifestIn(
  store: ObjectStore,
  task: string,
  published: ReadObject | undefined,
): TaskManifest | undefined {
  if (published === undefined) return undefined;
  try {
    return parseManifest(textOf(published), s3Text(store.url, manifestKey(task))).manifest;
  } catch {
    return undefined;
  }
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
): Promise<Pick<PushedTask, 'removedNetworks' | 'removedSteps'>> {
  const used = new Set(variants.map(({ digest }) => networkKey(task, digest)));
  const isOld = ({ writtenMs }: ListedObject) => nowMs - writtenMs >= UNUSED_GRACE_MS;
  const networks = await store.list(networksPrefix(task), signal);
  const unused = networks.filter((network) => !used.has(network.key) && isOld(network));
  const steps = await store.list(stepsPrefix(task), signal);
  const finished = steps.every(isOld) ? steps : [];
  for (const { key } of [...unused, ...finished]) await store.remove(key, signal);
  return { removedNetworks: unused.length, removedSteps: finished.length };
}
