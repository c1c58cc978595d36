import { hostname } from 'node:os';
import type { Logger } from 'pino';
import { type Random, seededRandom } from '../base/random.ts';
import type { ObjectStore } from '../repository/s3/object-store.ts';
import type { Patience } from '../repository/s3/patience.ts';
import type { RepositoryMirror } from '../repository/s3/repository-mirror.ts';
import { isS3Url, parseS3Url } from '../repository/s3/s3-url.ts';
import { StoreError } from '../repository/s3/store-error.ts';
import { folderStore, type TaskStore } from '../repository/task-store.ts';
import { type CacheOptions, cacheFolderOf, mirrorFolderOf } from './cache-options.ts';
import type { Context } from './context.ts';

/** A repository that a command was given: a folder, or a place in a bucket. */
export interface OpenedRepository {
  readonly store: TaskStore;
  /** Metrics of the way to the bucket; empty for a folder. */
  metricsText(): string;
  /** Looks at the bucket from time to time until the repository is closed; does nothing for a folder. */
  watch(intervalMs: number): void;
  close(): Promise<void>;
}

/** @throws InvalidArgumentError for a URL that is none; StoreError for a bucket that cannot be read and is not cached */
export async function openRepository(
  spec: string,
  options: CacheOptions,
  context: Context,
  logger: Logger,
): Promise<OpenedRepository> {
  if (!isS3Url(spec))
    return {
      store: folderStore(spec),
      metricsText: () => '',
      watch: () => undefined,
      close: async () => undefined,
    };
  const closing = new AbortController();
  const signal = AbortSignal.any([context.signal, closing.signal]);
  const { mirror, objects } = await openMirror(spec, options, context, signal);
  const tell = outageTeller(mirror, logger);
  tell();
  let watching: Promise<void> = Promise.resolve();
  return {
    store: mirror,
    metricsText: () => mirror.metricsText(),
    watch(intervalMs) {
      // Chance keeps nodes apart that were started by the same command: each needs its own.
      const random = ownRandom(context);
      watching = mirror.watch(intervalMs, random, tell, signal);
    },
    async close() {
      closing.abort();
      await watching;
      objects.close();
    },
  };
}

/**
 * A folder with the descriptions of all tasks: the repository itself, or what a look at the bucket brings.
 * @throws as `openRepository`
 */
export async function descriptionsOf(spec: string, context: Context): Promise<string> {
  if (!isS3Url(spec)) return spec;
  // Who brings no networks here has nothing to say about how many stay.
  const options = { cacheLimit: Number.POSITIVE_INFINITY };
  const { mirror, objects } = await openMirror(spec, options, context, context.signal);
  objects.close();
  const { failure } = mirror.status;
  if (failure instanceof StoreError && failure.problem !== 'unreachable') throw failure; // It does not pass by itself.
  if (failure !== undefined) context.progress.say(`Going by what was seen of it before: ${failure.message}`);
  return mirror.folder;
}

/** A part of a bucket. The SDK is loaded for those who have one alone. @throws InvalidArgumentError */
export async function openBucket(spec: string): Promise<ObjectStore> {
  const url = parseS3Url(spec);
  // What the SDK says of this version of Node.js is nothing that the user of a command can act upon.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
  const { openObjectStore } = await import('../repository/s3/aws-object-store.ts');
  return openObjectStore(url);
}

/** How results of long work are put into a bucket that others write to as well. */
export function bucketPatience(context: Context): Patience {
  return { random: ownRandom(context), signal: context.signal, onWait: context.progress.say };
}

/** Another one in each process: those of containers have the same number, and those of one Job begin at the same time. */
function ownRandom({ clock }: Context): Random {
  return seededRandom(process.pid).fork(`${hostname()} ${clock.epochMs()}`);
}

async function openMirror(
  spec: string,
  options: CacheOptions,
  { clock }: Context,
  signal: AbortSignal,
): Promise<{ mirror: RepositoryMirror; objects: ObjectStore }> {
  const objects = await openBucket(spec);
  const { NetworkCache } = await import('../repository/s3/network-cache.ts');
  const { RepositoryMirror } = await import('../repository/s3/repository-mirror.ts');
  const folder = cacheFolderOf(options);
  try {
    const cache = await NetworkCache.open({ folder, limitBytes: options.cacheLimit });
    const mirror = await RepositoryMirror.open({
      store: objects,
      folder: mirrorFolderOf(folder, spec),
      cache,
      clock,
      signal,
    });
    return { mirror, objects };
  } catch (thrown) {
    objects.close();
    throw thrown;
  }
}

/** Writes to the log when the bucket goes away or comes back, and when a description in it is damaged; each once. */
function outageTeller(mirror: RepositoryMirror, logger: Logger): () => void {
  let wasReachable = true;
  let sinceMs = 0;
  let damagedBefore: ReadonlyMap<string, string> = new Map();
  return () => {
    const status = mirror.status;
    const repository = mirror.name;
    const since = new Date(status.sinceMs).toISOString();
    if (!status.isReachable && wasReachable)
      logger.warn(
        { repository, since, reason: status.failure?.message },
        'the repository cannot be read; what is cached here serves on',
      );
    if (status.isReachable && !wasReachable)
      logger.info(
        { repository, awayMs: Math.round(status.sinceMs - sinceMs) },
        'the repository can be read again',
      );
    for (const [model, reason] of status.damaged)
      if (damagedBefore.get(model) !== reason)
        logger.error(
          { repository, model, reason },
          'a task of the repository is damaged; it serves on as it was',
        );
    wasReachable = status.isReachable;
    sinceMs = status.sinceMs;
    damagedBefore = status.damaged;
  };
}
