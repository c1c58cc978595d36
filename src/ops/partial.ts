import type { DType } from '../base/dtype.ts';
import { isHalf } from '../base/half.ts';
import { elementCount, isNumeric, numbersOf, type Tensor, tensorOf } from '../base/tensor.ts';
import type { Dim } from '../graph/model.ts';
import type { ShapeContext } from './op.ts';

/**
 * A small tensor of which some elements are known, as the shape arithmetic of exported networks makes them:
 * Shape of [N, 64, 7, 7] has the elements ['N', 64, 7, 7]. A string is a size that has only a name, null is unknown.
 */
export interface PartialTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly elements: readonly Dim[];
}

/** Shape arithmetic works on ranks and sizes; whatever is larger is data and not worth evaluating element by element. */
export const MAX_FOLDED_ELEMENTS = 1024;

/** What is known of an input's elements before running, or undefined where that is nothing (or too much). */
export function elementsAt(context: ShapeContext, input: number): PartialTensor | undefined {
  const partial = context.partial?.(input);
  if (partial !== undefined) return partial;
  const tensor = context.constant(input);
  return tensor === undefined ? undefined : partialOf(tensor);
}

/** The elements of a vector or scalar input as plain numbers, where all of them are known. */
export function integersAt(context: ShapeContext, input: number): readonly number[] | undefined {
  const elements = elementsAt(context, input)?.elements;
  return elements?.every((element) => typeof element === 'number') ? elements : undefined;
}

export function partialOf(tensor: Tensor): PartialTensor | undefined {
  if (!isNumeric(tensor.dtype) || isHalf(tensor.dtype)) return undefined;
  if (elementCount(tensor.shape) > MAX_FOLDED_ELEMENTS) return undefined;
  return { dtype: tensor.dtype, shape: tensor.shape, elements: numbersOf(tensor) };
}

/** The tensor, where every element is known. */
export function completed(partial: PartialTensor): Tensor | undefined {
  const numbers: number[] = [];
  for (const element of partial.elements) {
    if (typeof element !== 'number') return undefined;
    numbers.push(element);
  }
  switch (partial.dtype) {
    case 'int64':
      return tensorOf('int64', partial.shape, BigInt64Array.from(numbers, toInt64));
    case 'int32':
      return tensorOf('int32', partial.shape, Int32Array.from(numbers));
    case 'float32':
      return tensorOf('float32', partial.shape, Float32Array.from(numbers));
    case 'float64':
      return tensorOf('float64', partial.shape, Float64Array.from(numbers));
    case 'bool':
      return tensorOf('bool', partial.shape, Uint8Array.from(numbers));
    default:
      return undefined;
  }
}

/** Numbers hold int64 exactly up to 2^53; "to the end" is INT64_MAX, which rounds to 2^63 and is brought back here. */
function toInt64(value: number): bigint {
  const top = 2n ** 63n;
  const exact = BigInt(value);
  return exact >= top ? top - 1n : exact < -top ? -top : exact;
}
