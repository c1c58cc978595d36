import type { Clock } from '../../base/clock.ts';
import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { workerUrl } from '../../base/worker-url.ts';
import { type Model, withMetadata } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { inferTypes } from '../../ops/infer.ts';
import { divisorOf } from '../data/batch.ts';
import type { Dataset } from '../data/data-module.ts';
import type { ImageInput } from '../image-input.ts';
import { digestOf } from '../step-cache.ts';
import { runJob } from '../worker-job.ts';
import type { HistoryEntry, TrainingEvent } from './history.ts';
import type { TrainingJob, TrainingOutcome, WorkerEvent } from './loop.ts';
import { checkRecipe, type TrainingRecipe } from './recipe.ts';
import { toTeacher } from './teacher.ts';

export interface TrainingOptions {
  /** Threads of ONNX Runtime. The same number gives the same weights, bit by bit. */
  readonly threads: number;
  /**
   * Channels that a block of the training step's layout holds. Default: what ONNX Runtime has on this machine; 1 uses
   * standard operators only, which is slower and gives the same up to rounding.
   */
  readonly block?: number;
  /** Decides the order of examples and the augmentation. */
  readonly seed: number;
  /**
   * The network whose answers are learned where the recipe has a `distillation`: of anybody's, with its own names and
   * layout, for the data's images and classes. It sees the images that the student sees, at full resolution.
   */
  readonly teacher?: Model;
  /** How images become the teacher's input. Default: pixels in [0, 1]. */
  readonly teacherInput?: ImageInput;
  /**
   * Where the state is kept for resumption. A checkpoint of this very training (network, data, teacher, recipe, seed) is
   * continued; of another one, or a damaged one, is overwritten after a notice. It stays when the training is done,
   * so that repeating a finished training is free; the caller removes it once the result is safe.
   */
  readonly checkpointPath?: string;
  readonly checkpointEverySteps?: number;
  /** A checkpoint is also written when the last one is this old. Which ones are written changes no result. */
  readonly checkpointEveryMs?: number;
  /** Stops after the step in progress, with a checkpoint where a path is given. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: TrainingProgress) => void;
  /** Sentences for the user: resumed, or why a checkpoint was not. */
  readonly onNotice?: (message: string) => void;
  /** For the time left in the progress; absent: no estimate. */
  readonly clock?: Clock;
}

export interface TrainingProgress extends TrainingEvent {
  /** Estimated from the work done since this call began. */
  readonly remainingMs?: number;
}

export interface TrainingResult {
  /** The network with trained weights and running averages, `bonsai.training` in its metadata. */
  readonly model: Model;
  readonly history: readonly HistoryEntry[];
  /** Of the weights returned, at the last phase's resolution. */
  readonly validationAccuracy: number;
}

/** For steps that are quick: about 1 % of the time for 10 MB of weights and steps of 0.3 s. */
export const CHECKPOINT_EVERY_STEPS = 50;

/** For slow steps and busy machines: with the step in progress, less than 10 s of work is lost to a sudden end. */
export const CHECKPOINT_EVERY_MS = 5000;

/** Under this metadata key a trained network keeps the JSON of its recipe, seed, data and accuracy. */
export const TRAINING_METADATA_KEY = 'bonsai.training';

/**
 * Trains a network in a worker thread: each step is one run of a graph that holds forward pass, loss, backward pass
 * and update (`transform/autodiff`), fed with its own results. Same inputs, seed and threads give the same bytes,
 * interrupted and resumed or not.
 * @throws BonsaiError `invalid_argument` for a recipe or data that do not fit, `shape_mismatch` for a network or teacher
 * of other images or classes than the data's, `training_diverged` for a loss, gradient or weight that is not finite
 * (the last checkpoint is kept), `aborted`, `worker_lost`, `unwritable_path`, `missing_rule` for an operator that cannot be trained
 */
