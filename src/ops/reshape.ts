import { elementCount, int64Tensor, numbersOf } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { Dim, Node, Shape } from '../graph/model.ts';
import { uniteLabels } from './broadcast.ts';
import { describeShape, productOf, requiredType } from './dims.ts';
import { ShapeError } from './errors.ts';
import { contractLabels, expandLabels, labelledAxes, sliceLabels } from './label-tensor.ts';
import { type CouplingContext, defineOp, type Labels } from './op.ts';
import { elementsAt } from './partial.ts';

export const Reshape = defineOp({
  schema: { name: 'Reshape', since: [1, 5, 13, 14, 19, 21], inputs: [1, 2], outputs: [1, 1] },
  shape: (context) => {
    const { node, inputs } = context;
    const { dtype, shape } = requiredType(node, inputs, 0);
    const target = elementsAt(context, 1)?.elements;
    if (target !== undefined) return [{ dtype, shape: reshaped(node, shape, target) }];
    // The rank is known even where the sizes are computed at run time: it is the length of the target vector.
    const rank = inputs[1]?.shape?.[0];
    return [{ dtype, shape: typeof rank === 'number' ? Array<Dim>(rank).fill(null) : undefined }];
  },
  gradient: ({ build, dy, needs, xShape }) => [
    needs(0) ? build.op('Reshape', [dy[0], build.ints(xShape(0))]) : undefined,
  ],
  coupling: (context) => {
    const out = coupleReshape(context);
    if (out === undefined) return;
    const target = context.constant(1);
    if (target === undefined || out.data.length === 1) return;
    const values = numbersOf(target);
    const axes = labelledAxes(out).filter((axis) => values[axis]! > 0);
    if (axes.length === 0) return; // -1 and 0 follow the input by themselves.
    if (!context.isParameter(1)) {
      context.freeze(out.data, 'is counted in a shape that the graph computes');
      return;
    }
    context.rewrite((pruned) => {
      const sizes = [...values];
      for (const axis of axes) sizes[axis] = pruned.kept(alongAxis(out, axis));
      return { constants: new Map([[1, int64Tensor(sizes)]]) };
    });
  },
  fold: (context) => {
    const data = context.constant(0);
    const partial = data === undefined ? elementsAt(context, 0) : undefined;
    const target = elementsAt(context, 1)?.elements;
    const source = data?.shape ?? partial?.shape;
    if (target === undefined || source === undefined) return undefined;
    const shape = reshaped(context.node, source, target);
    if (!shape.every((size) => typeof size === 'number')) return undefined;
    return data !== undefined ? { ...data, shape } : { ...partial!, shape };
  },
});

/**
 * The output's shape for a target in ONNX's notation: 0 copies the input's size (unless `allowzero`), -1 is what
 * remains. [N, 64, 7, 7] to [0, -1] gives [N, 3136]; to ['N', 64, 49] gives [N, 64, 49].
 */
function reshaped(node: Node, input: Shape | undefined, target: readonly Dim[]): Shape {
  const copiesZero = intAttribute(node, 'allowzero', 0) === 0;
  const sizes: Dim[] = target.map((size, axis) => {
    if (size !== 0 || !copiesZero) return size;
    if (input !== undefined && axis >= input.length) {
      throw new ShapeError(node, 1, `copies axis ${axis} of an input of rank ${input.length}`);
    }
    return input?.[axis] ?? null;
  });
  const open = sizes.indexOf(-1);
  const from = input && productOf(input);
  const to = productOf(sizes.filter((_, axis) => axis !== open));
  if (from === undefined || to === undefined) {
    return open < 0 ? sizes : sizes.with(open, null);
  }
  const names = [...from.names];
  const foreign = to.names.filter((name) => {
    const at = names.indexOf(name);
    if (at >= 0) names.splice(at, 1);
    return at < 0;
  });
  const isKnown = names.length === 0 && foreign.length === 0;
  const mismatch = () =>
    new ShapeError(
      node,
      0,
      `of shape ${describeShape(input!)} cannot be reshaped to ${describeShape(target)}`,
    );
  if (open < 0) {
    if (isKnown && from.count !== to.count) throw mismatch();
    return sizes;
  }
  if (to.count === 0) return sizes.with(open, null);
  const rest = from.count / to.count;
  if (isKnown) {
    if (!Number.isInteger(rest)) throw mismatch();
    return sizes.with(open, rest);
  }
  return sizes.with(open, foreign.length === 0 && names.length === 1 && rest === 1 ? names[0]! : null);
}

/**
 * Coupling of an operator that keeps the elements in order and changes the axes: labels are filled to all sizes,
 * reshaped, and reduced again. Where an axis of channels is split ([N, C] to [N, g, C/g]) the result must stay
 * rectangular, so the parts are united: each loses the same positions.
 * @returns the output's labels, undefined where there are none
 */
export function coupleReshape(context: CouplingContext): Labels | undefined {
  const labels = context.labels(0);
  if (labels === undefined) return undefined;
  const from = context.xShape(0);
  const to = context.yShape(0);
  const once = from && to && reshapeLabels(labels, from, to, 1);
  // Sizes without a number (the batch) may be anything: the labels must come out the same for two of them.
  const twice = from && to && reshapeLabels(labels, from, to, 2);
  if (once === undefined || twice === undefined || !isSame(once, twice)) {
    context.freeze(labels.data, 'is reshaped in a way that mixes channels with sizes unknown here');
    return undefined;
  }
  const out = rectangular(context, once);
  context.produce(0, out);
  return out;
}

/** @param unnamed the number to take for every size that is not a number */
function reshapeLabels(labels: Labels, from: Shape, to: Shape, unnamed: number): Labels | undefined {
  const numberOf = (size: Dim) => (typeof size === 'number' ? size : unnamed);
  const filled = expandLabels(labels, from.map(numberOf));
  if (filled === undefined) return undefined;
  const shape = to.map(numberOf);
  const open = to.indexOf(null);
  if (open >= 0) {
    shape[open] = 1;
    shape[open] = filled.data.length / elementCount(shape);
  }
  if (elementCount(shape) !== filled.data.length) return undefined;
  return contractLabels({ shape, data: filled.data });
}

/** Unites along all labelled axes but the last, so that the same positions go everywhere. */
function rectangular(context: CouplingContext, labels: Labels): Labels {
  let result = labels;
  for (const axis of labelledAxes(labels).slice(0, -1)) {
    let first = sliceLabels(result, axis, 0, 1);
    for (let i = 1; i < result.shape[axis]!; i++) {
      first = uniteLabels(context, first, sliceLabels(result, axis, i, i + 1));
    }
    result = first;
  }
  return result;
}

function alongAxis(labels: Labels, axis: number): Int32Array {
  let result = labels;
  for (let other = 0; other < labels.shape.length; other++) {
    if (other !== axis) result = sliceLabels(result, other, 0, 1);
  }
  return result.data;
}

function isSame(a: Labels, b: Labels): boolean {
  return a.shape.join() === b.shape.join() && a.data.every((label, i) => label === b.data[i]);
}
