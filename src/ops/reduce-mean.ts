import { elementCount } from '../base/tensor.ts';
import type { Dim } from '../graph/model.ts';
import { expand, reshape } from './emit.ts';
import { checkAxes, foldReduction } from './fold-reduction.ts';
import { isNormalisation } from './normalised.ts';
import { defineOp } from './op.ts';
import { keepsAxes, reduced, reducedAxes, writeReduction } from './reduced-axes.ts';

/** The mean over some axes (an attribute before opset 18, an input since), which stay with size 1 if `keepdims`. */
export const ReduceMean = defineOp({
  schema: { name: 'ReduceMean', since: [1, 11, 13, 18], inputs: [1, 2], outputs: [1, 1] },
  shape({ node, inputs: [x], constant }) {
    const dtype = x?.dtype ?? 'float32';
    if (x?.shape === undefined) return [{ dtype }];
    const { shape } = x;
    const axes = reducedAxes(node, shape.length, constant(1));
    if (axes === undefined) return [{ dtype }];
    return [{ dtype, shape: reduced<Dim>(shape, checkAxes(node, axes, shape.length), keepsAxes(node)) }];
  },
  gradient(context) {
    const {
      build,
      node,
      dy: [dy],
    } = context;
    if (dy === undefined || !context.needs(0)) return [];
    const shape = context.xShape(0);
    const axes = reducedAxes(node, shape.length, context.constant(1)) ?? [];
    const kept = shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
    const aligned = keepsAxes(node) ? dy : reshape(build, dy, kept);
    const count = elementCount(axes.map((axis) => shape[axis]!));
    return [expand(build, build.op('Mul', [aligned, build.scalar(1 / count)]), shape)];
  },
  training: (context) => writeReduction('ReduceMean', context),
  coupling(context) {
    const { node } = context;
    const labels = context.labels(0);
    if (labels === undefined) return;
    const axes = reducedAxes(node, labels.shape.length, context.constant(1));
    if (axes?.every((axis) => labels.shape[axis] === 1)) {
      context.produce(0, { shape: reduced(labels.shape, axes, keepsAxes(node)), data: labels.data });
    } else if (keepsAxes(node) && isNormalisation(context)) {
      context.inexact(labels.data, 'ReduceMean normalises over these channels');
    } else context.freeze(labels.data, 'ReduceMean averages over these channels');
  },
  fold: (context) =>
    foldReduction(context, { start: 0, step: (a, b) => a + b, finish: (sum, count) => sum / count }),
});
