import { BonsaiError } from '../base/errors.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../base/tensor.ts';
import { describeNode, float, floatAttribute, intAttribute } from '../graph/attributes.ts';
import type { GraphBuilder } from '../graph/build.ts';
import { channelSum } from './channel-sum.ts';
import { alongAxis, labelsAlong } from './channels.ts';
import { COMPOUND_DOMAIN, defineCompound } from './compound.ts';
import { matMulTransposed, reduceSum, reshape } from './emit.ts';
import { ShapeError } from './errors.ts';
import { MAX_COMPUTED_ELEMENTS } from './fold-element-wise.ts';
import { defineOp, type ShapeContext } from './op.ts';

/**
 * y = scale · (x − mean) / √(var + ε) + B for each channel (axis 1). Inference takes mean and var from inputs 3
 * and 4; training takes them from the batch and moves the inputs towards them:
 * running ← running · momentum + batch · (1 − momentum), with the biased variance (division by M), as ONNX defines it.
 */
export const BatchNormalization = defineOp({
  schema: { name: 'BatchNormalization', since: [1, 6, 7, 9, 14, 15], inputs: [5, 5], outputs: [1, 5] },
  shape({ node, opset, inputs: [x, ...parameters] }) {
    const channels = x?.shape?.[1];
    const isSpatial = opset >= WITHOUT_SPATIAL || intAttribute(node, 'spatial', 1) !== 0;
    for (const [i, parameter] of isSpatial ? parameters.entries() : []) {
      const size = parameter?.shape?.[0];
      if (parameter?.shape !== undefined && parameter.shape.length !== 1) {
        throw new ShapeError(node, i + 1, `has rank ${parameter.shape.length}, expected a vector`);
      }
      if (typeof size === 'number' && typeof channels === 'number' && size !== channels) {
        throw new ShapeError(node, i + 1, `has ${size} elements, input 0 has ${channels} channels`);
      }
    }
    const dtype = x?.dtype ?? 'float32';
    // Outputs after the first exist in training form only; each holds one value per channel.
    return node.outputs.map((_, i) =>
      i === 0 ? { dtype, shape: x?.shape } : { dtype, shape: [channels ?? null] },
    );
  },
  training(context) {
    const { build, node } = context;
    if (context.opset < WITHOUT_SPATIAL && intAttribute(node, 'spatial', 1) === 0) {
      throw new BonsaiError(
        'unsupported',
        `${describeNode(node)} normalises every position by itself (spatial = 0), which cannot be trained. Export the ` +
          `network with opset ${WITHOUT_SPATIAL} or newer.`,
      );
    }
    const momentum = floatAttribute(node, 'momentum', DEFAULT_MOMENTUM);
    const [, mean, variance, rstd] = build.ops(
      'BatchNormalizationTraining',
      [context.x(0), context.x(1), context.x(2)],
      { epsilon: float(floatAttribute(node, 'epsilon', DEFAULT_EPSILON)) },
      {
        domain: COMPOUND_DOMAIN,
        outputs: [node.outputs[0]!, ...['mean', 'variance', 'rstd'].map((hint) => build.fresh(hint))],
      },
    );
    context.keep('mean', mean!);
    context.keep('rstd', rstd!);
    for (const [input, batch] of [
      [3, mean!],
      [4, variance!],
    ] as const) {
      const old = build.op('Mul', [context.x(input), build.scalar(momentum)]);
      context.update(input, build.op('Add', [old, build.op('Mul', [batch, build.scalar(1 - momentum)])]));
    }
  },
  gradient(context) {
    const {
      build,
      dy: [dy],
    } = context;
    if (dy === undefined) return [];
    const [dX, dScale, dB] = build.ops(
      'BatchNormalizationGradient',
      [dy, context.x(0), context.x(1), context.kept('mean'), context.kept('rstd')],
      {},
      { domain: COMPOUND_DOMAIN, outputs: 3 },
    );
    return [dX, dScale, dB].map((value, input) => (context.needs(input) ? value : undefined));
  },
  fold: normalisedWeight,
  coupling(context) {
    const x = context.xShape(0);
    const channels = context.constant(1)?.shape.length === 1 ? context.constant(1)!.shape[0] : undefined;
    const labels = context.labels(0);
    if (labels === undefined) return;
    if (x === undefined || channels === undefined || ![1, 2, 3, 4].every((i) => context.isParameter(i))) {
      context.freeze(
        labels.data,
        'a BatchNormalization whose parameters are not stored for each channel is left alone',
      );
      return;
    }
    const along = labelsAlong(context, 0, 1, channels);
    if (along === undefined) return;
    for (const input of [1, 2, 3, 4]) context.bind(input, 0, along);
    context.produce(0, alongAxis(along, 1, x.length));
    // Statistics that the training form puts out, one for each channel.
    for (let output = 1; output < context.node.outputs.length; output++)
      context.produce(output, alongAxis(along, 0, 1));
  },
  // Folded into the convolution before it when ONNX Runtime loads the file; standing alone, one multiply-add each.
  cost({ outputs: [y] }) {
    return { macs: elementCount(y!) };
  },
});

