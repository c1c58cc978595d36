import { elementCount, type Tensor } from '../base/tensor.ts';
import type { Dim, Node } from '../graph/model.ts';
import { ShapeError } from './errors.ts';
import { MAX_COMPUTED_ELEMENTS, narrowed, operandAt } from './fold-element-wise.ts';
import type { ShapeContext } from './op.ts';
import type { PartialTensor } from './partial.ts';
import { keepsAxes, reduced, reducedAxes } from './reduced-axes.ts';

/** How a reduction computes: from `start`, step by step with each element, and the result from the last step and the count. */
export interface Reduction {
  readonly start: number;
  readonly step: (sum: number, element: number) => number;
  readonly finish?: (sum: number, count: number) => number;
}

/**
 * The value of a reduction of something known before running: sizes, of which some may have no number, and stored weights
 * (weight standardisation). Floats are summed in float64 and rounded once, which differs from an engine's sum by rounding.
 */
export function foldReduction(
  context: ShapeContext,
  reduction: Reduction,
): Tensor | PartialTensor | undefined {
  const { node } = context;
  const x = operandAt(context, 0);
  if (x === undefined || elementCount(x.shape) > MAX_COMPUTED_ELEMENTS) return undefined;
  const { shape, elements } = x;
  const isFloat = x.dtype.startsWith('float');
  if (!isFloat && reduction.finish !== undefined) return undefined; // What integers are rounded to is the engine's choice.
  const axes = reducedAxes(node, shape.length, context.constant(1));
  if (axes === undefined) return undefined;
  checkAxes(node, axes, shape.length);
  const ones = reduced(shape, axes, true);
  const results = new Array<number>(elementCount(ones)).fill(reduction.start);
  const isUnknown = new Set<number>();
  const position = placesOf(shape, axes, ones);
  for (let index = 0; index < elements.length; index++) {
    const at = position(index);
    const element = elements[index]!;
    if (typeof element === 'number') results[at] = reduction.step(results[at]!, element);
    else isUnknown.add(at);
  }
  const count = elements.length / results.length;
  const { finish = (sum: number) => sum } = reduction;
  const round = x.dtype === 'float32' ? Math.fround : (value: number) => value;
  return narrowed({
    dtype: x.dtype,
    shape: reduced(shape, axes, keepsAxes(node)),
    elements: results.map((sum, at): Dim => (isUnknown.has(at) ? null : round(finish(sum, count)))),
  });
}

/** Where in the result an element goes. */
function placesOf(
  shape: readonly number[],
  axes: readonly number[],
  ones: readonly number[],
): (index: number) => number {
  let [inner, stride] = [1, 1];
  const kept: { readonly inner: number; readonly size: number; readonly stride: number }[] = [];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (!axes.includes(axis)) kept.push({ inner, size: shape[axis]!, stride });
    inner *= shape[axis]!;
    stride *= ones[axis]!;
  }
  return (index) =>
    kept.reduce((at, axis) => at + (Math.floor(index / axis.inner) % axis.size) * axis.stride, 0);
}

/** @throws ShapeError for an axis that is not there */
export function checkAxes(node: Node, axes: readonly number[], rank: number): readonly number[] {
  if (axes.some((axis) => axis < 0 || axis >= rank)) {
    throw new ShapeError(node, 0, `has rank ${rank}, too few for the axes to reduce`);
  }
  return axes;
}
