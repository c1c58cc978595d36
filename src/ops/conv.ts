import { elementCount } from '../base/tensor.ts';
import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import type { Dim, Node } from '../graph/model.ts';
import { alongAxis, freezeInputs, labelsAlong } from './channels.ts';
import { compound } from './compound.ts';
import { planar, planarAttributes } from './conv-gradients.ts';
import { reshape } from './emit.ts';
import { MissingRuleError, ShapeError } from './errors.ts';
import { labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp, type Labels } from './op.ts';
import { outputSizes, windowsOf } from './windows.ts';

/** Y[n,o,y,x] = Σ X[n,c,y·s−p+i·d,x·s−p+j·d] · W[o,c,i,j] + B[o], within each of `group` equal channel ranges. */
export const Conv = defineOp({
  schema: { name: 'Conv', since: [1, 11, 22], inputs: [2, 3], outputs: [1, 1] },
  shape({ node, inputs: [x, w] }) {
    const dtype = x?.dtype ?? w?.dtype ?? 'float32';
    if (x?.shape === undefined || w?.shape === undefined) return [{ dtype }];
    const { shape } = x;
    if (shape.length < 3)
      throw new ShapeError(node, 0, `has rank ${shape.length}, expected [N, C, spatial…]`);
    if (w.shape.length !== shape.length) {
      throw new ShapeError(node, 1, `has rank ${w.shape.length}, expected ${shape.length} like input 0`);
    }
    const group = intAttribute(node, 'group', 1);
    const [channels, perGroup, count] = [shape[1], w.shape[1], w.shape[0]];
    if (typeof channels === 'number' && typeof perGroup === 'number' && perGroup * group !== channels) {
      throw new ShapeError(
        node,
        0,
        `has ${channels} channels, the weight with group ${group} expects ${perGroup * group}`,
      );
    }
    if (typeof count === 'number' && count % group !== 0) {
      throw new ShapeError(node, 1, `has ${count} output channels, not a multiple of group ${group}`);
    }
    const kernel = w.shape.slice(2);
    checkKernelShape(node, kernel);
    if (!kernel.every((size) => typeof size === 'number')) {
      return [{ dtype, shape: [shape[0]!, count ?? null, ...shape.slice(2).map((): Dim => null)] }];
    }
    return [{ dtype, shape: [shape[0]!, count ?? null, ...outputSizes(node, shape.slice(2), kernel)] }];
  },
  shapeOfWeight({ inputs: [, w] }) {
    if (w?.shape === undefined || w.shape.length < 3) return undefined;
    return { dtype: w.dtype, shape: [null, w.shape[0]!, ...w.shape.slice(2).map(() => null)] };
  },
  gradient(context) {
    const { build, node } = context;
    const dy = context.dy[0];
    if (dy === undefined) return [];
    const rank = context.xShape(0).length;
    if (rank !== 3 && rank !== 4) throw new MissingRuleError(node, `in ${rank - 2} spatial dimensions`);
    const windows = windowsOf(node, context.xShape(0).slice(2), context.xShape(1).slice(2));
    const attributes = planarAttributes(windows, intAttribute(node, 'group', 1));
    const x = planar(build, context.x(0), context.xShape(0));
    const w = planar(build, context.x(1), context.xShape(1));
    const g = planar(build, dy, context.yShape(0));
    const lower = (value: string, input: number) =>
      rank === 3 ? reshape(build, value, context.xShape(input)) : value;
    return [
      context.needs(0) ? lower(compound(build, 'ConvInputGradient', [g, w, x], attributes), 0) : undefined,
      context.needs(1) ? lower(compound(build, 'ConvWeightGradient', [x, g], attributes), 1) : undefined,
      hasInput(node, 2) && context.needs(2) ? compound(build, 'ChannelSum', [g]) : undefined,
    ];
  },
  coupling: couple,
  cost({ inputs: [, w], outputs: [y] }) {
    // Each output element sums over the weight slice of its channel.
    return { macs: w === undefined ? 0 : elementCount(y!) * elementCount(w.slice(1)) };
  },
});

