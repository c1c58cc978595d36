import { systemClock } from '../../base/clock.ts';
import { BonsaiError } from '../../base/errors.ts';
import { permutation, seededRandom } from '../../base/random.ts';
import {
  float32Tensor,
  floatsOf,
  int64Tensor,
  numbersOf,
  scalarTensor,
  type Tensor,
} from '../../base/tensor.ts';
import { probeBlockSize } from '../../engine/probe-block.ts';
import { Session } from '../../engine/session.ts';
import { type Model, withGraph } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { STEP_NUMBER } from '../../transform/autodiff/optimizer.ts';
import {
  buildTrainingStep,
  readParameters,
  type TrainingStep,
  writeParameters,
} from '../../transform/autodiff/training-step.ts';
import { lowerTrainingStep } from '../../transform/lower/lower.ts';
import { type Batch, batchOf } from '../data/batch.ts';
import type { Dataset, Split } from '../data/data-module.ts';
import { type ExampleRequest, identityOf, openExamples } from '../data/examples.ts';
import { classifySplit } from '../evaluate/classify.ts';
import { EVALUATION_BATCH } from '../evaluate/evaluate.ts';
import type { JobContext } from '../worker-job.ts';
import {
  type BestWeights,
  type Checkpoint,
  readCheckpoint,
  trainingIdentity,
  writeCheckpoint,
} from './checkpoint.ts';
import type { HistoryEntry, TrainingEvent } from './history.ts';
import { learningRateAt, planPhases, type TrainingRecipe } from './recipe.ts';
import { openStepSession } from './step-session.ts';
import { openTeacher, type Teacher } from './teacher.ts';

/** What the worker thread is given. */
export interface TrainingJob {
  /** ONNX bytes of the network. */
  readonly model: Uint8Array;
  /** ONNX bytes of what `toTeacher` made, and how many classes it knows, where the recipe distils. */
  readonly teacher?: { readonly model: Uint8Array; readonly classes: number };
  readonly shape: Dataset['shape'];
  readonly train: Split;
  readonly validation: Split;
  readonly recipe: TrainingRecipe;
  readonly seed: number;
  readonly threads: number;
  /** Block of the layout to train in; absent: this machine's, 1: standard operators. */
  readonly block?: number;
  readonly checkpointPath?: string;
  readonly checkpointEverySteps: number;
  readonly checkpointEveryMs: number;
}

export type WorkerEvent =
  | { readonly kind: 'step'; readonly step: TrainingEvent }
  | { readonly kind: 'notice'; readonly message: string };

export interface TrainingOutcome {
  readonly model: Uint8Array;
  readonly history: readonly HistoryEntry[];
  readonly validationAccuracy: number;
}

/** The training itself, from the first step or from a checkpoint to the last step. Blocks its thread. */
export async function runTraining(context: JobContext<TrainingJob, WorkerEvent>): Promise<TrainingOutcome> {
  const { teacher, train, recipe, threads } = context.input;
  if (teacher === undefined) return runSteps(context, undefined);
  const isRepeating = recipe.augmentation === undefined;
  const loaded = await openTeacher(teacher.model, {
    count: train.count,
    classes: teacher.classes,
    isRepeating,
    threads,
  });
  try {
    return await runSteps(context, loaded);
  } finally {
    await loaded.release();
  }
}

