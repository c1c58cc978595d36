import { rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ModelNotFoundError } from '../errors.ts';
import { parseManifest } from '../manifest.ts';
import { isTaskName } from '../names.ts';
import { readManifest, verifyVariant, writeTask } from '../store.ts';
import type { TaskManifest } from '../types.ts';
import { type FetchOptions, fetchNetwork } from './fetch-network.ts';
import { manifestKey } from './layout.ts';
import type { ObjectStore } from './object-store.ts';
import { s3Text } from './s3-url.ts';

export interface PulledTask {
  readonly manifest: TaskManifest;
  readonly fetchedNetworks: number;
  readonly fetchedBytes: number;
}

/** Where networks lie until their task is whole: hidden, so that it is taken for no task. */
const PULL_FOLDER = '.pull';

/** The names of the tasks in a bucket, in alphabetical order. @throws StoreError */
export async function listRemoteTasks(store: ObjectStore, signal?: AbortSignal): Promise<string[]> {
  const tasks: string[] = [];
  for (const name of (await store.listFolders(signal)).filter(isTaskName))
    if ((await store.status(manifestKey(name), signal)) !== undefined) tasks.push(name);
  return tasks;
}

/** @throws ModelNotFoundError, CorruptRepositoryError, StoreError */
export async function readRemoteManifest(
  store: ObjectStore,
  task: string,
  signal?: AbortSignal,
): Promise<TaskManifest> {
  if (!isTaskName(task)) throw new ModelNotFoundError(task);
  const read = await store.read(manifestKey(task), { signal });
  if (read === undefined || read === 'unchanged') throw new ModelNotFoundError(task);
  return parseManifest(new TextDecoder().decode(read.bytes), s3Text(store.url, manifestKey(task))).manifest;
}

/**
 * Writes a task of a bucket into a folder, as one change. Networks that the folder has already are not fetched; what an
 * interrupted pull has fetched is kept beside the tasks, and goes on to the byte.
 * @throws CorruptRepositoryError naming the object whose digest is not the manifest's; StoreError, ModelNotFoundError
 */
export async function pullTask(
  store: ObjectStore,
  root: string,
  task: string,
  options: FetchOptions = {},
): Promise<PulledTask> {
  const manifest = await readRemoteManifest(store, task, options.signal);
  const before = await readManifest(root, task).catch(() => undefined);
  const models = new Map<number, string>();
  let fetchedBytes = 0;
  const fetched: string[] = [];
  for (const { version, digest, sizeBytes } of manifest.variants) {
    const here = before?.variants.find((variant) => variant.digest === digest);
    if (here !== undefined && (await isSound(root, task, here))) continue;
    const path = join(root, PULL_FOLDER, `${digest}.onnx`);
    await fetchNetwork(store, { task, digest, sizeBytes }, path, {
      ...options,
      onBytes: (count) => {
        fetchedBytes += count;
        options.onBytes?.(count);
      },
    });
    models.set(version, path);
    fetched.push(path);
  }
  await writeTask(root, manifest, models);
  for (const path of fetched) await rm(path, { force: true });
  await rmdir(join(root, PULL_FOLDER)).catch(() => undefined); // It is not there, or holds another pull's.
  return { manifest, fetchedNetworks: fetched.length, fetchedBytes };
}

async function isSound(
  root: string,
  task: string,
  variant: TaskManifest['variants'][number],
): Promise<boolean> {
  return verifyVariant(root, task, variant).then(
    () => true,
    () => false,
  );
}
