import { rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Command, Option } from 'commander';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import { targetOf } from '../base/replace-file.ts';
import type { Model } from '../graph/model.ts';
import { writeModelFile } from '../graph/onnx/write.ts';
import { countCost } from '../ops/count.ts';
import { BACKBONE_HELP, BACKBONES, backbone } from '../port/backbones/registry.ts';
import type { Augmentation } from '../port/data/augmentation.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { evaluate } from '../port/evaluate/evaluate.ts';
import { type ImageInput, withImageInput } from '../port/image-input.ts';
import {
  CLASSIFIER_LOSSES,
  type ClassifierLoss,
  checkRecipe,
  type Schedule,
  type TrainingRecipe,
} from '../port/train/recipe.ts';
import { withOpenBatch } from '../port/train/teacher.ts';
import { type TrainingProgress, trainNetwork } from '../port/train/train.ts';
import { transferTo } from '../port/transfer.ts';
import { adamDefaults, type Optimizer } from '../transform/autodiff/optimizer.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { checkIdleOptions, type DependentOption } from './idle-options.ts';
import { readNetworkFiles } from './network.ts';
import {
  augmentOption,
  dataOption,
  filesOfData,
  jsonOption,
  loadData,
  seedOption,
  threadsOption,
  workOption,
} from './options.ts';
import { parseInteger, parseNumber } from './parse.ts';
import type { ProgressTask } from './progress.ts';
import { suggest } from './suggestions.ts';
import { checkWritableFile, forceOption } from './writable.ts';

interface TrainOptions {
  readonly backbone: string;
  readonly from?: string;
  readonly newHead?: boolean;
  readonly normalizeInput?: boolean;
  readonly data: string;
  readonly out: string;
  readonly force?: boolean;
  readonly epochs: TrainingRecipe['phases'];
  readonly batch: number;
  readonly optimizer: Optimizer['name'];
  readonly learningRate?: number;
  readonly schedule: Schedule;
  readonly warmup: number;
  readonly momentum?: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  readonly weightDecay?: number;
  readonly clipNorm?: number;
  readonly loss: ClassifierLoss;
  readonly scaleL1?: number;
  readonly labelSmoothing: number;
  readonly teacher?: string;
  readonly teacherNormalizeInput?: boolean;
  readonly distillTemperature?: number;
  readonly distillWeight?: number;
  readonly shift: number;
  readonly augment?: Augmentation;
  readonly patience?: number;
  readonly threads: number;
  readonly seed: number;
  readonly work: string;
  readonly json?: boolean;
}

/**
 * The resolution of an epoch's images: `4@0.5,1` trains four epochs at half the side length, then one at the full one.
 * @throws InvalidArgumentError for anything else, and where the end is not at the full resolution: features that were
 *   last fitted to small images are useless on those that are served
 */
export function parsePhases(text: string): TrainingRecipe['phases'] {
  const phases = text.split(',').map((part) => {
    const [epochs, resolution, ...rest] = part.split('@').map(Number);
    const isResolution = resolution === undefined || (resolution > 0 && resolution <= 1);
    if (!(epochs! > 0 && Number.isFinite(epochs)) || !isResolution || rest.length > 0) {
      throw new InvalidArgumentError(
        `Expected epochs such as 10, or 4@0.5,1 (epochs at a share of the resolution), got "${text}".`,
      );
    }
    return { epochs: epochs!, resolution };
  });
  const end = phases.at(-1)?.resolution;
  if (end === undefined || end === 1) return phases;
  throw new InvalidArgumentError(
    `--epochs ${text} ends at ${end} of the resolution, but the network is used at the full one, where it would be ` +
      `useless. End at the full resolution, such as --epochs ${text},2.`,
  );
}

/** What `--augment` says, with the shift of `--shift` where it has none. Nothing where both are silent. */
export function augmentationOf(options: {
  readonly shift: number;
  readonly augment?: Augmentation;
}): Augmentation | undefined {
  const shift = options.shift > 0 ? { shiftPixels: options.shift } : undefined;
  return options.augment === undefined ? shift : { ...shift, ...options.augment };
}

/** What training takes where no option says otherwise. */
export const trainDefaults = {
  /** From random weights, and from trained ones (`--from`), which high rates would undo. */
  learningRate: { sgd: { fresh: 0.1, trained: 0.02 }, adamw: { fresh: 1e-3, trained: 1e-4 } },
  /** AdamW's is multiplied by rates a hundred times smaller. */
  weightDecay: { sgd: 5e-4, adamw: 0.05 },
  momentum: 0.9,
  /** Hinton et al. 2015 found temperatures from 2.5 to 20 to work, and labels best at a considerably lower weight. */
  distillation: { temperature: 4, weight: 0.9 },
} as const;