async function runSteps(
  context: JobContext<TrainingJob, WorkerEvent>,
  teacher: Teacher | undefined,
): Promise<TrainingOutcome> {
  const job = context.input;
  const { recipe, shape, train } = job;
  const model = readModel(job.model);
  const block = job.block ?? (await probeBlockSize());
  const stepsPerEpoch = Math.floor(train.count / recipe.batch);
  const phases = planPhases(recipe, stepsPerEpoch);
  const totalSteps = phases.at(-1)!.to;
  const workOf = (step: number) =>
    phases.reduce(
      (sum, { from, to, resolution }) => sum + Math.max(0, Math.min(step, to) - from) * resolution ** 2,
      0,
    );
  const totalWork = workOf(totalSteps);
  const identity = trainingIdentity(
    [
      job.model,
      identityOf(train),
      train.labels,
      identityOf(job.validation),
      job.validation.labels,
      ...(job.teacher === undefined ? [] : [job.teacher.model]),
    ],
    { recipe, seed: job.seed },
  );

  let at = await resumeOrStart(context, identity, model);
  let savedMs = systemClock.nowMs();
  const save = async () => {
    checkFinite(at);
    if (job.checkpointPath !== undefined) await writeCheckpoint(job.checkpointPath, identity, at);
    savedMs = systemClock.nowMs();
  };
  const order = shuffledEpochs(train.count, job.seed);
  let stopsEarly = false;
  for (const [phaseIndex, phase] of phases.entries()) {
    if (at.step >= phase.to) continue;
    const isLast = phaseIndex === phases.length - 1;
    const step = stepOf(model, recipe, shape, phase.resolution);
    const lowered = lowerTrainingStep(step.model, { block });
    const session = await openStepSession(writeModel(lowered), job.threads);
    const stream = openExamples(train, shape, trainingRequests(job, order, stepsPerEpoch, at.step, phase.to));
    try {
      while (at.step < phase.to && !stopsEarly) {
        if (context.isStopRequested()) {
          await save();
          throw new BonsaiError('aborted', `Stopped after step ${at.step} of ${totalSteps}.`);
        }
        const examples = examplesOfStep(at.step, order, stepsPerEpoch, recipe.batch);
        const part = await stream.next();
        const draw = (resolution: number) =>
          batchOf({ shape }, part.split, part.indices, {
            resolution,
            augmentation: recipe.augmentation && {
              ...recipe.augmentation,
              ...(part.isCropped && { cropAreaRatio: 0 }),
              random: seededRandom(job.seed).fork(`shift ${at.step}`),
            },
          });
        const batch = draw(phase.resolution);
        // A teacher sees the same images as the student, but always at full resolution: it was trained there, and what
        // it says about small ones would be wrong.
        const full = () => (phase.resolution === 1 ? batch : draw(1));
        const teacherLogits = await teacher?.logits(examples, full);
        const learningRate = learningRateAt(recipe, at.step, totalSteps);
        const done = await runStep(session, step, at, { batch, teacherLogits, learningRate });
        const { lossSum, correct, steps } = at.running;
        const running = { lossSum: lossSum + done.loss, correct: correct + done.correct, steps: steps + 1 };
        at = { ...at, step: at.step + 1, running, ...done.weights };
        context.emit({
          kind: 'step',
          step: {
            step: at.step,
            totalSteps,
            workRatio: workOf(at.step) / totalWork,
            loss: done.loss,
            runningAccuracy: running.correct / (running.steps * recipe.batch),
            resolution: phase.resolution,
          },
        });
        const validates = isValidationDue(recipe, at.step, stepsPerEpoch) || (isLast && at.step === phase.to);
        if (validates || at.step === phase.to || at.step % stepsPerEpoch === 0) {
          const entry: HistoryEntry = {
            step: at.step,
            epoch: at.step / stepsPerEpoch,
            resolution: phase.resolution,
            loss: running.lossSum / running.steps,
            trainAccuracy: running.correct / (running.steps * recipe.batch),
            ...(validates && {
              validationAccuracy: await validate(job, model, step, at, phase.resolution),
            }),
          };
          at = { ...at, running: NO_FIGURES, history: [...at.history, entry] };
          if (isLast && recipe.earlyStopping !== undefined && entry.validationAccuracy !== undefined) {
            at = { ...at, best: betterOf(at, entry.validationAccuracy) };
            stopsEarly = at.step - at.best!.step >= recipe.earlyStopping.patienceEpochs * stepsPerEpoch;
          }
        }
        const isDue =
          at.step % job.checkpointEverySteps === 0 ||
          systemClock.nowMs() - savedMs >= job.checkpointEveryMs ||
          at.step === totalSteps ||
          stopsEarly;
        if (isDue) await save();
      }
    } finally {
      await stream.close();
      await session.release();
    }
  }
  const chosen = at.best ?? at;
  const step = stepOf(model, recipe, shape, phases.at(-1)!.resolution);
  const validationAccuracy = at.best?.accuracy ?? at.history.at(-1)!.validationAccuracy!;
  const trained = writeParameters(model, step, chosen.parameters, namedState(step, chosen.state));
  return { model: writeModel(trained), history: at.history, validationAccuracy };
}

