import { join } from 'node:path';
import { Command, Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Augmentation } from '../port/data/augmentation.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { CHAINS, type Chain, checkRatios } from '../port/pipeline/plan.ts';
import type { PortDistillation, PortOptions } from '../port/pipeline/types.ts';
import { checkRecipe, type TrainingRecipe } from '../port/train/recipe.ts';
import type { PortJob } from '../repository/jobs.ts';
import { checkTaskName } from '../repository/names.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import { checkDistillation } from '../transform/autodiff/loss.ts';
import { type Goal, parseGoal } from '../transform/prune/goal.ts';
import { CRITERIA, type CriterionName } from '../transform/prune/importance/table.ts';
import { pruneDefaults, SCOPES } from '../transform/prune/prune.ts';
import { iterationDefaults, type PruningSchedule, SCHEDULES } from '../transform/prune/schedule.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { allotCpus, checkCpus, type MeasuringCpus } from './cpus.ts';
import { endWithChannel } from './end-with-channel.ts';
import { EXIT, EXIT_CODE_HELP } from './exit-codes.ts';
import { checkIdleOptions, isChosen } from './idle-options.ts';
import { readNetwork } from './network.ts';
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
import { portNotes } from './port-notes.ts';
import {
  type PortedTask,
  type PortToRepositoryOptions,
  portJobs,
  portToRepository,
} from './port-repository.ts';
import { openPortTarget, type PortTarget } from './port-target.ts';
import { threadsOfEach, trainShare, trainTogether, withSharedSteps } from './port-workers.ts';
import { cpusOption, windowOption } from './profile.ts';
import { familyTable } from './repo.ts';
import { parsePhases, trainDefaults } from './train.ts';
import { addWorkerOptions, isStartedWorker, type Part, partOf, type WorkerOptions } from './workers.ts';
import { checkWritableFolder } from './writable.ts';

interface PortCommandOptions extends WorkerOptions {
  readonly data: string;
  readonly out: string;
  readonly task?: string;
  readonly budget?: number;
  readonly ratios: number[];
  readonly criteria: CriterionName[];
  readonly targets?: Goal[];
  readonly scope: (typeof SCOPES)[number];
  readonly schedule: PruningSchedule;
  readonly iterations: number;
  readonly chain: Chain;
  readonly align?: number;
  readonly epochs: TrainingRecipe['phases'];
  readonly batch: number;
  readonly learningRate: number;
  readonly clipNorm: number;
  readonly augment?: Augmentation;
  readonly distill?: (typeof DISTILL_MODES)[number];
  readonly teacher?: string;
  readonly distillTemperature: number;
  readonly distillWeight: number;
  readonly normalizeInput?: boolean;
  readonly slo?: number;
  readonly int8?: boolean;
  readonly keep: NonNullable<PortOptions['keep']>;
  readonly add?: boolean;
  readonly jobs?: boolean;
  readonly join: boolean;
  readonly cpus: number[];
  readonly window: number;
  readonly threads: number;
  readonly seed: number;
  readonly work: string;
  readonly json?: boolean;
}

/** Shares of channels to remove: five variants beside the base, from three quarters of the width down to an eighth. */
export const DEFAULT_RATIOS = [0.25, 0.5, 0.625, 0.75, 0.875];

/** Among the norms in common use, 1 to 5; gradients of networks with BatchNorm are seldom longer. */
const DEFAULT_CLIP_NORM = 2;

const DISTILL_MODES = ['only', 'both'] as const;

