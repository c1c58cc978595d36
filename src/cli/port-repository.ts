import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { InvalidArgumentError, messageOf } from '../base/errors.ts';
import { probeBlockSize } from '../engine/probe-block.ts';
import { describeTarget } from '../engine/target.ts';
import type { Model, ValueInfo } from '../graph/model.ts';
import { readModel } from '../graph/onnx/read.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { mergeVariants } from '../port/pipeline/family.ts';
import {
  type PortedShare,
  portFamily,
  portShare,
  portToGoal,
  standardSteps,
} from '../port/pipeline/pipeline.ts';
import type { Chain } from '../port/pipeline/plan.ts';
import type {
  Family,
  PortDistillation,
  PortOptions,
  PortSteps,
  UnnumberedVariant,
} from '../port/pipeline/types.ts';
import type { SharedSteps } from '../port/step-cache.ts';
import type { TrainingRecipe } from '../port/train/recipe.ts';
import { digestOf } from '../repository/digest.ts';
import { ModelNotFoundError } from '../repository/errors.ts';
import { type PortJob, readJobs, settleJob } from '../repository/jobs.ts';
import { checkTaskName } from '../repository/names.ts';
import { readManifest, verifyVariant, writeTask } from '../repository/store.ts';
import { withTaskLock } from '../repository/task-lock.ts';
import {
  MANIFEST_SCHEMA_VERSION,
  type TaskManifest,
  type TensorSpec,
  type Variant,
} from '../repository/types.ts';
import { type Goal, parseGoal } from '../transform/prune/goal.ts';
import type { CriterionName } from '../transform/prune/importance/table.ts';
import type { SCOPES } from '../transform/prune/prune.ts';
import { iterationDefaults, type PruningSchedule } from '../transform/prune/schedule.ts';
import type { Context } from './context.ts';
import { labelledInputs } from './inputs.ts';
import { type PortView, portView } from './port-progress.ts';
import { openThroughputBench } from './profile-bench.ts';
import type { Share } from './workers.ts';

export interface PortToRepositoryOptions {
  readonly out: string;
  readonly task: string;
  readonly ratios: readonly number[];
  readonly criteria: readonly CriterionName[];
  /** Variants to make to measure. */
  readonly goals?: readonly Goal[];
  readonly scope?: (typeof SCOPES)[number];
  readonly schedule?: PruningSchedule;
  readonly iterations?: number;
  /** What each next variant is pruned from. */
  readonly chain?: Chain;
  readonly align?: number;
  readonly recipe: (ratio: number) => TrainingRecipe;
  readonly distillation?: PortDistillation;
  readonly latencyRuns?: number;
  readonly throughputMs?: number;
  readonly sloMs?: number;
  /** Try a twin of each variant in 8-bit integers. */
  readonly int8?: boolean;
  readonly normalizeInput?: boolean | 'auto';
  readonly keep?: PortOptions['keep'];
  /** Keep the variants that the repository has of this task already. */
  readonly add?: boolean;
  readonly budgetMs?: number;
  readonly cpus: readonly number[];
  readonly threads: number;
  readonly seed: number;
  readonly workDirectory: string;
  /** Where workers on other machines leave their finished steps. */
  readonly sharedSteps?: SharedSteps;
}

export interface PortedTask {
  readonly manifest: TaskManifest;
  /** False where the budget was spent before all was done. */
  readonly isComplete: boolean;
}

