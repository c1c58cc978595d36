import { join } from 'node:path';
import { Command, Option } from 'commander';
import { probeBlockSize } from '../engine/probe-block.ts';
import { describeTarget } from '../engine/target.ts';
import type { Model, ValueInfo } from '../graph/model.ts';
import { readModelFile } from '../graph/onnx/read.ts';
import type { Augmentation } from '../port/data/augmentation.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { checkRatios, type Family, type PortProgress, portFamily, standardSteps } from '../port/pipeline.ts';
import { checkRecipe, type TrainingRecipe } from '../port/train/recipe.ts';
import type { TrainingProgress } from '../port/train/train.ts';
import { checkTaskName } from '../repository/names.ts';
import { writeTask } from '../repository/store.ts';
import { MANIFEST_SCHEMA_VERSION, type TaskManifest, type TensorSpec } from '../repository/types.ts';
import { foldConstants } from '../transform/passes/fold-constants.ts';
import { batchOfInputs, freeBatch } from '../transform/passes/free-batch.ts';
import { CRITERIA, type CriterionName } from '../transform/prune/importance/table.ts';
import { pruneDefaults, SCOPES } from '../transform/prune/prune.ts';
import { iterationDefaults, type PruningSchedule, SCHEDULES } from '../transform/prune/schedule.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { checkCpus } from './cpus.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { labelledInputs } from './inputs.ts';
import {
  augmentOption,
  dataOption,
  jsonOption,
  loadData,
  seedOption,
  threadsOption,
  workOption,
} from './options.ts';
import { parseDurationMs, parseInteger, parseNumber, parseShares } from './parse.ts';
import { cpusOption, openThroughputBench, type ThroughputBench } from './profile.ts';
import type { ProgressTask } from './progress.ts';
import { familyTable } from './repo.ts';
import { parsePhases, showTraining } from './train.ts';
import { checkWritableFolder } from './writable.ts';

interface PortCommandOptions {
  readonly data: string;
  readonly out: string;
  readonly task?: string;
  readonly ratios: number[];
  readonly criterion: CriterionName;
  readonly scope: (typeof SCOPES)[number];
  readonly schedule: PruningSchedule;
  readonly iterations: number;
  readonly chain: 'previous' | 'base';
  readonly align?: number;
  readonly epochs: TrainingRecipe['phases'];
  readonly batch: number;
  readonly learningRate: number;
  readonly augment?: Augmentation;
  readonly slo?: number;
  readonly int8?: boolean;
  readonly cpus: number[];
  readonly threads: number;
  readonly seed: number;
  readonly work: string;
  readonly json?: boolean;
}

/** Shares of channels to remove: six variants beside the base, from three quarters of the width down to an eighth. */
export const DEFAULT_RATIOS = [0.25, 0.5, 0.625, 0.75, 0.875];

