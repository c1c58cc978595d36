import { InvalidArgumentError } from '../../base/errors.ts';
import { tensorOf } from '../../base/tensor.ts';
import type { GraphBuilder } from '../../graph/build.ts';

/** How parameters move along their gradient. Plain data. */
export type Optimizer = Sgd | AdamW;

/**
 * Stochastic gradient descent with momentum: v′ = momentum · v + (gradient + weightDecay · w); w′ = w − rate · v′, or
 * with Nesterov w − rate · (gradient + weightDecay · w + momentum · v′). Source: Sutskever et al. 2013.
 */
export interface Sgd {
  readonly name: 'sgd';
  /** In [0, 1). */
  readonly momentum: number;
  readonly nesterov: boolean;
  /** For tensors of rank 2 and more only (not biases and scales), at least 0. */
  readonly weightDecay: number;
}

/**
 * Adam with decoupled weight decay: m′ = β₁m + (1 − β₁)g; v′ = β₂v + (1 − β₂)g²;
 * w′ = w − rate · (m̂ / (√v̂ + ε) + weightDecay · w), where m̂ = m′ / (1 − β₁ᵗ) and v̂ = v′ / (1 − β₂ᵗ) in step t = 1, 2, ….
 * The decay goes with the rate and so with its schedule. Source: Loshchilov and Hutter 2019, algorithm 2; Kingma and
 * Ba 2015 for the moments.
 */
export interface AdamW {
  readonly name: 'adamw';
  /** For tensors of rank 2 and more only, at least 0. Larger than SGD's: it is not divided by the gradient's size. */
  readonly weightDecay: number;
  /** Decay of the first moment, in [0, 1). Default 0.9. */
  readonly beta1?: number;
  /** Decay of the second moment, in [0, 1). Default 0.999. */
  readonly beta2?: number;
  /** Keeps the division finite, above 0. Default 1e-8. */
  readonly epsilon?: number;
}

/** As in Kingma and Ba 2015. */
export const adamDefaults = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 } as const;

function adamOf({ beta1, beta2, epsilon }: AdamW): Required<Pick<AdamW, keyof typeof adamDefaults>> {
  return {
    beta1: beta1 ?? adamDefaults.beta1,
    beta2: beta2 ?? adamDefaults.beta2,
    epsilon: epsilon ?? adamDefaults.epsilon,
  };
}

/** The gradient as it is: after a step of rate 0 from velocity 0, `velocity_next` holds the gradient. */
export const PLAIN_SGD: Sgd = { name: 'sgd', momentum: 0, nesterov: false, weightDecay: 0 };

/** The flat vectors, each as long as the parameters, that an optimiser carries from step to step; all start at 0. */
export const MOMENTS: Readonly<Record<Optimizer['name'], readonly string[]>> = {
  sgd: ['velocity'],
  adamw: ['first_moment', 'second_moment'],
};

/** The input of a step whose optimiser depends on how many steps there were: this step's number, counted from 1. */
export const STEP_NUMBER = 'step_number';

/** @throws InvalidArgumentError naming the field, its value and what it should be */
export function checkOptimizer(optimizer: Optimizer): void {
  const need = (isRight: boolean, field: string, value: unknown, expected: string) => {
    if (!isRight)
      throw new InvalidArgumentError(`Optimizer: ${field} is ${String(value)}, expected ${expected}.`);
  };
  const needShare = (field: string, value: number) =>
    need(value >= 0 && value < 1, field, value, 'a number in [0, 1)');
  switch (optimizer?.name) {
    case 'sgd':
      needShare('momentum', optimizer.momentum);
      need(typeof optimizer.nesterov === 'boolean', 'nesterov', optimizer.nesterov, 'true or false');
      break;
    case 'adamw': {
      const { beta1, beta2, epsilon } = adamOf(optimizer);
      needShare('beta1', beta1);
      needShare('beta2', beta2);
      need(epsilon > 0 && Number.isFinite(epsilon), 'epsilon', epsilon, 'a number above 0');
      break;
    }
    default: {
      // Plain data may come from a file, or from a version whose recipes had another form.
      const other: unknown = optimizer satisfies never;
      throw new InvalidArgumentError(
        `The optimizer is ${JSON.stringify(other)}, expected { name: 'sgd', … } or { name: 'adamw', … }.`,
      );
    }
  }
  const { weightDecay } = optimizer;
  need(
    weightDecay >= 0 && Number.isFinite(weightDecay),
    'weightDecay',
    weightDecay,
    'a number of at least 0',
  );
}