/**
 * group = 1: the input's labels bind the weight's axis 1, fresh labels its axis 0, the bias and the output.
 * Depthwise (one input channel per group): a channel goes together with its outputs, and `group` shrinks with them.
 * Grouped: the channels at the same place of every group are one, for inputs and for outputs, so that all groups stay
 * equally wide: [g0c0 g0c1 | g1c0 g1c1] has two units, {g0c0, g1c0} and {g0c1, g1c1}.
 */
function couple(context: CouplingContext): void {
  const { node } = context;
  const w = context.constant(1);
  const rank = context.xShape(0)?.length ?? w?.shape.length;
  if (w === undefined || !context.isParameter(1) || rank === undefined) {
    freezeInputs(context, 'the weight of a Conv is computed, not stored');
    return;
  }
  const group = intAttribute(node, 'group', 1);
  const [filters, perGroup] = [w.shape[0]!, w.shape[1]!];
  const passing = context.labels(0);
  if (passing !== undefined && group === 1 && isPointwiseOver(context, passing)) {
    context.produce(0, passing);
    context.makesCrossing();
    return;
  }
  const input = labelsAlong(context, 0, 1, perGroup * group);
  const bound = (labels: Int32Array) => {
    context.bind(1, 0, labels);
    bindBias(context, labels);
    context.produce(0, alongAxis(labels, 1, rank));
  };
  if (group > 1 && perGroup === 1 && input !== undefined) {
    bound(eachRepeated(input, filters / group));
    context.rewrite(({ kept }) => ({
      attributes: new Map([...node.attributes, ['group', { kind: 'int', value: BigInt(kept(input)) }]]),
    }));
    return;
  }
  if (input !== undefined) context.bind(1, 1, sameInEveryGroup(context, input, group));
  // One filter for each of several groups cannot go without its group, so there is nothing to choose from.
  if (group > 1 && filters === group) return;
  bound(tiled(context.fresh(filters / group), group));
}

/** Whether channels lie along one axis of space, of which the convolution computes each position by itself. */
function isPointwiseOver({ node, xShape, yShape, constant }: CouplingContext, labels: Labels): boolean {
  const [axis, ...others] = labelledAxes(labels);
  if (axis === undefined || axis < 2 || others.length > 0) return false;
  const at = axis - 2;
  const one = (name: string) => intsAttribute(node, name)?.[at] ?? 1;
  return one('strides') === 1 && constant(1)?.shape[axis] === 1 && xShape(0)?.[axis] === yShape(0)?.[axis];
}

/** The bias (input 2) of a convolution goes with the filters; one that is not stored keeps them all. */
export function bindBias(context: CouplingContext, labels: Int32Array): void {
  if (!hasInput(context.node, 2)) return;
  if (context.isParameter(2)) context.bind(2, 0, labels);
  else context.freeze(labels, `the bias of a ${context.node.opType} is computed, not stored`);
}

/** Unites the labels at the same place of every group; returns those of the first group. */
export function sameInEveryGroup(context: CouplingContext, labels: Int32Array, group: number): Int32Array {
  const first = labels.slice(0, labels.length / group);
  if (group > 1) context.unite(labels, tiled(first, group));
  return first;
}

/** [a, b] twice is [a, b, a, b]. */
export function tiled(labels: Int32Array, times: number): Int32Array {
  return Int32Array.from({ length: labels.length * times }, (_, i) => labels[i % labels.length]!);
}

/** [a, b] each twice is [a, a, b, b]. */
export function eachRepeated(labels: Int32Array, times: number): Int32Array {
  return Int32Array.from({ length: labels.length * times }, (_, i) => labels[Math.floor(i / times)]!);
}

/** @throws ShapeError where the sizes that a convolution states for its kernel are not those of its weight */
export function checkKernelShape(node: Node, kernel: readonly Dim[]): void {
  const stated = intsAttribute(node, 'kernel_shape');
  const fits = (size: number, i: number) => typeof kernel[i] !== 'number' || kernel[i] === size;
  if (stated === undefined || stated.length !== kernel.length || stated.every(fits)) return;
  throw new ShapeError(
    node,
    1,
    `has a kernel of [${kernel.join(', ')}], the node states [${stated.join(', ')}]`,
  );
}

export function hasInput(node: Node, index: number): boolean {
  return (node.inputs[index] ?? '') !== '';
}
