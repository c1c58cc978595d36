import { InvalidArgumentError } from '../../base/errors.ts';
import type { GraphBuilder } from '../../graph/build.ts';

/**
 * What training makes small, for answers z [N, k]:
 * - `cross-entropy`: −Σ target · log softmax(z), the mean over the batch; targets are class indices (`label`).
 * - `mse`: (z − target)², the mean over batch and answers; targets are one-hot vectors of class indices (`label`).
 * - `regression`: the same against given values (`target`, float32 [N, k]).
 */
export type Loss = 'cross-entropy' | 'mse' | 'regression';

export const LOSSES = ['cross-entropy', 'mse', 'regression'] as const satisfies readonly Loss[];

/**
 * Learning from a teacher network's answers besides the labels: the loss becomes
 * (1 − weight) · loss + weight · T² · KL(softmax(teacher / T) ‖ softmax(student / T)), the mean over the batch. The
 * factor T² keeps the gradient's size independent of T. Source: Hinton, Vinyals and Dean 2015, section 2.
 */
export interface Distillation {
  /** T, above 0: how much the teacher's small probabilities count. 2 to 8 is usual. */
  readonly temperature: number;
  /** In [0, 1]; 1 leaves the labels out. */
  readonly weight: number;
}

/** @throws InvalidArgumentError naming the field, its value and what it should be */
export function checkDistillation({ temperature, weight }: Distillation): void {
  if (!(temperature > 0 && Number.isFinite(temperature))) {
    throw new InvalidArgumentError(`Distillation: temperature is ${temperature}, expected a number above 0.`);
  }
  if (!(weight >= 0 && weight <= 1)) {
    throw new InvalidArgumentError(`Distillation: weight is ${weight}, expected a number in [0, 1].`);
  }
}

export interface LossOptions {
  readonly loss: Loss;
  readonly batch: number;
  /** k, the answers of one example. */
  readonly classes: number;
  readonly labelSmoothing: number;
  readonly distillation: Distillation | undefined;
}

/** Values that the loss left in the graph. */
export interface LossValues {
  /** Of `loss` with respect to the answers, [N, k]. */
  readonly gradient: string;
}

/**
 * Writes the loss, its inputs (`label` or `target`, `teacher_logits`) and its outputs: `loss` and, where there are
 * labels, `correct`, the number of examples whose largest answer is the label's.
 */
export function addLoss(build: GraphBuilder, answers: string, options: LossOptions): LossValues {
  const { batch, classes, distillation } = options;
  let own: Term;
  if (options.loss === 'regression') {
    own = meanSquaredError(build, answers, build.input('target', 'float32', [batch, classes]), options);
  } else {
    const label = build.input('label', 'int64', [batch]);
    const target = addTarget(build, label, options);
    own =
      options.loss === 'mse'
        ? meanSquaredError(build, answers, target, options)
        : crossEntropy(build, answers, target, options);
    addCorrect(build, answers, label);
  }
  if (distillation === undefined) return finish(build, own);
  const { weight } = distillation;
  const teacher = build.input('teacher_logits', 'float32', [batch, classes]);
  const learned = divergence(build, answers, teacher, distillation, batch);
  const mixed = (a: string, b: string) =>
    build.op('Add', [
      build.op('Mul', [a, build.scalar(1 - weight)]),
      build.op('Mul', [b, build.scalar(weight)]),
    ]);
  return finish(build, {
    value: mixed(own.value, learned.value),
    gradient: mixed(own.gradient, learned.gradient),
  });
}

/** A term of the loss: a scalar, and its gradient with respect to the answers. */
interface Term {
  readonly value: string;
  readonly gradient: string;
}

function finish(build: GraphBuilder, { value, gradient }: Term): LossValues {
  build.op('Identity', [value], {}, { outputs: ['loss'] });
  build.output('loss', 'float32', []);
  return { gradient };
}

/** (1 − s) · onehot + s / classes. */
function addTarget(build: GraphBuilder, label: string, { classes, labelSmoothing }: LossOptions): string {
  const low = labelSmoothing / classes;
  return build.op(
    'OneHot',
    [label, build.ints([classes]), build.floats([low, 1 - labelSmoothing + low])],
    { axis: -1 },
    { name: 'target' },
  );
}

/** The gradient is (softmax − target) / batch. */
function crossEntropy(build: GraphBuilder, logits: string, target: string, { batch }: LossOptions): Term {
  const logProbabilities = build.op('LogSoftmax', [logits], { axis: -1 });
  const error = build.op('Sub', [build.op('Exp', [logProbabilities]), target]);
  return {
    value: scaled(build, total(build, build.op('Mul', [target, logProbabilities])), -1 / batch),
    gradient: scaled(build, error, 1 / batch),
  };
}

/** The gradient is 2 · (answers − target) / (batch · classes). */
function meanSquaredError(
  build: GraphBuilder,
  answers: string,
  target: string,
  { batch, classes }: LossOptions,
): Term {
  const error = build.op('Sub', [answers, target]);
  const count = batch * classes;
  return {
    value: scaled(build, total(build, build.op('Mul', [error, error])), 1 / count),
    gradient: scaled(build, error, 2 / count),
  };
}

/** T² · KL, whose gradient is T · (softmax(student / T) − softmax(teacher / T)) / batch. */
function divergence(
  build: GraphBuilder,
  student: string,
  teacher: string,
  { temperature }: Distillation,
  batch: number,
): Term {
  const soft = (logits: string) =>
    build.op('LogSoftmax', [scaled(build, logits, 1 / temperature)], { axis: -1 });
  const [logStudent, logTeacher] = [soft(student), soft(teacher)];
  const probabilities = build.op('Exp', [logTeacher]);
  const sum = total(build, build.op('Mul', [probabilities, build.op('Sub', [logTeacher, logStudent])]));
  const error = build.op('Sub', [build.op('Exp', [logStudent]), probabilities]);
  return {
    value: scaled(build, sum, temperature ** 2 / batch),
    gradient: scaled(build, error, temperature / batch),
  };
}

function addCorrect(build: GraphBuilder, answers: string, label: string): void {
  const predicted = build.op('ArgMax', [answers], { axis: 1, keepdims: 0 });
  const isRight = build.op('Cast', [build.op('Equal', [predicted, label])], { to: 1 });
  build.op('ReduceSum', [isRight, build.ints([0])], { keepdims: 0 }, { outputs: ['correct'] });
  build.output('correct', 'float32', []);
}

function total(build: GraphBuilder, matrix: string): string {
  return build.op('ReduceSum', [matrix, build.ints([0, 1])], { keepdims: 0 });
}

function scaled(build: GraphBuilder, value: string, factor: number): string {
  return factor === 1 ? value : build.op('Mul', [value, build.scalar(factor)]);
}