/** The options that do nothing without another one. */
function dependentOptions(options: TrainOptions): DependentOption[] {
  const { optimizer, teacher, from } = options;
  const needs: readonly (readonly [key: keyof TrainOptions, flag: string, need: string, isMet: boolean])[] = [
    ['momentum', '--momentum', '--optimizer sgd', optimizer === 'sgd'],
    ['beta1', '--beta1', '--optimizer adamw', optimizer === 'adamw'],
    ['beta2', '--beta2', '--optimizer adamw', optimizer === 'adamw'],
    ['epsilon', '--epsilon', '--optimizer adamw', optimizer === 'adamw'],
    ['newHead', '--new-head', '--from FILE', from !== undefined],
    ['normalizeInput', '--normalize-input', '--from FILE', from !== undefined],
    ['teacherNormalizeInput', '--teacher-normalize-input', '--teacher FILE', teacher !== undefined],
    ['distillTemperature', '--distill-temperature', '--teacher FILE', teacher !== undefined],
    ['distillWeight', '--distill-weight', '--teacher FILE', teacher !== undefined],
  ];
  return needs.map(([key, flag, need, isMet]) => ({
    flag,
    isGiven: options[key] !== undefined,
    need,
    isMet,
  }));
}

/** @throws InvalidArgumentError for a value out of range */
function recipeOf(options: TrainOptions): TrainingRecipe {
  const { optimizer: name, from } = options;
  const weightDecay = options.weightDecay ?? trainDefaults.weightDecay[name];
  const { beta1, beta2, epsilon } = options;
  const { momentum, distillation } = trainDefaults;
  const recipe: TrainingRecipe = {
    phases: options.epochs,
    batch: options.batch,
    learningRate:
      options.learningRate ?? trainDefaults.learningRate[name][from === undefined ? 'fresh' : 'trained'],
    schedule: options.schedule,
    warmupShare: options.warmup,
    optimizer:
      name === 'sgd'
        ? { name, momentum: options.momentum ?? momentum, nesterov: true, weightDecay }
        : {
            name,
            weightDecay,
            beta1: beta1 ?? adamDefaults.beta1,
            beta2: beta2 ?? adamDefaults.beta2,
            epsilon: epsilon ?? adamDefaults.epsilon,
          },
    clipNorm: options.clipNorm,
    loss: options.loss,
    distillation:
      options.teacher === undefined
        ? undefined
        : {
            temperature: options.distillTemperature ?? distillation.temperature,
            weight: options.distillWeight ?? distillation.weight,
          },
    scaleL1: options.scaleL1,
    labelSmoothing: options.labelSmoothing,
    augmentation: augmentationOf(options),
    earlyStopping: options.patience === undefined ? undefined : { patienceEpochs: options.patience },
  };
  checkRecipe(recipe);
  return recipe;
}

/** @returns the spec itself, once it is known to name a backbone; @throws InvalidArgumentError naming what exists */
function parseBackbone(spec: string): string {
  backbone(spec);
  return spec;
}

