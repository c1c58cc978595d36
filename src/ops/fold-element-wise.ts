import type { DType } from '../base/dtype.ts';
import { isHalf } from '../base/half.ts';
import { elementCount, elementsOf, isNumeric, numbersOf, type Tensor } from '../base/tensor.ts';
import type { Dim } from '../graph/model.ts';
import { broadcastShapes, knownShape } from './dims.ts';
import type { ShapeContext } from './op.ts';
import { completed, elementsAt, MAX_FOLDED_ELEMENTS, type PartialTensor } from './partial.ts';
import { broadcastStrides, walkOf } from './strided.ts';

/** A value of an element-wise function; null: not known. Sizes that have only a name come in as strings. */
export type ElementFunction = (a: Dim, b: Dim, c: Dim, isInteger: boolean) => Dim;

/**
 * Element-wise functions of stored tensors are computed up to this many elements: 2^22 take a fraction of a second
 * here, and hold every kernel that exporters wrap in arithmetic (weight normalisation, standardisation).
 */
export const MAX_COMPUTED_ELEMENTS = 2 ** 22;

/**
 * The value of an element-wise operator with up to three broadcasting operands that are known before running, at least
 * in part. The functions compute in float64; what they give is rounded to the dtype, as the engine does.
 * @param dtype of the result; default: that of the first operand
 */
export function foldElementWise(
  context: ShapeContext,
  compute: ElementFunction,
  dtype?: DType,
): Tensor | PartialTensor | undefined {
  const operands: Operand[] = [];
  for (let input = 0; input < context.node.inputs.length; input++) {
    const operand = operandAt(context, input);
    if (operand === undefined) return undefined;
    operands.push(operand);
  }
  const result = combined(context, operands, compute, dtype ?? operands[0]!.dtype);
  return result && narrowed(result);
}

/** An operator of any number of operands, two at a time from the left. */
export function foldVariadic(
  context: ShapeContext,
  compute: ElementFunction,
): Tensor | PartialTensor | undefined {
  let result: Operand | undefined = operandAt(context, 0);
  for (let input = 1; input < context.node.inputs.length; input++) {
    const next = operandAt(context, input);
    if (result === undefined || next === undefined) return undefined;
    result = combined(context, [result, next], compute, result.dtype);
  }
  return result && narrowed({ ...result, elements: Array.from(result.elements) });
}

/** A tensor of which some elements are known, over whatever memory holds them. */
export interface Operand {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly elements: ArrayLike<Dim>;
}

function combined(
  context: ShapeContext,
  operands: readonly Operand[],
  compute: ElementFunction,
  dtype: DType,
): PartialTensor | undefined {
  const shapes = operands.map((operand) => operand.shape);
  const shape = knownShape(broadcastShapes(context.node, shapes));
  if (shape === undefined || elementCount(shape) > MAX_COMPUTED_ELEMENTS) return undefined;
  const isInteger = !operands.at(-1)!.dtype.startsWith('float');
  const rounded = roundingOf(dtype);
  const [a, b, c] = [0, 1, 2].map((at) => readerOf(operands[at], shape));
  const elements = Array.from({ length: elementCount(shape) }, (_, i): Dim => {
    const value = compute(a!(i), b!(i), c!(i), isInteger);
    return typeof value === 'number' ? rounded(value) : value;
  });
  return { dtype, shape, elements };
}

/** Reads an operand in the order of the result that it is broadcast to; called once for each element, in order. */
function readerOf(operand: Operand | undefined, shape: readonly number[]): (i: number) => Dim {
  if (operand === undefined) return () => null;
  const { elements } = operand;
  if (elements.length === 1) {
    const only = elements[0]!;
    return () => only;
  }
  if (elements.length === elementCount(shape)) return (i) => elements[i]!;
  const walk = walkOf({ shape, strides: broadcastStrides(operand.shape, shape) });
  return () => elements[walk.next().value as number]!; // There are as many steps as calls.
}

/** The tensor where all of it is known; else what is known of it, where it is small enough to be worth carrying. */
export function narrowed(value: PartialTensor): Tensor | PartialTensor | undefined {
  return completed(value) ?? (value.elements.length <= MAX_FOLDED_ELEMENTS ? value : undefined);
}

/** What is known of an input's elements: all of a stored tensor that is not too large, some of a small one. */
export function operandAt(context: ShapeContext, input: number): Operand | undefined {
  const small = elementsAt(context, input);
  if (small !== undefined) return small;
  const tensor = context.constant(input);
  if (tensor === undefined || !isNumeric(tensor.dtype) || isHalf(tensor.dtype)) return undefined;
  if (elementCount(tensor.shape) > MAX_COMPUTED_ELEMENTS) return undefined;
  const elements = tensor.dtype === 'float32' ? (elementsOf(tensor) as Float32Array) : numbersOf(tensor); // Its dtype was just compared.
  return { dtype: tensor.dtype, shape: tensor.shape, elements };
}

/** What an exact number becomes in the dtype; integers that float64 does not hold exactly are not known. */
function roundingOf(dtype: DType): (value: number) => Dim {
  if (dtype === 'float32') return Math.fround;
  if (dtype === 'float64') return (value) => value;
  return (value) => (Number.isSafeInteger(value) ? value : null);
}