/** The porting pipeline with its parts put in: training, scoring, this machine's profiler, the repository. */
export async function portToRepository(
  context: Context,
  bases: Model | readonly Model[],
  dataset: Dataset,
  options: PortToRepositoryOptions,
): Promise<PortedTask> {
  checkTaskName(options.task);
  const before = await manifestBefore(context, options);
  const view = viewOf(context, options);
  let written: TaskManifest | undefined;
  /** Networks that this run has put there. */
  const own = new Set<string>();
  const isFresh = (digest: string) => !before?.variants.some((variant) => variant.digest === digest);
  const write = async (family: Family) => {
    const base = readModel(family.models.get(1)!); // A family has a member.
    const described = describeTask(base, dataset, options);
    // Others may have added, measured or removed versions since this run began, hours ago.
    const there = await manifestThere(options);
    const made = new Set(family.variants.map(({ digest }) => digest));
    const known = there?.variants.filter(({ digest }) => made.has(digest) || !own.has(digest)) ?? [];
    const fits = there !== undefined && sameInterface(there, described);
    if (options.add && there !== undefined && !fits) throw otherTask(there, options);
    const stays = fits && (options.add === true || family.state !== 'complete');
    const variants = mergeVariants(fits ? known : [], family.variants, stays);
    written = { ...(stays && there), ...described, variants };
    const bytes = new Map(
      family.variants.map(({ digest, version }) => [digest, family.models.get(version)!]),
    );
    await writeTask(options.out, written, networksOf(variants, bytes));
    for (const digest of made) if (isFresh(digest)) own.add(digest);
    if (family.state === 'complete') tellOfDropped(context, known, variants);
  };
  /** Before the first write there may be no folder for a lock. */
  const writeAlone = (family: Family) =>
    before === undefined && written === undefined
      ? write(family)
      : withTaskLock(options.out, options.task, () => write(family));
  try {
    const family = await portFamily(
      bases,
      dataset,
      { ...(await portOptions(context, options, view)), ...(await namesToTake(before, options)) },
      { ...stepsOf(context, dataset, options), write: writeAlone },
    );
    view.close();
    const reuse = view.reuse();
    if (reuse !== undefined) context.progress.say(reuse);
    return { manifest: written!, isComplete: family.state === 'complete' }; // portFamily has written.
  } finally {
    view.close();
  }
}

/** Does the part of `portToRepository` that is one worker's; nothing is written into the repository. */
export async function portShareOf(
  context: Context,
  bases: readonly Model[],
  dataset: Dataset,
  options: PortToRepositoryOptions,
  share: Share,
): Promise<PortedShare> {
  checkTaskName(options.task);
  const before = await manifestBefore(context, options);
  const view = viewOf(context, options);
  try {
    const given = { ...(await portOptions(context, options, view)), ...(await namesToTake(before, options)) };
    return await portShare(bases, dataset, given, stepsOf(context, dataset, options), share);
  } finally {
    view.close();
  }
}

/** The network whose names a family takes that is added to another one. */
async function namesToTake(
  before: TaskManifest | undefined,
  { add, out, task }: PortToRepositoryOptions,
): Promise<Pick<PortOptions, 'namesOf'>> {
  const known = add ? before?.variants[0] : undefined;
  return known === undefined ? {} : { namesOf: readModel(await verifyVariant(out, task, known)) };
}

/**
 * Does the porting jobs that wait for a task (`bonsai request`): each makes one variant and adds it to the family.
 * @returns `unmet`: those of them of which nothing came
 * @throws ModelNotFoundError if there is no such task
 */
export async function portJobs(
  context: Context,
  dataset: Dataset,
  options: PortToRepositoryOptions,
): Promise<PortedTask & { readonly jobs: readonly PortJob[]; readonly unmet: readonly PortJob[] }> {
  const { out, task } = options;
  await readManifest(out, task);
  const { jobs, problems } = await readJobs(out, task);
  for (const { message } of problems) context.progress.say(message);
  const queued = jobs.filter(({ state }) => state === 'queued');
  const endsMs = context.clock.nowMs() + (options.budgetMs ?? Number.POSITIVE_INFINITY);
  let isComplete = true;
  for (const [i, job] of queued.entries()) {
    context.progress.say(`Job ${i + 1} of ${queued.length}: ${job.request}`);
    const budgetMs = endsMs - context.clock.nowMs();
    if (budgetMs <= 0) {
      isComplete = false;
      break;
    }
    isComplete =
      (await portJob(context, dataset, job, {
        ...options,
        ...(options.budgetMs !== undefined && { budgetMs }),
      })) && isComplete;
  }
  const after = (await readJobs(out, task)).jobs;
  const tried = new Set(queued.map(({ id }) => id));
  return {
    manifest: await readManifest(out, task),
    isComplete,
    jobs: after,
    unmet: after.filter(({ id, state }) => tried.has(id) && state === 'failed'),
  };
}

