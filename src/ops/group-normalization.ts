import { elementCount } from '../base/tensor.ts';
import { floatAttribute, intAttribute } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';
import { DEFAULT_EPSILON } from './batch-normalization.ts';
import { alongAxis, labelsAlong } from './channels.ts';
import { sameInEveryGroup } from './conv.ts';
import { requiredType } from './dims.ts';
import { reduceSum, reshape } from './emit.ts';
import { ShapeError } from './errors.ts';
import { type CouplingContext, defineOp, type GradientContext, type TrainingContext } from './op.ts';

/**
 * y = scale · (x − mean) / √(var + ε) + bias, with mean and variance for each sample and group of channels. Scale and
 * bias have one element for each group in opset 18 and one for each channel since opset 21.
 */
export const GroupNormalization = defineOp({
  schema: { name: 'GroupNormalization', since: [18, 21], inputs: [3, 3], outputs: [1, 1] },
  shape({ node, opset, inputs }) {
    const x = requiredType(node, inputs, 0);
    const groups = groupsOf(node);
    const channels = x.shape?.[1];
    if (typeof channels === 'number' && channels % groups !== 0) {
      throw new ShapeError(node, 0, `has ${channels} channels, not a multiple of num_groups ${groups}`);
    }
    const expected = opset < 21 ? groups : channels;
    for (const input of [1, 2]) {
      const size = inputs[input]?.shape?.[0];
      if (typeof size === 'number' && typeof expected === 'number' && size !== expected)
        throw new ShapeError(node, input, `has ${size} elements, expected ${expected}`);
    }
    return [x];
  },
  training: forward,
  gradient: backward,
  coupling: couple,
  // As InstanceNormalization: a multiply-add for each element.
  cost: ({ outputs: [y] }) => ({ macs: elementCount(y!) }),
});

/** The layout in which a group is one row: [N, groups, channels of a group · H · W], and what parameters broadcast to it. */
function layoutOf({ node, opset, xShape }: Pick<TrainingContext, 'node' | 'opset' | 'xShape'>) {
  const shape = xShape(0);
  const [batch, channels, ...space] = shape as [number, number, ...number[]]; // Has at least these two axes.
  const groups = groupsOf(node);
  const [own, area] = [channels / groups, elementCount(space)];
  const isEach = opset >= 21; // A scale and a bias for each channel, not for each group.
  return {
    shape,
    rows: [batch, groups, own * area],
    parted: [batch, groups, own, area],
    parameters: [1, groups, isEach ? own : 1, 1],
    /** Axes of `parted` along which a parameter is repeated. */
    repeated: isEach ? [0, 3] : [0, 2, 3],
  };
}

/** In a training graph (opset 17) the operator is not there yet: it is written out. */
function forward(context: TrainingContext): void {
  const { node, build, x, keep } = context;
  const { shape, rows, parted, parameters } = layoutOf(context);
  const value = reshape(build, x(0), rows);
  const mean = (of: string) => build.op('ReduceMean', [of], { axes: [2], keepdims: 1 });
  const centred = build.op('Sub', [value, mean(value)]);
  const epsilon = build.scalar(floatAttribute(node, 'epsilon', DEFAULT_EPSILON));
  const variance = build.op('Add', [mean(build.op('Mul', [centred, centred])), epsilon]);
  const rstd = build.op('Reciprocal', [build.op('Sqrt', [variance])]);
  const normal = reshape(build, build.op('Mul', [centred, rstd]), parted);
  const scale = reshape(build, x(1), parameters);
  const scaled = build.op('Mul', [normal, scale]);
  const shifted = build.op('Add', [scaled, reshape(build, x(2), parameters)]);
  build.op('Reshape', [shifted, build.ints(shape)], {}, { outputs: [node.outputs[0]!], name: node.name });
  keep('normal', normal);
  keep('rstd', rstd);
  keep('scale', scale);
}

/** With x̂ = (x − mean)·rstd and g = dy·scale: dx = rstd · (g − mean(g) − x̂ · mean(g·x̂)), means over each group. */
function backward(context: GradientContext): (string | undefined)[] {
  const { build, kept, needs, xShape } = context;
  if (context.dy[0] === undefined) return [];
  const { shape, rows, parted, repeated } = layoutOf(context);
  const dy = reshape(build, context.dy[0], parted);
  const normal = kept('normal');
  const mean = (of: string) => build.op('ReduceMean', [of], { axes: [2], keepdims: 1 });
  const dX = () => {
    const g = reshape(build, build.op('Mul', [dy, kept('scale')]), rows);
    const flat = reshape(build, normal, rows);
    const along = build.op('Mul', [flat, mean(build.op('Mul', [g, flat]))]);
    const rest = build.op('Sub', [build.op('Sub', [g, mean(g)]), along]);
    return reshape(build, build.op('Mul', [kept('rstd'), rest]), shape);
  };
  const summed = (of: string, input: number) => reshape(build, reduceSum(build, of, repeated), xShape(input));
  return [
    needs(0) ? dX() : undefined,
    needs(1) ? summed(build.op('Mul', [dy, normal]), 1) : undefined,
    needs(2) ? summed(dy, 2) : undefined,
  ];
}

/**
 * Groups stay equally wide: the channels at the same place of every group are one. Those that stay get another mean and
 * variance. Groups of one channel each go with their channel, as in InstanceNormalization.
 */
function couple(context: CouplingContext): void {
  const { node, opset } = context;
  const whole = context.labels(0);
  const channels = context.xShape(0)?.[1];
  if (whole === undefined) return;
  if (typeof channels !== 'number' || ![1, 2].every((input) => context.isParameter(input))) {
    context.freeze(whole.data, 'scale and bias of a GroupNormalization are computed, not stored');
    return;
  }
  const labels = labelsAlong(context, 0, 1, channels);
  if (labels === undefined) return;
  const groups = groupsOf(node);
  const isEach = groups === channels;
  if (!isEach) {
    sameInEveryGroup(context, labels, groups);
    context.inexact(labels, 'GroupNormalization takes mean and variance over each group of channels');
  }
  if (isEach || opset >= 21) for (const input of [1, 2]) context.bind(input, 0, labels);
  context.produce(0, alongAxis(labels, 1, whole.shape.length));
  if (!isEach) return;
  context.rewrite(({ kept }) => ({
    attributes: new Map([...node.attributes, ['num_groups', { kind: 'int', value: BigInt(kept(labels)) }]]),
  }));
}

function groupsOf(node: Node): number {
  const groups = intAttribute(node, 'num_groups', 0);
  if (groups < 1) throw new ShapeError(node, 0, `cannot be normalised in ${groups} groups`);
  return groups;
}