export function portCommand(): Command {
  return new Command('port')
    .description(
      'Grow a trained network into a family of smaller ones: prune, fine-tune, profile, write a repository.',
    )
    .argument('<model>', 'a trained ONNX network that classifies the images of --data')
    .addOption(dataOption())
    .requiredOption('--out <dir>', 'the model repository to write into')
    .option('--task <name>', "the task's name in the repository (default: the name of the data)")
    .addOption(
      new Option('--ratios <list>', 'shares of channels to remove, ascending')
        .argParser(parseShares)
        .default(DEFAULT_RATIOS, DEFAULT_RATIOS.join()),
    )
    .addOption(
      new Option('--criterion <name>', 'what makes a channel unimportant')
        .choices(CRITERIA)
        .default(pruneDefaults.criterion),
    )
    .addOption(
      new Option('--scope <name>', 'every group of channels loses the ratio, or the network as a whole')
        .choices(SCOPES)
        .default(pruneDefaults.scope),
    )
    .addOption(
      new Option('--schedule <name>', 'how a variant gets from its parent to its ratio')
        .choices(SCHEDULES)
        .default(iterationDefaults.schedule),
    )
    .addOption(
      new Option(
        '--iterations <n>',
        'rounds of pruning and fine-tuning of linear and agp; the epochs are spread evenly over them',
      )
        .argParser(parseInteger(1, 1000))
        .default(iterationDefaults.iterations),
    )
    .addOption(
      new Option('--chain <from>', 'prune each variant from the one before it, or all from the base')
        .choices(['previous', 'base'])
        .default('previous'),
    )
    .addOption(
      new Option(
        '--align <n>',
        'keep channels at multiples of this (default: the block that this machine computes in)',
      ).argParser(parseInteger(1, 256)),
    )
    .addOption(
      new Option(
        '--epochs <list>',
        'fine-tuning of each variant; 2@0.5,1 means two at half resolution, then one at full, where it has to end',
      )
        .argParser(parsePhases)
        .default(parsePhases('1'), '1'),
    )
    .addOption(new Option('--batch <n>', 'examples of a step').argParser(parseInteger(1, 4096)).default(64))
    .addOption(new Option('--learning-rate <rate>', 'of fine-tuning').argParser(parseNumber(0)).default(0.02))
    .addOption(augmentOption())
    .addOption(
      new Option('--slo <duration>', 'latency objective to note with the task').argParser(parseDurationMs),
    )
    .option(
      '--int8',
      'also try each variant in 8-bit integers; it joins the family if it measures faster than its parent',
    )
    .addOption(cpusOption())
    .addOption(threadsOption())
    .addOption(seedOption())
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Example:
  $ bonsai port digits.onnx --data mnist --out models

Finished steps are kept under --work: the same command goes on where it was interrupted, and repeats nothing.
${EXIT_CODE_HELP}`,
    )
    .action(async (file: string, options: PortCommandOptions) => {
      const context = processContext(options);
      const recipe: TrainingRecipe = {
        phases: options.epochs,
        batch: options.batch,
        learningRate: options.learningRate,
        schedule: 'cosine',
        warmupShare: 0.1,
        momentum: 0.9,
        nesterov: true,
        weightDecay: 5e-4,
        augmentation: options.augment,
      };
      // What cannot work should show before minutes are spent on it.
      checkRecipe(recipe);
      checkRatios(options.ratios);
      checkCpus(options.cpus);
      if (options.task !== undefined) checkTaskName(options.task);
      const workDirectory = join(options.work, 'port');
      const model = withOpenBatch(await readModelFile(file));
      await checkWritableFolder(options.out);
      await checkWritableFolder(workDirectory);
      const dataset = await loadData(context, options);
      const manifest = await interruptible(
        context.signal,
        `Finished steps are kept in ${workDirectory}: start it again, and it goes on from there.`,
        () =>
          portToRepository(context, model, dataset, {
            ...options,
            task: options.task ?? taskNameOf(dataset),
            recipe: () => recipe,
            sloMs: options.slo,
            workDirectory,
          }),
      );
      context.result(
        manifest,
        `${familyTable(manifest)}\nWritten to ${options.out}. Serve it: bonsai serve ${options.out}`,
      );
    });
}

/** A file written for one batch size as one for any, so that it can be fine-tuned; itself where that cannot be. */
function withOpenBatch(model: Model): Model {
  return batchOfInputs(model.graph) === undefined ? model : (freeBatch(foldConstants(model)) ?? model);
}

/** `mnist` of `mnist:PATH`: what a task is called unless somebody names it. */
export function taskNameOf(dataset: Dataset): string {
  return dataset.name.split(':')[0]!;
}

export interface PortToRepositoryOptions {
  readonly out: string;
  readonly task: string;
  readonly ratios: readonly number[];
  readonly criterion: CriterionName;
  readonly scope?: (typeof SCOPES)[number];
  readonly schedule?: PruningSchedule;
  readonly iterations?: number;
  /** What each next variant is pruned from. */
  readonly chain: 'previous' | 'base';
  readonly align?: number;
  readonly recipe: (ratio: number) => TrainingRecipe;
  readonly latencyRuns?: number;
  readonly throughputMs?: number;
  readonly sloMs?: number;
  /** Try a twin of each variant in 8-bit integers. */
  readonly int8?: boolean;
  readonly cpus: readonly number[];
  readonly threads: number;
  readonly seed: number;
  readonly workDirectory: string;
}

/** The porting pipeline with its parts put in: training, scoring, this machine's profiler, the repository. */
export async function portToRepository(
  context: Context,
  model: Model,
  dataset: Dataset,
  options: PortToRepositoryOptions,
): Promise<TaskManifest> {
  checkTaskName(options.task);
  const { threads, seed } = options;
  const { signal, clock } = context;
  const align = options.align ?? (await probeBlockSize());
  const target = describeTarget({ cpus: options.cpus.length });
  let manifest: TaskManifest | undefined;
  let bench: ThroughputBench | undefined;
  const progress = portProgress(context, options.ratios);
  try {
    await portFamily(
      model,
      dataset,
      {
        ratios: options.ratios,
        chain: options.chain,
        pruning: { criterion: options.criterion, scope: options.scope, align },
        iterations: {
          schedule: options.schedule ?? iterationDefaults.schedule,
          iterations: options.iterations ?? iterationDefaults.iterations,
        },
        recipe: options.recipe,
        int8: options.int8,
        seed,
        target,
        workDirectory: options.workDirectory,
        nowIso: () => new Date(clock.epochMs()).toISOString(),
        frontierMetric: 'inverseThroughput',
        signal,
        onProgress: progress.show,
        onNotice: context.progress.say,
      },
      {
        ...standardSteps({ threads, clock, latencyRuns: options.latencyRuns }),
        write: async (family) => {
          manifest = manifestOf(model, dataset, family, options);
          await writeTask(options.out, manifest, family.models);
        },
        throughput: async (variant) => {
          bench ??= await openThroughputBench(context, {
            repository: options.out,
            manifest: manifest!, // `write` came before.
            inputs: labelledInputs(dataset, dataset.test, manifest!),
            cpus: options.cpus,
            seed,
            durationMs: options.throughputMs,
          });
          return bench.measure(variant.version);
        },
      },
    );
  } finally {
    await bench?.close();
  }
  const reuse = progress.reuse();
  if (reuse !== undefined) context.progress.say(reuse);
  return manifest!; // portFamily has written.
}

function manifestOf(
  model: Model,
  dataset: Dataset,
  family: Family,
  options: { readonly task: string; readonly sloMs?: number },
): TaskManifest {
  return {
    schemaVersion: MANIFEST_SCHEMA_VERSION,
    task: options.task,
    inputs: model.graph.inputs.map(tensorSpec),
    outputs: model.graph.outputs.map(tensorSpec),
    classes: dataset.classes,
    ...(options.sloMs !== undefined && { sloMs: options.sloMs }),
    variants: family.variants,
  };
}

function tensorSpec({ name, type }: ValueInfo): TensorSpec {
  return {
    name,
    dtype: type?.dtype ?? 'float32',
    shape: (type?.shape ?? []).map((size) => (typeof size === 'number' ? size : -1)),
  };
}

const STEP_NAMES: Readonly<Record<PortProgress['step'], string>> = {
  importance: 'Gathering importance for',
  reestimate: 'Re-estimating BatchNorm of',
  'fine-tune': 'Fine-tuning',
  evaluate: 'Scoring',
  latency: 'Measuring latency',
  quantize: 'Quantising',
  compare: 'Comparing INT8 of',
  throughput: 'Measuring throughput',
};

/** One bar per step of a variant; what is reused from an earlier run leaves no trace but a count. */
export function portProgress(
  context: Pick<Context, 'progress'>,
  ratios: readonly number[],
): {
  show(progress: PortProgress): void;
  /** A sentence on what was reused, once all is done; undefined where nothing was. */
  reuse(): string | undefined;
} {
  let bar: ProgressTask | undefined;
  let [reused, done] = [0, 0];
  const show = ({ step, variant, state, detail }: PortProgress) => {
    if (state === 'reused') {
      reused++;
      return;
    }
    const what =
      step === 'throughput'
        ? `version ${variant + 1}`
        : variant === 0
          ? 'base'
          : `ratio ${ratios[variant - 1]}`;
    bar ??= context.progress.task(`${STEP_NAMES[step]} ${what}`, 1);
    if (state === 'finished') {
      bar.done('done');
      bar = undefined;
      done++;
    } else if (step === 'fine-tune' && detail !== undefined) {
      showTraining(bar, detail as TrainingProgress); // What trainNetwork reports.
    }
  };
  return {
    show,
    reuse: () => {
      if (reused === 0) return undefined;
      return done === 0
        ? `Reused all ${reused} steps of an earlier run.`
        : `Reused ${reused} of ${reused + done} steps from an earlier run; ${done} done now.`;
    },
  };
}
