import { ModelNotFoundError } from '../errors.ts';
import { manifestText, parseManifest } from '../manifest.ts';
import { type MeasuredProfile, withProfiles } from '../profiles.ts';
import type { TaskManifest } from '../types.ts';
import { manifestKey } from './layout.ts';
import type { ObjectStore } from './object-store.ts';
import { type Patience, patiently } from './patience.ts';
import { isText, publishManifest, readPublished, textOf } from './publish-manifest.ts';
import { s3Text } from './s3-url.ts';

/**
 * Puts profiles into the description of a task in a bucket, beside those that others put there at the same moment: what is
 * there is read, amended, and written only if it still is what was read; otherwise all of it is done again. Doing the same
 * twice changes nothing.
 * @returns the manifest as it is published now
 * @throws ModelNotFoundError, CorruptRepositoryError, StoreError
 */
export async function amendPublishedProfiles(
  store: ObjectStore,
  task: string,
  measured: readonly MeasuredProfile[],
  patience: Patience,
): Promise<TaskManifest> {
  const { signal } = patience;
  return patiently(async () => {
    const before = await readPublished(store, task, signal);
    if (before === undefined) throw new ModelNotFoundError(task);
    const { manifest } = parseManifest(textOf(before), s3Text(store.url, manifestKey(task)));
    const amended = withProfiles(manifest, measured);
    const text = manifestText(amended);
    if (!isText(before, text)) await publishManifest(store, task, text, before, signal);
    return amended;
  }, patience);
}