/** What an update is computed from; all are flat float32 vectors of one length but the rate, a scalar. */
export interface UpdateInputs {
  readonly parameters: string;
  readonly gradient: string;
  readonly learningRate: string;
  /** weightDecay · w where w decays and 0 elsewhere; undefined: nothing decays. */
  readonly decay: string | undefined;
}

/** Writes an optimiser's inputs and its update: `parameters_next` and the next value of each of its moments. */
export function addUpdate(
  build: GraphBuilder,
  optimizer: Optimizer,
  count: number,
  inputs: UpdateInputs,
): void {
  for (const name of MOMENTS[optimizer.name]) build.input(name, 'float32', [count]);
  const direction =
    optimizer.name === 'sgd' ? addSgd(build, optimizer, inputs) : addAdamW(build, optimizer, inputs);
  const move = build.op('Mul', [direction, inputs.learningRate]);
  build.op('Sub', [inputs.parameters, move], {}, { outputs: ['parameters_next'] });
  for (const name of ['parameters', ...MOMENTS[optimizer.name]])
    build.output(`${name}_next`, 'float32', [count]);
}

function addSgd(build: GraphBuilder, { momentum, nesterov }: Sgd, inputs: UpdateInputs): string {
  const gradient =
    inputs.decay === undefined ? inputs.gradient : build.op('Add', [inputs.gradient, inputs.decay]);
  const kept = build.op('Mul', ['velocity', build.scalar(momentum)]);
  const velocity = build.op('Add', [kept, gradient], {}, { outputs: ['velocity_next'] });
  return nesterov
    ? build.op('Add', [gradient, build.op('Mul', [velocity, build.scalar(momentum)])])
    : velocity;
}

function addAdamW(build: GraphBuilder, optimizer: AdamW, inputs: UpdateInputs): string {
  const { beta1, beta2, epsilon } = adamOf(optimizer);
  const { gradient, decay } = inputs;
  const step = build.input(STEP_NUMBER, 'float32', []);
  const moved = (moment: string, beta: number, value: string) =>
    build.op(
      'Add',
      [build.op('Mul', [moment, build.scalar(beta)]), build.op('Mul', [value, build.scalar(1 - beta)])],
      {},
      { outputs: [`${moment}_next`] },
    );
  const first = moved('first_moment', beta1, gradient);
  const second = moved('second_moment', beta2, build.op('Mul', [gradient, gradient]));
  const corrected = (moment: string, beta: number) =>
    build.op('Div', [moment, addBiasCorrection(build, step, beta)]);
  const scale = build.op('Add', [build.op('Sqrt', [corrected(second, beta2)]), build.scalar(epsilon)]);
  const direction = build.op('Div', [corrected(first, beta1), scale]);
  return decay === undefined ? direction : build.op('Add', [direction, decay]);
}

/** 1 − βᵗ as a float32 scalar; in float64 on the way, because float32's 0.999 would be off by 5e-5 of 1 − 0.999. */
function addBiasCorrection(build: GraphBuilder, step: string, beta: number): string {
  const float64 = (value: number) =>
    build.constant(tensorOf('float64', [], Float64Array.of(value)), 'float64');
  const power = build.op('Pow', [float64(beta), build.op('Cast', [step], { to: FLOAT64 })]);
  return build.op('Cast', [build.op('Sub', [float64(1), power])], { to: FLOAT32 });
}

/** ONNX's numbers of element types (TensorProto.DataType). */
const FLOAT32 = 1;
const FLOAT64 = 11;
