import { numbersOf, type Tensor } from '../base/tensor.ts';
import type { Dim, Node } from '../graph/model.ts';
import { broadcastShapes, knownShape, requiredType } from './dims.ts';
import { reduceTo } from './emit.ts';
import { alongAxis, labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp, type Labels } from './op.ts';
import { elementsAt } from './partial.ts';
import { rewriteSizes } from './stated-sizes.ts';
import { broadcastStrides, walked } from './strided.ts';

/** Repeats along axes of size 1 so that the value has the shape that it and the target broadcast to. */
export const Expand = defineOp({
  schema: { name: 'Expand', since: [8, 13], inputs: [2, 2], outputs: [1, 1] },
  shape: (context) => {
    const { node, inputs } = context;
    const { dtype, shape } = requiredType(node, inputs, 0);
    const target = elementsAt(context, 1)?.elements;
    if (target !== undefined) return [{ dtype, shape: broadcastShapes(node, [shape, target]) }];
    const rank = inputs[1]?.shape?.[0];
    if (shape === undefined || typeof rank !== 'number') return [{ dtype }];
    return [{ dtype, shape: broadcastShapes(node, [shape, Array<Dim>(rank).fill(null)]) }];
  },
  gradient: ({ build, dy, needs, xShape, yShape }) => [
    needs(0) && dy[0] !== undefined ? reduceTo(build, dy[0], yShape(0), xShape(0)) : undefined,
  ],
  coupling: coupleExpand,
  fold: (context) => {
    const x = context.constant(0);
    const target = elementsAt(context, 1)?.elements;
    if (x === undefined || target === undefined) return undefined;
    const shape = knownShape(broadcastShapes(context.node, [x.shape, target]));
    return shape && walked(x, { shape, strides: broadcastStrides(x.shape, shape) });
  },
});

/**
 * Channels pass where they are not what is repeated; a target that states their count has to follow them. A parameter
 * that is repeated over the batch (a class token) makes channels of its own.
 */
function coupleExpand(context: CouplingContext): void {
  const labels = context.labels(0) ?? tokenLabels(context);
  if (labels === undefined) return;
  const out = context.yShape(0);
  const target = context.partial(1)?.elements ?? elementsOf(context.constant(1));
  const axes = labelledAxes(labels);
  if (out === undefined || target === undefined || axes.length === 0) {
    context.freeze(labels.data, 'may be repeated along the axis of its channels');
    return;
  }
  const missing = out.length - labels.shape.length;
  const toTarget = out.length - target.length;
  // Axes of the target that state a size of their own; where it says 1 the input's size is taken.
  const stated = axes
    .map((axis) => axis + missing - toTarget)
    .filter((axis) => axis >= 0 && target[axis] !== 1);
  const isFollowing =
    stated.length === 0 ||
    rewriteSizes(
      context,
      1,
      stated,
      (pruned) => new Map(stated.map((at) => [at, pruned.kept(alongAxis(labels, at + toTarget - missing))])),
    );
  if (!isFollowing) {
    context.freeze(labels.data, 'is counted in a shape that cannot be rewritten');
    return;
  }
  context.produce(0, { shape: [...Array<number>(missing).fill(1), ...labels.shape], data: labels.data });
}

/**
 * New labels for a vector parameter whose repetition depends on the batch, or for one that holds several vectors (learnt
 * queries) where a matrix is to be multiplied by them; else there is nothing to prune.
 */
export function tokenLabels(context: CouplingContext): Labels | undefined {
  const x = context.constant(0);
  if (x === undefined || !x.dtype.startsWith('float') || context.constant(1) !== undefined) return undefined;
  const axes = x.shape.flatMap((size, at) => (size > 1 ? [at] : []));
  const axis = axes.at(-1);
  if (axis === undefined || context.yShape(0) === undefined) return undefined;
  const isRow = (node: Node) => node.opType === 'MatMul' && node.inputs[0] === context.node.outputs[0];
  if (axes.length > 1 && !(axis === x.shape.length - 1 && context.consumers(0).some(isRow))) return undefined;
  const data = context.fresh(x.shape[axis]!);
  context.bind(0, axis, data);
  return { shape: x.shape, data };
}

function elementsOf(tensor: Tensor | undefined): readonly Dim[] | undefined {
  return tensor && numbersOf(tensor);
}