/** @returns whether the job is settled, one way or the other; if not, the budget was spent */
async function portJob(
  context: Context,
  dataset: Dataset,
  job: PortJob,
  options: PortToRepositoryOptions,
): Promise<boolean> {
  const { out, task } = options;
  const manifest = await readManifest(out, task);
  const parent = manifest.variants.find(({ digest }) => digest === job.parent);
  if (parent === undefined) {
    await settleJob(out, job, 'failed', 'The variant that was to be pruned is no longer in the family.');
    return true;
  }
  const view = viewOf(context, options);
  try {
    const outcome = await portToGoal(
      { variant: parent, model: await verifyVariant(out, task, parent) },
      parseGoal(job.goal),
      dataset,
      await portOptions(context, options, view),
      stepsOf(context, dataset, options),
    );
    if (outcome.kind === 'unfinished') return false;
    if (outcome.kind === 'unmet') {
      await settleJob(out, job, 'failed', outcome.reason);
      context.progress.say(`Not made: ${outcome.reason}`);
      return true;
    }
    const variants = await withTaskLock(out, task, async () => {
      // The family may have changed meanwhile.
      const now = await readManifest(out, task);
      const merged = mergeVariants(now.variants, [outcome.variant], true);
      const networks = networksOf(merged, new Map([[outcome.variant.digest, outcome.model]]));
      await writeTask(out, { ...now, variants: merged }, networks);
      return merged;
    });
    const text = outcomeOf(outcome.variant, variants);
    await settleJob(out, job, 'done', text);
    context.progress.say(text);
    return true;
  } finally {
    view.close();
  }
}

function outcomeOf({ digest, accuracy, profiles }: UnnumberedVariant, variants: readonly Variant[]): string {
  const version = variants.find((variant) => variant.digest === digest)!.version; // It was just merged in.
  const rps = Object.values(profiles)[0]?.throughputRps.median;
  return (
    `Version ${version} was made: ${(100 * accuracy.test).toFixed(2)} % of test examples right` +
    `${rps === undefined ? '' : `, ${rps.toFixed(1)}/s`}.`
  );
}

async function portOptions(
  context: Context,
  options: PortToRepositoryOptions,
  view: PortView,
): Promise<PortOptions> {
  const { criteria, scope, ratios, goals, chain, recipe, distillation, int8, keep, normalizeInput } = options;
  return {
    ratios,
    criteria,
    goals,
    chain,
    pruning: { scope, align: options.align ?? (await probeBlockSize()) },
    iterations: {
      schedule: options.schedule ?? iterationDefaults.schedule,
      iterations: options.iterations ?? iterationDefaults.iterations,
    },
    recipe,
    distillation,
    int8,
    keep,
    normalizeInput,
    seed: options.seed,
    target: describeTarget({ cpus: options.cpus.length }),
    workDirectory: options.workDirectory,
    sharedSteps: options.sharedSteps,
    clock: context.clock,
    budgetMs: options.budgetMs,
    frontierMetric: 'inverseThroughput',
    signal: context.signal,
    onProgress: view.show,
    onFound: view.found,
    onNotice: context.progress.say,
  };
}

function viewOf(context: Context, { budgetMs }: PortToRepositoryOptions): PortView {
  if (budgetMs === undefined) return portView(context);
  return portView(context, { budgetEndsMs: context.clock.nowMs() + budgetMs });
}

