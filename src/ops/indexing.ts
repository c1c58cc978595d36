import { intAttribute, stringAttribute } from '../graph/attributes.ts';
import type { Dim } from '../graph/model.ts';
import { axisOf, requiredType } from './dims.ts';
import { expand } from './emit.ts';
import { MissingRuleError } from './errors.ts';
import { defineOp, type GradientContext } from './op.ts';
import { elementsAt, integersAt, MAX_FOLDED_ELEMENTS } from './partial.ts';

/*
 * Operators that pick or place elements by computed positions. They have no coupling rule: a position may lie anywhere,
 * so channels that reach them stay.
 */

/** One element of the data for each index: the index replaces the position on one axis. */
export const GatherElements = defineOp({
  schema: { name: 'GatherElements', since: [11, 13], inputs: [2, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const { dtype } = requiredType(node, inputs, 0);
    return [{ dtype, shape: requiredType(node, inputs, 1).shape }];
  },
  // Gradients of elements that were taken several times add up.
  gradient: ({ node, build, dy, needs, x, xShape }) => {
    if (!needs(0)) return [];
    const axis = axisOf(node, intAttribute(node, 'axis', 0), xShape(0).length);
    const zeros = expand(build, build.scalar(0), xShape(0));
    return [build.op('ScatterElements', [zeros, x(1), dy[0]], { axis, reduction: 'add' })];
  },
});

/** Slices of the data at positions given by the vectors in the last axis of the indices. */
export const GatherND = defineOp({
  schema: { name: 'GatherND', since: [11, 12, 13], inputs: [2, 2], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const { dtype, shape } = requiredType(node, inputs, 0);
    const indices = requiredType(node, inputs, 1).shape;
    const depth = indices?.at(-1);
    if (shape === undefined || indices === undefined || typeof depth !== 'number') return [{ dtype }];
    const batch = intAttribute(node, 'batch_dims', 0);
    return [{ dtype, shape: [...indices.slice(0, -1), ...shape.slice(batch + depth)] }];
  },
});

export const ScatterElements = defineOp({
  schema: { name: 'ScatterElements', since: [11, 13, 16, 18], inputs: [3, 3], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  gradient: (context) => {
    const axis = axisOf(context.node, intAttribute(context.node, 'axis', 0), context.xShape(0).length);
    return overwritten(context, {
      scatter: 'ScatterElements',
      gather: 'GatherElements',
      attributes: { axis },
    });
  },
});

export const ScatterND = defineOp({
  schema: { name: 'ScatterND', since: [11, 13, 16, 18], inputs: [3, 3], outputs: [1, 1] },
  shape: ({ node, inputs }) => [requiredType(node, inputs, 0)],
  gradient: (context) => overwritten(context, { scatter: 'ScatterND', gather: 'GatherND', attributes: {} }),
});

/** What was overwritten has no gradient, what was written has that of its place. @throws MissingRuleError for other reductions */
function overwritten(
  context: GradientContext,
  form: { scatter: string; gather: string; attributes: Readonly<Record<string, number>> },
): (string | undefined)[] {
  const { node, build, dy, needs, x, xShape } = context;
  if (stringAttribute(node, 'reduction', 'none') !== 'none')
    throw new MissingRuleError(node, 'for this reduction');
  const zeros = () => expand(build, build.scalar(0), xShape(2));
  return [
    needs(0) ? build.op(form.scatter, [dy[0], x(1), zeros()], form.attributes) : undefined,
    undefined,
    needs(2) ? build.op(form.gather, [dy[0], x(1)], form.attributes) : undefined,
  ];
}

/** A new axis of `depth` positions, `on` at the index and `off` elsewhere. */
export const OneHot = defineOp({
  schema: { name: 'OneHot', since: [9, 11], inputs: [3, 3], outputs: [1, 1] },
  shape: (context) => {
    const { node, inputs } = context;
    const { dtype } = requiredType(node, inputs, 2);
    const { shape } = requiredType(node, inputs, 0);
    if (shape === undefined) return [{ dtype }];
    const axis = axisOf(node, intAttribute(node, 'axis', -1), shape.length + 1);
    return [{ dtype, shape: shape.toSpliced(axis, 0, integersAt(context, 1)?.[0] ?? null) }];
  },
});

/** Positions of the elements that are not 0, one column each: how many there are is known only for known values. */
export const NonZero = defineOp({
  schema: { name: 'NonZero', since: [9, 13], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const rank = requiredType(node, inputs, 0).shape?.length;
    return [{ dtype: 'int64', shape: rank === undefined ? undefined : [rank, null] }];
  },
  fold: (context) => {
    const x = elementsAt(context, 0);
    if (x === undefined || x.elements.length * x.shape.length > MAX_FOLDED_ELEMENTS) return undefined;
    if (!x.elements.every((element) => typeof element === 'number')) return undefined;
    const found = x.elements.flatMap((element, at) => (element === 0 ? [] : [positionOf(at, x.shape)]));
    const elements: Dim[] = x.shape.flatMap((_, axis) => found.map((position) => position[axis]!));
    return { dtype: 'int64', shape: [x.shape.length, found.length], elements };
  },
});

function positionOf(index: number, shape: readonly number[]): number[] {
  let rest = index;
  return shape
    .toReversed()
    .map((size) => {
      const at = rest % size;
      rest = (rest - at) / size;
      return at;
    })
    .reverse();
}
