import { rm } from 'node:fs/promises';
import { Command, Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import { writeModelFile } from '../graph/onnx/write.ts';
import { countCost } from '../ops/count.ts';
import { BACKBONES, backbone } from '../port/backbones/registry.ts';
import type { Augmentation } from '../port/data/augmentation.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { evaluate } from '../port/evaluate.ts';
import { checkRecipe, type Schedule, type TrainingRecipe } from '../port/train/recipe.ts';
import { type TrainingProgress, trainNetwork } from '../port/train/train.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import {
  augmentOption,
  dataOption,
  jsonOption,
  loadData,
  seedOption,
  threadsOption,
  workOption,
} from './options.ts';
import { parseInteger, parseNumber } from './parse.ts';
import type { ProgressTask } from './progress.ts';
import { checkWritableFile } from './writable.ts';

interface TrainOptions {
  readonly backbone: string;
  readonly data: string;
  readonly out: string;
  readonly epochs: TrainingRecipe['phases'];
  readonly batch: number;
  readonly learningRate: number;
  readonly schedule: Schedule;
  readonly warmup: number;
  readonly momentum: number;
  readonly weightDecay: number;
  readonly scaleL1?: number;
  readonly labelSmoothing: number;
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
    .addOption(
      new Option(
        '--backbone <name>',
        `${Object.keys(BACKBONES).join(', ')}, or resnet:widths=16-32-64,blocks=1-1-1`,
      )
        .argParser(parseBackbone)
        .default('resnet-8'),
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
    .addOption(new Option('--learning-rate <rate>', 'the highest').argParser(parseNumber(0)).default(0.1))
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
    .addOption(new Option('--momentum <m>', 'Nesterov momentum').argParser(parseNumber(0, 1)).default(0.9))
    .addOption(
      new Option('--weight-decay <d>', 'on weights, not on biases and BatchNorm')
        .argParser(parseNumber(0))
        .default(5e-4),
    )
    .addOption(
      new Option(
        '--scale-l1 <l>',
        'makes BatchNorm scales sparse, for pruning by --criterion slim; 1e-4 to 1e-5 (default: off)',
      ).argParser(parseNumber(0)),
    )
    .addOption(new Option('--label-smoothing <s>', '').argParser(parseNumber(0, 1)).default(0))
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

An interrupted training is continued by the same command: its checkpoint lies beside the file (FILE.checkpoint).
${EXIT_CODE_HELP}`,
    )
    .action(async (options: TrainOptions) => {
      const context = processContext(options);
      const recipe: TrainingRecipe = {
        phases: options.epochs,
        batch: options.batch,
        learningRate: options.learningRate,
        schedule: options.schedule,
        warmupShare: options.warmup,
        momentum: options.momentum,
        nesterov: true,
        weightDecay: options.weightDecay,
        scaleL1: options.scaleL1,
        labelSmoothing: options.labelSmoothing,
        augmentation: augmentationOf(options),
        earlyStopping: options.patience === undefined ? undefined : { patienceEpochs: options.patience },
      };
      // What cannot work should show before minutes are spent on it.
      checkRecipe(recipe);
      await checkWritableFile(options.out);
      const dataset = await loadData(context, options);
      const checkpointPath = `${options.out}.checkpoint`;
      const trained = await interruptible(
        context.signal,
        `Start it again: it goes on from ${checkpointPath}.`,
        () => trainBackbone(context, { ...options, dataset, recipe, checkpointPath }),
      );
      await writeModelFile(trained.model, options.out);
      await rm(checkpointPath, { recursive: true, force: true });
      const { macs, parameters } = countCost(trained.model);
      context.result(
        { file: options.out, seed: options.seed, ...trained, model: undefined, macs, parameters },
        `${options.out}: ${(100 * trained.testAccuracy).toFixed(2)} % of ${dataset.test.count} test examples right, ` +
          `${(macs / 1e6).toFixed(1)} MMACs, ${parameters} parameters, seed ${options.seed}`,
      );
    });
}

/**
 * Builds a backbone for the data, trains it with a progress bar, and scores it on the test split. */
export async function trainBackbone(
  context: Context,
  options: {
    readonly backbone: string;
    readonly dataset: Dataset;
    readonly recipe: TrainingRecipe;
    readonly threads: number;
    readonly seed: number;
    readonly checkpointPath: string;
  },
): Promise<{ model: Model; testAccuracy: number; validationAccuracy: number }> {
  const { dataset, seed, threads } = options;
  const untrained = backbone(options.backbone).build({
    inputShape: dataset.shape,
    classes: dataset.classes.length,
    normalization: dataset.normalization,
    seed,
  });
  const bar = context.progress.task(`Training ${options.backbone}`, 1);
  const { model, validationAccuracy } = await trainNetwork(untrained, dataset, options.recipe, {
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