/** Before this opset, `spatial` = 0 asked for statistics of each position, [C, H, W]. */
const WITHOUT_SPATIAL = 9;

/** ONNX's defaults for the attributes. */
export const DEFAULT_EPSILON = 1e-5;
export const DEFAULT_MOMENTUM = 0.9;

/** (x, scale, B) → (y, mean, variance, 1 / √(variance + ε)): normalised by the statistics of the batch. */
export const BatchNormalizationTraining = defineCompound({
  schema: { name: 'BatchNormalizationTraining', inputs: 3, outputs: 4 },
  shape: ({ inputs: [x, scale] }) => {
    const channel = { dtype: 'float32', shape: scale?.shape } as const;
    return [x ?? { dtype: 'float32' }, channel, channel, channel];
  },
  expand({ node, build, x, xShape }) {
    const shape = xShape(0);
    const epsilon = floatAttribute(node, 'epsilon', DEFAULT_EPSILON);
    const inverse = build.scalar(1 / countOf(shape));
    const mean = build.op('Mul', [channelSum(build, x(0), shape), inverse]);
    const square = build.op('Mul', [channelDot(build, x(0), x(0), shape), inverse]);
    const { variance, rstd } = spread(build, mean, square, epsilon);
    const y = build.op('BatchNormalization', [x(0), x(1), x(2), mean, variance], { epsilon: float(epsilon) });
    return [y, mean, variance, rstd];
  },
});

/** (dy, x, scale, mean, rstd) → (dx, dscale, dB). */
export const BatchNormalizationGradient = defineCompound({
  schema: { name: 'BatchNormalizationGradient', inputs: 5, outputs: 3 },
  shape: ({ inputs: [, x, scale] }) => {
    const channel = { dtype: 'float32', shape: scale?.shape } as const;
    return [x ?? { dtype: 'float32' }, channel, channel];
  },
  expand({ build, x, xShape, isUsed }) {
    const shape = xShape(1);
    const dB = channelSum(build, x(0), shape);
    const dot = channelDot(build, x(0), x(1), shape);
    const { dScale, b, c } = gradientFactors(build, {
      dB,
      dot,
      mean: x(3),
      rstd: x(4),
      count: countOf(shape),
    });
    if (!isUsed(0)) return ['', dScale, dB];
    const a = build.op('Mul', [x(2), x(4)]);
    const ofX = affine(build, x(1), shape, build.op('Mul', [a, b]), build.op('Mul', [a, c]));
    return [build.op('Add', [affine(build, x(0), shape, a), ofX]), dScale, dB];
  },
});

/** variance = E[x²] − mean² and 1 / √(variance + ε), for vectors of one value per channel. */
export function spread(
  build: GraphBuilder,
  mean: string,
  meanSquare: string,
  epsilon: number,
): { readonly variance: string; readonly rstd: string } {
  // The difference can come out a rounding error below 0.
  const variance = build.op('Relu', [build.op('Sub', [meanSquare, build.op('Mul', [mean, mean])])]);
  const deviation = build.op('Sqrt', [build.op('Add', [variance, build.scalar(epsilon)])]);
  return { variance, rstd: build.op('Reciprocal', [deviation]) };
}

/**
 * What the gradient of a normalisation is made of, one value per channel each, with M values per channel:
 * dscale = rstd · (Σ dy·x − mean · dB), and dx = scale · rstd · (dy + b·x + c)
 * with b = −rstd · dscale / M and c = −dB / M − b · mean.
 * @param sums dB = Σ dy; dot = Σ dy·x
 */
