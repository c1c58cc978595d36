import { join } from 'node:path';
import { ModelNotFoundError } from '../repository/errors.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import { mirrorFolderOf } from './cache-options.ts';
import type { Context } from './context.ts';
import { bucketPatience, openBucket } from './open-repository.ts';

/** Where `bonsai port` writes to: a folder, or a folder that is published in a bucket in the end. */
export interface PortTarget {
  readonly folder: string;
  /**
   * Publishes the family. A folder is published as it is written.
   * @throws StoreError; the family stays in the folder
   */
  publish(): Promise<void>;
}

/**
 * Opens the target of a task. Of a bucket, the family that is there is brought here first, since it is added to.
 * @throws InvalidArgumentError, StoreError, CorruptRepositoryError
 */
export async function openPortTarget(
  out: string,
  task: string,
  workDirectory: string,
  context: Context,
): Promise<PortTarget> {
  if (!isS3Url(out)) return { folder: out, publish: async () => undefined };
  const folder = mirrorFolderOf(join(workDirectory, 'published'), out);
  const { pullTask } = await import('../repository/s3/pull-task.ts');
  const store = await openBucket(out);
  try {
    await pullTask(store, folder, task, { signal: context.signal });
  } catch (thrown) {
    if (!(thrown instanceof ModelNotFoundError)) throw thrown;
  } finally {
    store.close();
  }
  return {
    folder,
    async publish() {
      context.progress.say(`Publishing from ${folder}; if that fails: bonsai repo push ${folder} '${out}'`);
      const { pushTask } = await import('../repository/s3/push-task.ts');
      // Porting takes hours; connections do not.
      const again = await openBucket(out);
      try {
        await pushTask(again, folder, task, {
          nowMs: context.clock.epochMs(),
          signal: context.signal,
          // Others may measure what is there while this goes on.
          keepsProfiles: bucketPatience(context),
        });
      } finally {
        again.close();
      }
    },
  };
}
