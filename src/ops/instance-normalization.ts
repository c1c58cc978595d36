import { elementCount } from '../base/tensor.ts';
import { floatAttribute } from '../graph/attributes.ts';
import { DEFAULT_EPSILON } from './batch-normalization.ts';
import { alongAxis } from './channels.ts';
import { compound } from './compound.ts';
import { requiredType } from './dims.ts';
import { reduceSum, reshape } from './emit.ts';
import { ShapeError } from './errors.ts';
import { labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp, type GradientContext } from './op.ts';
import { isFolded } from './reshape.ts';

/** y = scale · (x − mean) / √(var + ε) + B, with mean and variance over space for each sample and channel. */
export const InstanceNormalization = defineOp({
  schema: { name: 'InstanceNormalization', since: [1, 6, 22], inputs: [3, 3], outputs: [1, 1] },
  shape({ node, inputs }) {
    const x = requiredType(node, inputs, 0);
    const channels = x.shape?.[1];
    for (const input of [1, 2]) {
      const shape = inputs[input]?.shape;
      if (shape !== undefined && shape.length !== 1) {
        throw new ShapeError(node, input, `has rank ${shape.length}, expected a vector`);
      }
      const size = shape?.[0];
      if (typeof size === 'number' && typeof channels === 'number' && size !== channels) {
        throw new ShapeError(node, input, `has ${size} elements, input 0 has ${channels} channels`);
      }
    }
    return [x];
  },
  gradient: backward,
  coupling: couple,
  // A multiply-add for each element; the sums for mean and variance are not multiplications by a weight.
  cost: ({ outputs: [y] }) => ({ macs: elementCount(y!) }),
});

/** With x̂ = (x − mean)·rstd and g = dy·scale: dx = rstd · (g − mean(g) − x̂ · mean(g·x̂)), means over space. */
function backward(context: GradientContext): (string | undefined)[] {
  const { build, node, x, xShape } = context;
  const dy = context.dy[0];
  if (dy === undefined) return [];
  const shape = xShape(0);
  const axes = shape.flatMap((_, axis) => (axis < 2 ? [] : [axis]));
  const mean = (value: string) => build.op('ReduceMean', [value], { axes, keepdims: 1 });
  const centred = build.op('Sub', [x(0), mean(x(0))]);
  const variance = mean(build.op('Mul', [centred, centred]));
  const epsilon = build.scalar(floatAttribute(node, 'epsilon', DEFAULT_EPSILON));
  const rstd = build.op('Reciprocal', [build.op('Sqrt', [build.op('Add', [variance, epsilon])])]);
  const normal = build.op('Mul', [centred, rstd]);
  const result: (string | undefined)[] = [undefined, undefined, undefined];
  if (context.needs(0)) {
    const g = build.op('Mul', [dy, reshape(build, x(1), [shape[1]!, ...axes.map(() => 1)])]);
    const along = build.op('Mul', [normal, mean(build.op('Mul', [g, normal]))]);
    result[0] = build.op('Mul', [rstd, build.op('Sub', [build.op('Sub', [g, mean(g)]), along])]);
  }
  if (context.needs(1)) result[1] = reduceSum(build, build.op('Mul', [dy, normal]), [0, ...axes]);
  if (context.needs(2)) result[2] = compound(build, 'ChannelSum', [dy]);
  return result;
}

/**
 * Channels along axis 1 are normalised each for itself: scale and B are sliced with them. Where axis 1 holds groups of
 * channels (GroupNormalization as exported before opset 18: [N, groups, channels·H·W / groups]) they go through, but
 * those that stay get another mean and variance.
 */
function couple(context: CouplingContext): void {
  const labels = context.labels(0);
  if (labels === undefined) return;
  const axes = labelledAxes(labels);
  const size = context.xShape(0)?.[1];
  if (axes.length === 1 && axes[0] === 1) {
    if (![1, 2].every((input) => context.isParameter(input))) {
      context.freeze(labels.data, 'scale and B of an InstanceNormalization are computed, not stored');
      return;
    }
    for (const input of [1, 2]) context.bind(input, 0, labels.data);
    context.produce(0, alongAxis(labels.data, 1, labels.shape.length));
  } else if (axes.includes(1) || (axes.length === 0 && size !== 1)) {
    context.freeze(labels.data, 'InstanceNormalization meets channels along its axis 1 and another one');
  } else if (isFolded(labels, context.xShape(0)) && !isReshaped(context)) {
    context.freeze(labels.data, 'is normalised in groups of a size unknown here');
  } else {
    if (axes.length > 0)
      context.inexact(labels.data, 'InstanceNormalization takes mean and variance over channels that go');
    context.produce(0, labels);
  }
}

/** Whether nothing but Reshapes reads the result. */
function isReshaped({ node, readers }: CouplingContext): boolean {
  const { nodes, isExposed } = readers(node.outputs[0]!);
  return !isExposed && nodes.every(({ opType, domain }) => opType === 'Reshape' && domain === '');
}