const NO_FIGURES = { lossSum: 0, correct: 0, steps: 0 };

async function resumeOrStart(
  context: JobContext<TrainingJob, WorkerEvent>,
  identity: string,
  model: Model,
): Promise<Checkpoint> {
  const { checkpointPath, recipe, shape } = context.input;
  if (checkpointPath !== undefined) {
    const found = await readCheckpoint(checkpointPath, identity);
    if (found.kind === 'usable') {
      context.emit({
        kind: 'notice',
        message: `Resumed after step ${found.checkpoint.step} from ${checkpointPath}.`,
      });
      return found.checkpoint;
    }
    if (found.kind === 'unusable') {
      context.emit({ kind: 'notice', message: `${found.reason} Training starts from the beginning.` });
    }
  }
  const step = stepOf(model, recipe, shape, 1);
  const { parameters, state } = readParameters(model, step);
  return {
    step: 0,
    parameters,
    moments: step.moments.map(() => new Float32Array(step.parameterCount)),
    state: step.state.map(({ name }) => state[name]!),
    running: NO_FIGURES,
    history: [],
  };
}

function stepOf(
  model: Model,
  recipe: TrainingRecipe,
  shape: Dataset['shape'],
  resolution: number,
): TrainingStep {
  const [channels, height, width] = shape;
  return buildTrainingStep(model, {
    batch: recipe.batch,
    inputShape: [channels, Math.round(height * resolution), Math.round(width * resolution)],
    loss: recipe.loss,
    distillation: recipe.distillation,
    optimizer: recipe.optimizer,
    clipNorm: recipe.clipNorm,
    scaleL1: recipe.scaleL1,
    labelSmoothing: recipe.labelSmoothing ?? 0,
  });
}

interface StepResult {
  readonly loss: number;
  readonly correct: number;
  readonly weights: Pick<Checkpoint, 'parameters' | 'moments' | 'state'>;
}

async function runStep(
  session: Session,
  step: TrainingStep,
  at: Checkpoint,
  given: { readonly batch: Batch; readonly teacherLogits?: Float32Array; readonly learningRate: number },
): Promise<StepResult> {
  const { batch, teacherLogits, learningRate } = given;
  const flat = (values: Float32Array) => float32Tensor([values.length], values);
  const feeds: Record<string, Tensor> = {
    [step.model.graph.inputs[0]!.name]: float32Tensor(batch.shape, batch.images),
    label: int64Tensor(Array.from(batch.labels)),
    learning_rate: scalarTensor(learningRate),
    parameters: flat(at.parameters),
  };
  step.moments.forEach((name, i) => {
    feeds[name] = flat(at.moments[i]!);
  });
  if (step.countsSteps) feeds[STEP_NUMBER] = scalarTensor(at.step + 1);
  if (teacherLogits !== undefined) {
    feeds.teacher_logits = float32Tensor([batch.labels.length, step.classes], teacherLogits);
  }
  step.state.forEach(({ name, shape }, i) => {
    feeds[`state/${name}`] = float32Tensor(shape, at.state[i]!);
  });
  const results = await session.run(feeds);
  const loss = numbersOf(results.loss!)[0]!;
  const norm = numbersOf(results.gradient_norm!)[0]!;
  if (!Number.isFinite(loss)) throw divergence(`The loss became ${loss}`, at.step + 1, learningRate);
  if (!Number.isFinite(norm)) {
    throw divergence(`The norm of the gradient became ${norm}`, at.step + 1, learningRate);
  }
  return {
    loss,
    correct: numbersOf(results.correct!)[0]!,
    weights: {
      parameters: floatsOf(results.parameters_next!),
      moments: step.moments.map((name) => floatsOf(results[`${name}_next`]!)),
      state: step.state.map(({ name }) => floatsOf(results[`state_next/${name}`]!)),
    },
  };
}

