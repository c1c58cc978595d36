import type { Model } from '../graph/model.ts';
import type { Dataset } from '../port/data/data-module.ts';
import type { PortedShare } from '../port/pipeline/pipeline.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import { hasTaskset } from './command-process.ts';
import type { Context } from './context.ts';
import { usableCpus } from './cpus.ts';
import { bucketPatience, openBucket } from './open-repository.ts';
import { type PortToRepositoryOptions, portShareOf } from './port-repository.ts';
import { isStartedWorker, runWorkers, type Share, workerName } from './workers.ts';

/**
 * Trains all shares at once on this machine, each in a process of its own on CPUs of its own as far as there are enough. Their
 * steps are left in the work folder that they have in common.
 * @param threads of each
 */
export async function trainTogether(context: Context, count: number, threads: number): Promise<void> {
  const { progress } = context;
  const cpus = usableCpus();
  const areEnough = count * threads <= cpus.length;
  if (!areEnough)
    progress.say(
      `${count} workers of ${threads} ${threads === 1 ? 'thread' : 'threads'} share ${cpus.length} CPUs: they get in each other's way. Fewer --workers or --threads are quicker.`,
    );
  const isBound = areEnough && hasTaskset();
  await runWorkers(
    context,
    Array.from({ length: count }, (_, i) => ({
      more: ['--threads', String(threads)],
      ...(isBound && { boundTo: cpus.slice(i * threads, (i + 1) * threads) }),
    })),
  );
}

/** Threads of one of several workers, where nobody says how many: the CPUs, evenly. */
export function threadsOfEach(count: number): number {
  return Math.max(1, Math.floor(usableCpus().length / count));
}

/**
 * Does work with the steps of other machines at hand, where the repository is in a bucket: they lie in it, beside the task.
 * Workers that one process has started have a folder in common, and need none of that.
 * @param access who works alone takes what is there, and leaves nothing
 */
export async function withSharedSteps<T>(
  context: Context,
  out: string,
  given: PortToRepositoryOptions,
  access: 'reads' | 'reads and writes',
  work: (options: PortToRepositoryOptions) => Promise<T>,
): Promise<T> {
  if (!isS3Url(out) || isStartedWorker()) return work(given);
  const { stepFiles } = await import('../repository/s3/step-files.ts');
  const store = await openBucket(out);
  try {
    const steps = stepFiles(store, given.task, bucketPatience(context));
    return await work({
      ...given,
      sharedSteps: access === 'reads' ? { ...steps, write: async () => undefined } : steps,
    });
  } finally {
    store.close();
  }
}

/** Does one share, and says how things stand then. */
export async function trainShare(
  context: Context,
  models: readonly Model[],
  dataset: Dataset,
  options: PortToRepositoryOptions,
  share: Share,
): Promise<PortedShare> {
  const done = await portShareOf(context, models, dataset, options, share);
  const who = workerName(share);
  if (done.branches === 0) context.progress.say(`Nothing to train for ${who}: there are fewer pieces.`);
  else if (done.isComplete)
    context.progress.say(`Done by ${who}: ${done.branches} ${done.branches === 1 ? 'branch' : 'branches'}.`);
  return done;
}