export function trainCommand(): Command {
  return new Command('train')
    .description('Train a network on labelled data and write it as ONNX.')
    .addOption(dataOption())
    .requiredOption('--out <file>', 'the ONNX file to write')
    .addOption(forceOption())
    .addOption(
      suggest(
        new Option('--backbone <name>', BACKBONE_HELP).argParser(parseBackbone).default('resnet-8'),
        Object.keys(BACKBONES),
      ),
    )
    .addOption(
      new Option(
        '--from <file>',
        "fine-tune this ONNX network of anybody's instead of training a backbone",
      ).conflicts('backbone'),
    )
    .option(
      '--new-head',
      "with --from: start the last layer anew, for the data's classes and image size (transfer learning)",
    )
    .option(
      '--normalize-input',
      'with --from: the network expects pixels normalised by the mean and deviation of the data',
    )
    .addOption(
      new Option(
        '--epochs <list>',
        'passes over the data; 4@0.5,1 means four at half resolution, then one at full, where it has to end',
      )
        .argParser(parsePhases)
        .default(parsePhases('5'), '5'),
    )
    .addOption(new Option('--batch <n>', 'examples of a step').argParser(parseInteger(1, 4096)).default(64))
    .addOption(
      new Option('--optimizer <name>', 'sgd with Nesterov momentum, or adamw')
        .choices(['sgd', 'adamw'])
        .default('sgd'),
    )
    .addOption(
      new Option(
        '--learning-rate <rate>',
        'the highest (default: sgd 0.1, with --from 0.02; adamw 0.001, with --from 0.0001)',
      ).argParser(parseNumber(0)),
    )
    .addOption(
      new Option('--schedule <name>', 'of the learning rate')
        .choices(['cosine', 'one-cycle', 'step', 'constant'])
        .default('cosine'),
    )
    .addOption(
      new Option('--warmup <share>', 'share of the steps in which the rate rises')
        .argParser(parseNumber(0, 1))
        .default(0.1),
    )
    .addOption(new Option('--momentum <m>', 'of sgd (default: 0.9)').argParser(parseNumber(0, 1)))
    .addOption(
      new Option('--beta1 <b>', 'of adamw: decay of the first moment (default: 0.9)').argParser(
        parseNumber(0, 1),
      ),
    )
    .addOption(
      new Option('--beta2 <b>', 'of adamw: decay of the second moment (default: 0.999)').argParser(
        parseNumber(0, 1),
      ),
    )
    .addOption(
      new Option('--epsilon <e>', 'of adamw: keeps its division finite (default: 1e-8)').argParser(
        parseNumber(0),
      ),
    )
    .addOption(
      new Option(
        '--weight-decay <d>',
        'on weights, not on biases and BatchNorm (default: sgd 0.0005, adamw 0.05)',
      ).argParser(parseNumber(0)),
    )
    .addOption(
      new Option(
        '--clip-norm <n>',
        "shorten each step's gradient to at most this norm; 1 to 5 tames a training that diverges (default: off)",
      ).argParser(parseNumber(0)),
    )
    .addOption(
      new Option('--loss <name>', 'mse: against one-hot targets')
        .choices([...CLASSIFIER_LOSSES])
        .default('cross-entropy'),
    )
    .addOption(
      new Option(
        '--scale-l1 <l>',
        'makes BatchNorm scales sparse, for pruning by --criterion slim; 1e-4 to 1e-5 (default: off)',
      ).argParser(parseNumber(0)),
    )
    .addOption(
      new Option('--label-smoothing <s>', 'share of each target that is spread over all classes')
        .argParser(parseNumber(0, 1))
        .default(0),
    )
    .addOption(
      new Option(
        '--teacher <file>',
        "learn from the answers of this ONNX network of anybody's as well, for the same images and classes",
      ),
    )
    .option(
      '--teacher-normalize-input',
      'the teacher expects pixels normalised by the mean and deviation of the data',
    )
    .addOption(
      new Option(
        '--distill-temperature <t>',
        "how much the teacher's small probabilities count (default: 4)",
      ).argParser(parseNumber(0)),
    )
    .addOption(
      new Option(
        '--distill-weight <w>',
        'share of the teacher in the loss, the rest is that of the labels (default: 0.9)',
      ).argParser(parseNumber(0, 1)),
    )
    .addOption(
      new Option(
        '--shift <pixels>',
        'shift images at random by up to so many pixels, unless --augment has a shift of its own',
      )
        .argParser(parseInteger(0))
        .default(0),
    )
    .addOption(augmentOption())
    .addOption(
      new Option('--patience <epochs>', 'stop early when validation has not improved for so long').argParser(
        parseNumber(0),
      ),
    )
    .addOption(threadsOption())
    .addOption(seedOption())
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai train --data mnist --backbone resnet-8 --epochs 3@0.5,1 --out digits.onnx
  $ bonsai train --data mnist --epochs 20 --augment shift=2,rotate=10,scale=0.1,elastic=1.5 --out digits.onnx
  $ bonsai train --data mnist --backbone resnet:widths=4-8,blocks=1-1 --teacher digits.onnx --out small.onnx
  $ bonsai train --data cifar10:data --from resnet20.onnx --normalize-input --epochs 2 --out tuned.onnx
  $ bonsai train --data images:bees,size=64 --from resnet20.onnx --new-head --epochs 20 --out bees.onnx

An interrupted training is continued by the same command: its checkpoint lies beside the file (FILE.checkpoint).
${EXIT_CODE_HELP}`,
    )
    .action(async (options: TrainOptions) => {
      const context = processContext(options);
      // What cannot work should show before minutes are spent on it.
      checkIdleOptions(dependentOptions(options));
      const recipe = recipeOf(options);
      const from = options.from === undefined ? undefined : await readNetworkFiles(options.from);
      const taught = options.teacher === undefined ? undefined : await readNetworkFiles(options.teacher);
      await checkWritableFile(options.out, {
        reads: [...(from?.reads ?? []), ...(taught?.reads ?? []), ...filesOfData(options.data)],
        force: options.force,
      });
      const start = from?.model;
      const teacher = taught?.model;
      const dataset = await loadData(context, options);
      const network =
        start &&
        toTrainable(
          options.newHead ? transferTo(start, dataset, options) : start,
          dataset,
          { normalize: options.normalizeInput },
          options.from!,
        );
      const checkpointPath = await checkpointPathOf(options);
      const trained = await interruptible(
        context.signal,
        `Start it again: it goes on from ${checkpointPath}.`,
        () =>
          trainBackbone(context, {
            ...options,
            dataset,
            recipe,
            checkpointPath,
            network,
            teacher: teacher && { model: teacher, input: { normalize: options.teacherNormalizeInput } },
          }),
      );
      await writeModelFile(trained.model, options.out);
      await rm(checkpointPath, { recursive: true, force: true });
      const { macs, parameters } = countCost(trained.model);
      context.result(
        { file: options.out, seed: options.seed, ...trained, model: undefined, macs, parameters },
        `${options.out}: ${(100 * trained.testAccuracy).toFixed(2)} % of ${dataset.test.count} test examples right, ` +
          `${(macs / 1e6).toFixed(1)} MMACs, ${parameters} parameters, seed ${options.seed}`,
        options.out,
      );
    });
}

/** Beside the file; of a device or a pipe in the work folder, for beside those nobody's files belong. */
async function checkpointPathOf({ out, work }: TrainOptions): Promise<string> {
  const { kind } = await targetOf(out);
  return kind === 'special' ? join(work, `${basename(out)}.checkpoint`) : `${out}.checkpoint`;
}

/** A network of anybody's for any number of images with pixels in [0, 1]. @throws BonsaiError where it is not for the data */
function toTrainable(network: Model, dataset: Dataset, input: ImageInput, file: string): Model {
  const open = withOpenBatch(network);
  if (open !== undefined) return withImageInput(open, dataset, input);
  throw new BonsaiError(
    'unsupported',
    `${file} takes a fixed number of images at a time, which is built into its graph. Export it with an open batch.`,
  );
}

/** Builds a backbone for the data, or takes the network given, trains it with a progress bar, and scores it on the test split. */
export async function trainBackbone(
  context: Context,
  options: {
    readonly backbone: string;
    readonly dataset: Dataset;
    readonly recipe: TrainingRecipe;
    readonly threads: number;
    readonly seed: number;
    readonly checkpointPath: string;
    /** Trained already, and to be trained further in place of a fresh backbone. */
    readonly network?: Model;
    readonly teacher?: { readonly model: Model; readonly input: ImageInput };
  },
): Promise<{ model: Model; testAccuracy: number; validationAccuracy: number }> {
  const { dataset, seed, threads } = options;
  const start =
    options.network ??
    backbone(options.backbone).build({
      inputShape: dataset.shape,
      classes: dataset.classes.length,
      normalization: dataset.normalization,
      seed,
    });
  const what = options.network === undefined ? `Training ${options.backbone}` : 'Fine-tuning';
  const bar = context.progress.task(what, 1);
  const { model, validationAccuracy } = await trainNetwork(start, dataset, options.recipe, {
    teacher: options.teacher?.model,
    teacherInput: options.teacher?.input,
    threads,
    seed,
    checkpointPath: options.checkpointPath,
    signal: context.signal,
    clock: context.clock,
    onProgress: (progress) => showTraining(bar, progress),
    onNotice: (message) => context.progress.say(message),
  });
  const { accuracy } = await evaluate(model, dataset.test, { threads, signal: context.signal });
  bar.done(`test accuracy ${(100 * accuracy).toFixed(2)} %`);
  return { model, testAccuracy: accuracy, validationAccuracy };
}

/** One line of training's progress on a bar whose total is 1. */
export function showTraining(bar: ProgressTask, progress: TrainingProgress): void {
  bar.update(
    progress.workRatio,
    `loss ${progress.loss.toFixed(3)}, ${(100 * progress.runningAccuracy).toFixed(1)} % right`,
  );
}