function divergence(what: string, step: number, learningRate?: number): BonsaiError {
  const rate = learningRate === undefined ? '' : ` at learning rate ${learningRate}`;
  return new BonsaiError(
    'training_diverged',
    `${what} in step ${step}${rate}. Lower the learning rate, lengthen the warm-up, or clip gradients ` +
      '(clipNorm, --clip-norm). What was saved before stays as it was.',
  );
}

/** A step of finite loss and gradient may still end beyond float32; such a state is never saved or handed out. */
function checkFinite({ step, parameters, moments, state }: Checkpoint): void {
  for (const values of [parameters, ...moments, ...state]) {
    if (!values.every(Number.isFinite)) throw divergence('The weights became infinite', step);
  }
}

/** The examples of the steps from `from` to before `to`, and the seeds of their crops where the recipe wants crops. */
function* trainingRequests(
  { recipe, seed }: TrainingJob,
  order: (epoch: number) => Uint32Array,
  stepsPerEpoch: number,
  from: number,
  to: number,
): Generator<ExampleRequest> {
  const minAreaRatio = recipe.augmentation?.cropAreaRatio ?? 0;
  for (let step = from; step < to; step++) {
    const indices = examplesOfStep(step, order, stepsPerEpoch, recipe.batch);
    const cropSeed = seededRandom(seed)
      .fork(`crop ${step}`)
      .integer(2 ** 31);
    yield { indices, ...(minAreaRatio > 0 && { crop: { minAreaRatio, seed: cropSeed } }) };
  }
}

function examplesOfStep(
  step: number,
  order: (epoch: number) => Uint32Array,
  stepsPerEpoch: number,
  batch: number,
): Uint32Array {
  const first = (step % stepsPerEpoch) * batch;
  return order(Math.floor(step / stepsPerEpoch)).subarray(first, first + batch);
}

/** Epoch number → order of the examples, a pure function of the seed; the last one asked for is kept. */
function shuffledEpochs(count: number, seed: number): (epoch: number) => Uint32Array {
  let known = { epoch: -1, order: new Uint32Array(0) };
  return (epoch) => {
    if (known.epoch !== epoch) {
      known = {
        epoch,
        order: new Uint32Array(permutation(count, seededRandom(seed).fork(`epoch ${epoch}`))),
      };
    }
    return known.order;
  };
}

function isValidationDue(recipe: TrainingRecipe, step: number, stepsPerEpoch: number): boolean {
  const every = recipe.evaluateEveryEpochs ?? (recipe.earlyStopping === undefined ? undefined : 1);
  return every !== undefined && step % Math.max(1, Math.round(every * stepsPerEpoch)) === 0;
}

/** An inference session of the current weights: the training graph itself normalises by the batch. */
async function validate(
  job: TrainingJob,
  model: Model,
  step: TrainingStep,
  at: Checkpoint,
  resolution: number,
): Promise<number> {
  const trained = writeParameters(model, step, at.parameters, namedState(step, at.state));
  const sized = resolution === 1 ? trained : withImageSize(trained, job.shape, resolution);
  const session = await Session.create(writeModel(sized), { intraOpThreads: job.threads });
  try {
    const options = { batch: EVALUATION_BATCH, resolution };
    return (await classifySplit(session, { shape: job.shape }, job.validation, options)).accuracy;
  } finally {
    await session.release();
  }
}

/** The same network for smaller images. Types of inner values, which follow from the input, are left out. */
function withImageSize(model: Model, [channels, height, width]: Dataset['shape'], resolution: number): Model {
  const [input, ...others] = model.graph.inputs;
  const shape = [
    input!.type!.shape![0]!,
    channels,
    Math.round(height * resolution),
    Math.round(width * resolution),
  ];
  const sized = { ...input!, type: { ...input!.type!, shape } };
  return withGraph(model, { ...model.graph, inputs: [sized, ...others], valueInfos: new Map() });
}

function betterOf(at: Checkpoint, accuracy: number): BestWeights {
  return at.best !== undefined && accuracy <= at.best.accuracy
    ? at.best
    : { step: at.step, accuracy, parameters: at.parameters, state: at.state };
}

function namedState(step: TrainingStep, state: readonly Float32Array[]): Record<string, Float32Array> {
  return Object.fromEntries(step.state.map(({ name }, i) => [name, state[i]!]));
}
