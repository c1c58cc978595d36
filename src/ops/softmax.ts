import { intAttribute } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';
import { reduceSum } from './emit.ts';
import { ShapeError } from './errors.ts';
import { type CouplingContext, defineOp, type ShapeContext } from './op.ts';

/** y = exp(x) / Σ exp(x) over the axis (before opset 13: over the axis and all that follow). */
export const Softmax = defineOp({
  schema: { name: 'Softmax', since: [1, 11, 13], inputs: [1, 1], outputs: [1, 1] },
  shape: same,
  gradient(context) {
    const {
      build,
      node,
      opset,
      dy: [dy],
    } = context;
    if (dy === undefined || !context.needs(0)) return [];
    const y = context.y(0);
    // dx = y · (dy − Σ dy·y).
    const axes = normalisedAxes(node, opset, context.xShape(0).length);
    const mean = reduceSum(build, build.op('Mul', [dy, y]), axes, true);
    return [build.op('Mul', [y, build.op('Sub', [dy, mean])])];
  },
  coupling: freezeNormalised,
});

/** y = x − log Σ exp(x) over the same axes. */
export const LogSoftmax = defineOp({
  schema: { name: 'LogSoftmax', since: [1, 11, 13], inputs: [1, 1], outputs: [1, 1] },
  shape: same,
  gradient(context) {
    const {
      build,
      node,
      opset,
      dy: [dy],
    } = context;
    if (dy === undefined || !context.needs(0)) return [];
    // dx = dy − exp(y) · Σ dy.
    const total = reduceSum(build, dy, normalisedAxes(node, opset, context.xShape(0).length), true);
    return [build.op('Sub', [dy, build.op('Mul', [build.op('Exp', [context.y(0)]), total])])];
  },
  coupling: freezeNormalised,
});

function same({ node, opset, inputs: [x] }: ShapeContext) {
  const rank = x?.shape?.length;
  // A rank-independent check: `axis` must name an axis.
  if (rank !== undefined) {
    const axis = intAttribute(node, 'axis', opset < 13 ? 1 : -1);
    if (axis < -rank || axis > (opset < 13 ? rank : rank - 1)) {
      throw new ShapeError(node, 0, `has rank ${rank}, which has no axis ${axis}`);
    }
  }
  return [{ dtype: x?.dtype ?? ('float32' as const), shape: x?.shape }];
}

function normalisedAxes(node: Node, opset: number, rank: number): number[] {
  const axis = intAttribute(node, 'axis', opset < 13 ? 1 : -1);
  const first = axis < 0 ? axis + rank : axis;
  return opset < 13 ? Array.from({ length: rank - first }, (_, i) => first + i) : [first];
}

/** A channel that goes changes the sum that all others are divided by. */
function freezeNormalised(context: CouplingContext): void {
  const labels = context.labels(0);
  if (labels === undefined) return;
  const axes = normalisedAxes(context.node, context.opset, labels.shape.length);
  if (axes.every((axis) => labels.shape[axis] === 1)) context.produce(0, labels);
  else context.freeze(labels.data, `${context.node.opType} normalises over these channels`);
}
