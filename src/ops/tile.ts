import type { Dim } from '../graph/model.ts';
import { knownShape, mergedDim, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { tokenLabels } from './expand.ts';
import { concatLabels, labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp, type ShapeContext } from './op.ts';
import { elementsAt } from './partial.ts';
import { stridesOf, walked } from './strided.ts';

/** The whole value repeated along each axis as often as the second input says. */
export const Tile = defineOp({
  schema: { name: 'Tile', since: [1, 6, 13], inputs: [2, 3], outputs: [1, 1] },
  shape: (context) => {
    const { dtype, shape } = requiredType(context.node, context.inputs, 0);
    if (shape === undefined) return [{ dtype }];
    const repeats = repeatsOf(context, shape.length);
    if (repeats === undefined) return [{ dtype, shape: shape.map(() => null) }];
    return [{ dtype, shape: shape.map((size, axis) => mergedDim([size, repeats[axis]!])) }];
  },
  gradient: ({ build, dy, needs, xShape, yShape }) => {
    if (!needs(0) || dy[0] === undefined) return [];
    // Each axis in two: which repetition, and where in it.
    const size = xShape(0);
    const parts = size.flatMap((length, axis) => [yShape(0)[axis]! / length, length]);
    const split = build.op('Reshape', [dy[0], build.ints(parts)]);
    const axes = build.ints(size.map((_, axis) => 2 * axis));
    return [build.op('ReduceSum', [split, axes], { keepdims: 0 })];
  },
  coupling: coupleTile,
  fold: (context) => {
    const x = context.constant(0);
    const repeats = x && knownShape(repeatsOf(context, x.shape.length));
    if (x === undefined || repeats === undefined) return undefined;
    const strides = stridesOf(x.shape);
    const tiled = walked(x, {
      shape: x.shape.flatMap((size, axis) => [repeats[axis]!, size]),
      strides: strides.flatMap((stride) => [0, stride]),
    });
    return tiled && { ...tiled, shape: x.shape.map((size, axis) => size * repeats[axis]!) };
  },
});

/** Before version 6 the operator took a number and an axis, which no exporter of today writes. */
function repeatsOf(context: ShapeContext, rank: number): readonly Dim[] | undefined {
  const repeats = context.opset < 6 ? undefined : elementsAt(context, 1)?.elements;
  if (repeats !== undefined && repeats.length !== rank) {
    throw new ShapeError(context.node, 1, `has ${repeats.length} counts for an input of rank ${rank}`);
  }
  return repeats;
}

/**
 * A channel that is repeated lives and dies in all its places; the counts of repetitions stay. A parameter that is
 * repeated over the batch (a class token) makes channels of its own.
 */
function coupleTile(context: CouplingContext): void {
  const labels = context.labels(0) ?? tokenLabels(context);
  if (labels === undefined) return;
  const repeats = repeatsOf({ ...context, inputs: [] }, labels.shape.length);
  const axes = labelledAxes(labels);
  const counts = axes.map((axis) => repeats?.[axis]);
  if (axes.length === 0 || !counts.every((count) => typeof count === 'number')) {
    context.freeze(labels.data, 'is repeated in a way that is not known');
    return;
  }
  let tiled = labels;
  for (const [i, axis] of axes.entries()) tiled = concatLabels(Array(counts[i]!).fill(tiled), axis);
  context.produce(0, tiled);
}
