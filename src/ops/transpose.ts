import { intsAttribute } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';
import { requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { transposeLabels } from './label-tensor.ts';
import { defineOp } from './op.ts';
import { elementsAt } from './partial.ts';
import { stridesOf, walked, walkedElements } from './strided.ts';

/** Axis i of the output is axis perm[i] of the input; without `perm` the axes are reversed. */
export const Transpose = defineOp({
  schema: { name: 'Transpose', since: [1, 13, 21], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const { dtype, shape } = requiredType(node, inputs, 0);
    const rank = shape?.length ?? intsAttribute(node, 'perm')?.length;
    if (rank === undefined) return [{ dtype }];
    return [{ dtype, shape: orderOf(node, rank).map((axis) => shape?.[axis] ?? null) }];
  },
  gradient: ({ node, build, dy, needs, xShape }) => {
    const order = orderOf(node, xShape(0).length);
    const inverse = order.map((_, axis) => order.indexOf(axis));
    return [needs(0) ? build.op('Transpose', [dy[0]], { perm: inverse }) : undefined];
  },
  coupling: (context) => {
    const labels = context.labels(0);
    if (labels === undefined) return;
    context.produce(0, transposeLabels(labels, orderOf(context.node, labels.shape.length)));
  },
  fold: (context) => {
    const x = context.constant(0);
    const partial = x === undefined ? elementsAt(context, 0) : undefined;
    const { shape } = x ?? partial ?? {};
    if (shape === undefined) return undefined;
    const order = orderOf(context.node, shape.length);
    const strides = stridesOf(shape);
    const walk = { shape: order.map((axis) => shape[axis]!), strides: order.map((axis) => strides[axis]!) };
    return x === undefined ? walkedElements(partial!, walk) : walked(x, walk);
  },
});

function orderOf(node: Node, rank: number): readonly number[] {
  const order = intsAttribute(node, 'perm') ?? Array.from({ length: rank }, (_, axis) => rank - 1 - axis);
  if ([...order].sort((a, b) => a - b).join() !== Array.from({ length: rank }, (_, axis) => axis).join()) {
    throw new ShapeError(node, 0, `has rank ${rank}, of which perm [${order.join(', ')}] is no permutation`);
  }
  return order;
}