/** Steps as Bonsai does them; throughput through a server of a repository that holds nothing but the network. */
function stepsOf(
  context: Context,
  dataset: Dataset,
  options: PortToRepositoryOptions,
): Omit<PortSteps, 'write'> {
  const { threads, latencyRuns, cpus, seed, throughputMs: durationMs } = options;
  return {
    ...standardSteps({ threads, clock: context.clock, latencyRuns }),
    throughput: async (bytes) => {
      const repository = join(options.workDirectory, THROUGHPUT_FOLDER);
      const manifest: TaskManifest = {
        ...describeTask(readModel(bytes), dataset, { task: options.task }),
        // What the server does not need to know is left at nothing.
        variants: [
          {
            version: 1,
            digest: digestOf(bytes),
            sizeBytes: bytes.byteLength,
            accuracy: { test: 0, testCount: 0 },
            macs: 0,
            parameters: 0,
            lineage: {},
            profiles: {},
          },
        ],
      };
      // One network after the other lies there, and none when all is measured.
      await rm(repository, { recursive: true, force: true });
      await writeTask(repository, manifest, new Map([[1, bytes]]));
      const inputs = await labelledInputs(dataset, dataset.test, manifest);
      const bench = await openThroughputBench(context, {
        repository,
        manifest,
        inputs,
        cpus,
        seed,
        durationMs,
      });
      try {
        return await bench.measure(1);
      } finally {
        await bench.close();
        await rm(repository, { recursive: true, force: true });
      }
    },
  };
}

/** Within the work folder. */
const THROUGHPUT_FOLDER = 'throughput';

function networksOf(
  variants: readonly Variant[],
  bytes: ReadonlyMap<string, Uint8Array>,
): Map<number, Uint8Array> {
  return new Map(
    variants.flatMap(({ version, digest }) => {
      const network = bytes.get(digest);
      return network === undefined ? [] : [[version, network] as const];
    }),
  );
}

/** The task's manifest as it lies there; undefined where there is none. One that is damaged is overwritten. */
async function manifestBefore(
  context: Context,
  { out, task, add }: PortToRepositoryOptions,
): Promise<TaskManifest | undefined> {
  try {
    return await readManifest(out, task);
  } catch (thrown) {
    if (thrown instanceof ModelNotFoundError) return undefined;
    if (add) throw thrown;
    context.progress.say(`The task that lies there cannot be read and is written anew: ${messageOf(thrown)}`);
    return undefined;
  }
}

/** The same while the family is written; a damaged one that shall be added to is not overwritten. */
async function manifestThere({ out, task, add }: PortToRepositoryOptions): Promise<TaskManifest | undefined> {
  try {
    return await readManifest(out, task);
  } catch (thrown) {
    if (add && !(thrown instanceof ModelNotFoundError)) throw thrown;
    return undefined;
  }
}

function tellOfDropped(context: Context, before: readonly Variant[], now: readonly Variant[]): void {
  const digests = new Set(now.map(({ digest }) => digest));
  const dropped = before.filter(({ digest }) => !digests.has(digest)).length;
  if (dropped === 0) return;
  context.progress.say(
    `${dropped} variant${dropped === 1 ? '' : 's'} that lay in the repository ${dropped === 1 ? 'is' : 'are'} not in the family that this command makes: removed. --add keeps them.`,
  );
}

function sameInterface(a: TaskManifest, b: TaskManifest): boolean {
  const of = ({ inputs, outputs, classes }: TaskManifest) => JSON.stringify([inputs, outputs, classes]);
  return of(a) === of(b);
}

function otherTask({ task }: TaskManifest, { out }: PortToRepositoryOptions): InvalidArgumentError {
  return new InvalidArgumentError(
    `The task "${task}" in ${out} has other inputs, outputs or classes than the family to add. Give the new one a name of its own with --task.`,
  );
}

function describeTask(
  model: Model,
  dataset: Dataset,
  options: { readonly task: string; readonly sloMs?: number },
): TaskManifest {
  return {
    schemaVersion: MANIFEST_SCHEMA_VERSION,
    task: options.task,
    inputs: model.graph.inputs.map(tensorSpec),
    outputs: model.graph.outputs.map(tensorSpec),
    classes: dataset.classes,
    ...(options.sloMs !== undefined && { sloMs: options.sloMs }),
    variants: [],
  };
}

function tensorSpec({ name, type }: ValueInfo): TensorSpec {
  return {
    name,
    dtype: type?.dtype ?? 'float32',
    shape: (type?.shape ?? []).map((size) => (typeof size === 'number' ? size : -1)),
  };
}
