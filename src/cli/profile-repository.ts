import { InvalidArgumentError } from '../base/errors.ts';
import { ModelNotFoundError } from '../repository/errors.ts';
import { amendProfiles, type MeasuredProfile } from '../repository/profiles.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import { listTasks, readManifest } from '../repository/store.ts';
import type { TaskManifest } from '../repository/types.ts';
import { mirrorFolderOf } from './cache-options.ts';
import type { Context } from './context.ts';
import { bucketPatience, openBucket } from './open-repository.ts';

/** Where `bonsai profile` reads a family and writes its profiles: a folder, or a bucket by way of one. */
export interface ProfileRepository {
  /** A folder with the networks; of a bucket, what was brought here of it. */
  readonly folder: string;
  /** As it was opened. */
  readonly manifest: TaskManifest;
  /** Writes a profile, beside those that others write meanwhile. @returns the family as it is now, which may be another by then */
  record(measured: MeasuredProfile): Promise<TaskManifest>;
}

/**
 * @param spec a folder, or `s3://…`
 * @param options.task by default the only one
 * @param options.beside another task that is measured beside it, which is brought here as well where the bucket has it
 * @param options.workDirectory where networks of a bucket are brought; of one process alone
 * @throws InvalidArgumentError, ModelNotFoundError, CorruptRepositoryError, StoreError
 */
export async function openProfileRepository(
  context: Context,
  spec: string,
  options: { readonly task?: string; readonly beside?: string; readonly workDirectory: string },
): Promise<ProfileRepository> {
  if (!isS3Url(spec)) {
    const task = options.task ?? onlyOf(await listTasks(spec), spec);
    return {
      folder: spec,
      manifest: await readManifest(spec, task),
      record: (measured) => amendProfiles(spec, task, [measured]),
    };
  }
  const { signal } = context;
  const { listRemoteTasks, pullTask } = await import('../repository/s3/pull-task.ts');
  const folder = mirrorFolderOf(options.workDirectory, spec);
  const store = await openBucket(spec);
  try {
    const task = options.task ?? onlyOf(await listRemoteTasks(store, signal), spec);
    const { manifest } = await pullTask(store, folder, task, { signal });
    const { beside = task } = options;
    if (beside !== task)
      await pullTask(store, folder, beside, { signal }).catch((thrown: unknown) => {
        if (!(thrown instanceof ModelNotFoundError)) throw thrown; // It may be ready on a server all the same.
      });
    return { folder, manifest, record: (measured) => publish(context, spec, task, measured) };
  } finally {
    store.close();
  }
}

/** A family as it lies there, without its networks. @throws as `openProfileRepository` */
export async function readFamily(
  { signal }: Context,
  spec: string,
  task: string | undefined,
): Promise<TaskManifest> {
  if (!isS3Url(spec)) return readManifest(spec, task ?? (await onlyTask(spec)));
  const { listRemoteTasks, readRemoteManifest } = await import('../repository/s3/pull-task.ts');
  const store = await openBucket(spec);
  try {
    const name = task ?? onlyOf(await listRemoteTasks(store, signal), spec);
    return await readRemoteManifest(store, name, signal);
  } finally {
    store.close();
  }
}

async function publish(
  context: Context,
  spec: string,
  task: string,
  measured: MeasuredProfile,
): Promise<TaskManifest> {
  const { amendPublishedProfiles } = await import('../repository/s3/amend-profiles.ts');
  // Measuring takes minutes; connections do not.
  const store = await openBucket(spec);
  try {
    return await amendPublishedProfiles(store, task, [measured], bucketPatience(context));
  } finally {
    store.close();
  }
}

export async function onlyTask(repository: string): Promise<string> {
  return onlyOf(await listTasks(repository), repository);
}

function onlyOf(tasks: readonly string[], repository: string): string {
  if (tasks.length === 1) return tasks[0]!;
  throw new InvalidArgumentError(
    tasks.length === 0
      ? `There is no task in the repository ${repository}.`
      : `The repository ${repository} has the tasks ${tasks.join(', ')}: name one with --task.`,
  );
}