export function portCommand(): Command {
  const command = new Command('port')
    .description(
      'Grow trained networks into a family of smaller ones: prune, fine-tune, quantise, profile, write a repository.',
    )
    .argument(
      '[models...]',
      "trained ONNX networks of anybody's that classify the images of --data; all become one family",
    )
    .addOption(dataOption())
    .requiredOption('--out <dir>', 'the model repository to write into: a folder, or s3://BUCKET/PREFIX')
    .option('--task <name>', "the task's name in the repository (default: the name of the data)")
    .addOption(
      new Option(
        '--budget <duration>',
        'begin nothing that would end later, such as 30m or 2h; the same command goes on another time',
      ).argParser(parseBudgetMs),
    )
    .addOption(
      new Option('--ratios <list>', 'shares of channels to remove, ascending')
        .argParser(parseShares)
        .default(DEFAULT_RATIOS, DEFAULT_RATIOS.join()),
    )
    .addOption(
      new Option(
        '--criteria <list>',
        `what makes a channel unimportant, each one a branch of its own: ${CRITERIA.join(', ')}`,
      )
        .argParser(parseCriteria)
        .default([pruneDefaults.criterion], pruneDefaults.criterion),
    )
    .addOption(
      new Option(
        '--targets <list>',
        'also variants made to measure, from the first network: throughput=40/s (of the server), latency=5ms, flops=0.5, params=0.3',
      ).argParser(parseTargets),
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
      new Option(
        '--chain <from>',
        'prune each variant from the nearest one made before, from the base, or from the previous ratio, which makes the smallest ratio come first',
      )
        .choices(CHAINS)
        .default('nearest'),
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
    .addOption(
      new Option(
        '--clip-norm <n>',
        "shorten each step's gradient to this norm, which networks without BatchNorm need",
      )
        .argParser(parseNumber(0))
        .default(DEFAULT_CLIP_NORM),
    )
    .addOption(augmentOption())
    .addOption(
      new Option(
        '--distill [which]',
        'fine-tuning also follows the answers of the base; both: each variant is made with and without',
      )
        .choices(DISTILL_MODES)
        .preset('only'),
    )
    .option('--teacher <file>', "follow this ONNX network of anybody's instead of the base")
    .addOption(
      new Option('--distill-temperature <t>', "how much the teacher's small probabilities count")
        .argParser(parseNumber(0))
        .default(trainDefaults.distillation.temperature),
    )
    .addOption(
      new Option('--distill-weight <w>', 'share of the teacher in the loss')
        .argParser(parseNumber(0, 1))
        .default(trainDefaults.distillation.weight),
    )
    .option(
      '--normalize-input',
      "networks of others expect pixels normalised by the data's mean and deviation (default: as they answer better)",
    )
    .option('--no-normalize-input', 'they do not')
    .addOption(
      new Option('--slo <duration>', 'latency objective to note with the task').argParser(parseDurationMs),
    )
    .option(
      '--int8',
      'also try each variant in 8-bit integers; it joins the family if it measures faster than its parent',
    )
    .addOption(
      new Option('--keep <which>', "variants that the family keeps: those on any metric's frontier, or all")
        .choices(['frontier', 'all'])
        .default('frontier'),
    )
    .option('--add', 'keep the variants that the repository has of the task already')
    .option('--jobs', 'instead of networks: do the porting jobs that bonsai request has queued for the task')
    .option(
      '--no-join',
      'with --worker-index: leave measuring and writing the family to the same command without --workers; by default the worker does it that is through last',
    )
    .addOption(cpusOption())
    .addOption(windowOption())
    .addOption(threadsOption())
    .addOption(seedOption())
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai port digits.onnx --data mnist --out models
  $ bonsai port resnet20.onnx densenet.onnx --data cifar10:data --criteria l2,taylor --distill both --int8 --budget 2h --out models
  $ bonsai port --jobs --data mnist --out models
  $ bonsai port digits.onnx --data mnist --criteria l2,taylor --workers 4 --threads 2 --out models      trains four branches at a time

Finished steps are kept under --work, and long ones every few seconds: the same command goes on where it was interrupted, and repeats
nothing. The repository is written as soon as there is a variant, and can be served while the family grows.
${EXIT_CODE_HELP} With --jobs, 1 also where nothing came of one of them.`,
    )
    .action(async (files: string[], options: PortCommandOptions, own: Command) => {
      const context = processContext(options);
      const part = partOf(options, context);
      if (isStartedWorker()) endWithChannel();
      const recipe = recipeOf(options);
      // What cannot work should show before minutes are spent on it.
      const isDistilled = options.distill !== undefined || options.teacher !== undefined;
      checkIdleOptions([
        {
          flag: '--iterations',
          isGiven: isChosen(own, 'iterations'),
          need: '--schedule linear or agp',
          isMet: options.schedule !== 'one-shot',
        },
        ...(['distillTemperature', 'distillWeight'] as const).map((name) => ({
          flag: name === 'distillWeight' ? '--distill-weight' : '--distill-temperature',
          isGiven: isChosen(own, name),
          need: '--distill or --teacher FILE',
          isMet: isDistilled,
        })),
      ]);
      checkRecipe(recipe);
      checkRatios(options.ratios);
      // The CPUs of a pod have numbers of their own, and are looked up by who measures.
      if (part.kind !== 'share') checkCpus(options.cpus);
      checkModels(files, options);
      if (options.jobs && part.kind !== 'whole')
        throw new InvalidArgumentError(
          '--jobs makes one variant after the other: leave --workers away, or --jobs.',
        );
      if (options.task !== undefined) checkTaskName(options.task);
      const workDirectory = join(options.work, 'port');
      const models = await Promise.all(files.map(readNetwork));
      const distillation = await distillationOf(options);
      if (!isS3Url(options.out)) await checkWritableFolder(options.out);
      await checkWritableFolder(workDirectory);
      const dataset = await loadData(context, options);
      const task = options.task ?? taskNameOf(dataset);
      const target = await openPortTarget(options.out, task, workDirectory, context);
      const isThreadsGiven = own.getOptionValueSource('threads') !== 'default';
      const given: PortToRepositoryOptions = {
        ...options,
        out: target.folder,
        task,
        goals: options.targets,
        recipe: () => recipe,
        distillation,
        sloMs: options.slo,
        budgetMs: options.budget,
        throughputMs: options.window,
        workDirectory,
        ...(part.kind === 'together' && !isThreadsGiven && { threads: threadsOfEach(part.count) }),
      };
      await interruptible(
        context.signal,
        `Finished steps are kept in ${workDirectory}: start it again, and it goes on from there.`,
        async () => {
          if (part.kind === 'share') {
            await portAsWorker(context, models, dataset, given, { part, target, options });
            return;
          }
          const startedMs = context.clock.nowMs();
          if (part.kind === 'together') await trainTogether(context, part.count, given.threads);
          // Of a budget, the workers have had their part.
          const budgetMs =
            options.budget && Math.max(1, options.budget - (context.clock.nowMs() - startedMs));
          const left = { ...given, budgetMs };
          const ported: Ported = options.jobs
            ? await portJobs(context, dataset, left)
            : await withSharedSteps(context, options.out, left, 'reads', (shared) =>
                portToRepository(context, models, dataset, shared),
              );
          await target.publish();
          tell(context, options, ported);
          if (ported.unmet?.length) process.exitCode = EXIT.failure;
        },
      );
    });
  return addWorkerOptions(command, 'branches');
}

/** Does a share, and if it was the last one, what is left for one to do: measures, and writes the family. */
async function portAsWorker(
  context: Context,
  models: readonly Model[],
  dataset: Dataset,
  given: PortToRepositoryOptions,
  {
    part: { share },
    target,
    options,
  }: {
    readonly part: Extract<Part, { kind: 'share' }>;
    readonly target: PortTarget;
    readonly options: PortCommandOptions;
  },
): Promise<void> {
  await withSharedSteps(context, options.out, given, 'reads and writes', async (shared) => {
    const done = await trainShare(context, models, dataset, shared, share);
    if (!done.isLast || !options.join || isStartedWorker()) {
      const left = done.isComplete ? 'The worker that is through last writes the family.' : UNFINISHED;
      context.result({ task: given.task, worker: share, ...done, isJoined: false }, left);
      return;
    }
    context.progress.say('All workers are through: measuring what they made, and writing the family.');
    const [{ server: cpus }] = allotCpus(options.cpus, 1) as [MeasuringCpus];
    const ported = await portToRepository(context, models, dataset, { ...shared, cpus });
    await target.publish();
    tell(context, options, ported, { worker: share, ...done, isJoined: true });
  });
}

type Ported = PortedTask & { readonly jobs?: readonly PortJob[]; readonly unmet?: readonly PortJob[] };

function tell({ result }: Context, { out }: PortCommandOptions, ported: Ported, more: object = {}): void {
  result(
    {
      ...ported.manifest,
      ...more,
      isComplete: ported.isComplete,
      ...(ported.jobs && { jobs: ported.jobs }),
    },
    [
      familyTable(ported.manifest),
      ...portNotes(ported.manifest),
      ...(ported.unmet?.length
        ? [`Jobs of which nothing came: ${ported.unmet.map(({ id }) => id).join(', ')}.`]
        : []),
      ...(ported.isComplete ? [] : [UNFINISHED]),
      `Written to ${out}. Serve it: bonsai serve ${isS3Url(out) ? `'${out}'` : out}`,
    ].join('\n'),
  );
}

const UNFINISHED = 'The budget was spent before all was done: the same command goes on.';

/** Gentle, since the networks are trained already. */
function recipeOf(options: PortCommandOptions): TrainingRecipe {
  const { momentum, weightDecay } = trainDefaults;
  return {
    phases: options.epochs,
    batch: options.batch,
    learningRate: options.learningRate,
    schedule: 'cosine',
    warmupShare: 0.1,
    optimizer: { name: 'sgd', momentum, nesterov: true, weightDecay: weightDecay.sgd },
    clipNorm: options.clipNorm,
    augmentation: options.augment,
  };
}

/** @throws InvalidArgumentError where there is nothing to port, or two things at once */
function checkModels(files: readonly string[], { jobs, targets, ratios }: PortCommandOptions): void {
  if (jobs ? files.length === 0 : files.length > 0) return;
  if (jobs) {
    throw new InvalidArgumentError(
      `--jobs works on the family in the repository; leave ${files.join(', ')} away, or --jobs.`,
    );
  }
  throw new InvalidArgumentError(
    `There is nothing to port to ${[...ratios, ...(targets ?? [])].length} variants: name a trained ONNX network, such as bonsai port digits.onnx, or --jobs.`,
  );
}

async function distillationOf(options: PortCommandOptions): Promise<PortDistillation | undefined> {
  const { distill, teacher, distillTemperature: temperature, distillWeight: weight } = options;
  if (distill === undefined && teacher === undefined) return undefined;
  checkDistillation({ temperature, weight });
  return {
    ...(teacher !== undefined && { teacher: await readNetwork(teacher) }),
    temperature,
    weight,
    alsoWithout: distill === 'both',
  };
}

/** `l2,taylor` → names. @throws InvalidArgumentError for one that is none, and for none at all */
export function parseCriteria(text: string): CriterionName[] {
  const names = text.split(',').map((name) => name.trim());
  const chosen = CRITERIA.filter((name) => names.includes(name));
  const unknown = names.find((name) => !(CRITERIA as readonly string[]).includes(name));
  if (unknown !== undefined || chosen.length !== names.length) {
    throw new InvalidArgumentError(
      `Expected criteria such as l2,taylor, each once, of ${CRITERIA.join(', ')}; got "${text}".`,
    );
  }
  // In the order in which they were given: the first is tried first.
  return names as CriterionName[]; // Each was just found among them.
}

/** As a duration, but with its unit: `3` may be meant as minutes, and would be 3 ms. */
function parseBudgetMs(text: string): number {
  if (/^[\d.\s]+$/.test(text))
    throw new InvalidArgumentError(
      `--budget ${text} has no unit; say ${text.trim()}m or ${text.trim()}h, for example.`,
    );
  return parseDurationMs(text);
}

function parseTargets(text: string): Goal[] {
  return text.split(',').map(parseGoal);
}

/** `mnist` of `mnist:PATH`: what a task is called unless somebody names it. */
export function taskNameOf(dataset: Dataset): string {
  return dataset.name.split(':')[0]!;
}