export async function trainNetwork(
  model: Model,
  dataset: Dataset,
  recipe: TrainingRecipe,
  options: TrainingOptions,
): Promise<TrainingResult> {
  checkRecipe(recipe);
  const [, height, width] = dataset.shape;
  for (const { resolution } of recipe.phases) divisorOf(resolution ?? 1, height, width);
  if (recipe.batch > dataset.train.count) {
    throw new InvalidArgumentError(
      `The recipe's batch is ${recipe.batch}; the training split has only ${dataset.train.count} examples.`,
    );
  }
  const classes = classesOf(model, dataset);
  const job: TrainingJob = {
    model: writeModel(model),
    teacher: teacherOf(dataset, classes, recipe, options),
    shape: dataset.shape,
    train: dataset.train,
    validation: dataset.validation,
    recipe,
    seed: options.seed,
    threads: options.threads,
    block: options.block,
    checkpointPath: options.checkpointPath,
    checkpointEverySteps: options.checkpointEverySteps ?? CHECKPOINT_EVERY_STEPS,
    checkpointEveryMs: options.checkpointEveryMs ?? CHECKPOINT_EVERY_MS,
  };
  const estimate = remainingTime(options.clock);
  const outcome = await runJob<TrainingJob, WorkerEvent, TrainingOutcome>(
    workerUrl(import.meta.url, 'train-worker'),
    job,
    {
      signal: options.signal,
      onEvent: (event) => {
        if (event.kind === 'notice') options.onNotice?.(event.message);
        else options.onProgress?.({ ...event.step, remainingMs: estimate(event.step.workRatio) });
      },
    },
  );
  const { history, validationAccuracy } = outcome;
  const teacher = job.teacher && digestOf(job.teacher.model);
  const record = { dataset: dataset.name, seed: options.seed, recipe, teacher, validationAccuracy };
  return {
    model: withMetadata(readModel(outcome.model), { [TRAINING_METADATA_KEY]: JSON.stringify(record) }),
    history,
    validationAccuracy,
  };
}

/**
 * How many classes a network tells apart; the data's number where the graph does not say.
 * @throws BonsaiError `shape_mismatch` where they are fewer than the data's
 */
function classesOf(model: Model, dataset: Dataset): number {
  const wanted = dataset.classes.length;
  const [input] = model.graph.inputs;
  const [output] = model.graph.outputs;
  if (input === undefined || output === undefined) return wanted; // The training step says what is wrong with that.
  const { types } = inferTypes(model, { inputs: { [input.name]: [1, ...dataset.shape] } });
  const classes = types.get(output.name)?.shape?.[1];
  if (typeof classes !== 'number') return wanted;
  if (classes >= wanted) return classes;
  throw new BonsaiError(
    'shape_mismatch',
    `The network tells ${classes} classes apart, the data has ${wanted}. ` +
      'Give the data that the network is for, or start its last layer anew (bonsai train --from FILE --new-head; transferTo).',
  );
}

function teacherOf(
  dataset: Dataset,
  classes: number,
  { distillation }: TrainingRecipe,
  { teacher, teacherInput }: TrainingOptions,
): TrainingJob['teacher'] {
  if (teacher === undefined && distillation === undefined) return undefined;
  if (teacher === undefined) {
    throw new InvalidArgumentError('The recipe has a distillation, but there is no teacher to learn from.');
  }
  if (distillation === undefined) {
    throw new InvalidArgumentError(
      'There is a teacher, but the recipe has no distillation to say how much it counts.',
    );
  }
  return {
    model: writeModel(toTeacher(teacher, { ...dataset, classes }, teacherInput)),
    classes,
  };
}

/** Time left by the rate of work since the first call (a resumed training starts beyond 0). */
function remainingTime(clock: Clock | undefined): (workRatio: number) => number | undefined {
  let first: { atMs: number; workRatio: number } | undefined;
  return (workRatio) => {
    if (clock === undefined) return undefined;
    const atMs = clock.nowMs();
    first ??= { atMs, workRatio };
    const done = workRatio - first.workRatio;
    return done > 0 ? ((atMs - first.atMs) * (1 - workRatio)) / done : undefined;
  };
}