export function gradientFactors(
  build: GraphBuilder,
  sums: {
    readonly dB: string;
    readonly dot: string;
    readonly mean: string;
    readonly rstd: string;
    readonly count: number;
  },
): { readonly dScale: string; readonly b: string; readonly c: string } {
  const { dB, dot, mean, rstd, count } = sums;
  const dScale = build.op('Mul', [rstd, build.op('Sub', [dot, build.op('Mul', [mean, dB])])]);
  const minus = build.scalar(-1 / count);
  const b = build.op('Mul', [build.op('Mul', [rstd, dScale]), minus]);
  const c = build.op('Sub', [build.op('Mul', [dB, minus]), build.op('Mul', [b, mean])]);
  return { dScale, b, c };
}

/** How many values each channel has in a batch. */
function countOf(shape: readonly number[]): number {
  return elementCount(shape) / shape[1]!;
}

/** Σ x·y over all axes but the channels': products of rows of length L, then a sum over the batch. */
function channelDot(build: GraphBuilder, x: string, y: string, shape: readonly number[]): string {
  const [batch, channels] = [shape[0]!, shape[1]!];
  const length = countOf(shape) / batch;
  if (length < SHORTEST_DOT) return channelSum(build, build.op('Mul', [x, y]), shape);
  const rows = [batch * channels, 1, length];
  const dots = matMulTransposed(build, reshape(build, x, rows), reshape(build, y, rows));
  return reduceSum(build, reshape(build, dots, [batch, channels]), [0]);
}

/**
 * Rows shorter than this are multiplied element by element and summed. Measured at batch 128 on two threads, ms for
 * dot products / product and sum: 256 channels of 4×4: 6.6 / 0.3; 128 of 7×7: 2.2 / 0.3; 64 of 14×14: 1.2 / 0.5;
 * 64 of 28×28: 2.1 / 5.2.
 */
export const SHORTEST_DOT = 256;

/** scale·x + shift for each channel: ONNX Runtime's BatchNormalization is its fastest kernel for that. */
function affine(
  build: GraphBuilder,
  x: string,
  shape: readonly number[],
  scale: string,
  shift?: string,
): string {
  const channels = shape[1]!;
  const filled = (value: number) => build.floats(new Array<number>(channels).fill(value));
  // With mean 0 and variance 1 − ε the division is by exactly 1.
  return build.op(
    'BatchNormalization',
    [x, scale, shift ?? filled(0), filled(0), filled(1 - DEFAULT_EPSILON)],
    { epsilon: float(DEFAULT_EPSILON) },
  );
}

/**
 * A stored weight that is normalised by its own mean and variance (weight standardisation as the operator in training
 * mode: [1, filters, elements of a filter]).
 */
function normalisedWeight({ node, opset, constant }: ShapeContext): Tensor | undefined {
  if (opset < WITH_TRAINING_MODE || intAttribute(node, 'training_mode', 0) === 0) return undefined;
  const [x, scale, bias] = [0, 1, 2].map(constant);
  if (x?.dtype !== 'float32' || scale?.dtype !== 'float32' || bias?.dtype !== 'float32') return undefined;
  if (elementCount(x.shape) > MAX_COMPUTED_ELEMENTS) return undefined;
  const channels = x.shape[1]!;
  const inner = elementCount(x.shape.slice(2));
  const count = elementCount(x.shape) / channels;
  const [values, scales, biases] = [x, scale, bias].map(floatsOf);
  const epsilon = floatAttribute(node, 'epsilon', DEFAULT_EPSILON);
  const channelOf = (i: number) => Math.floor(i / inner) % channels;
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  values!.forEach((value, i) => {
    mean[channelOf(i)]! += value / count;
  });
  values!.forEach((value, i) => {
    variance[channelOf(i)]! += (value - mean[channelOf(i)]!) ** 2 / count;
  });
  const normal = values!.map((value, i) => {
    const channel = channelOf(i);
    return (
      (scales![channel]! * (value - mean[channel]!)) / Math.sqrt(variance[channel]! + epsilon) +
      biases![channel]!
    );
  });
  return float32Tensor(x.shape, normal);
}

/** The opset that brought `training_mode`. */
const WITH_TRAINING_MODE = 14;
