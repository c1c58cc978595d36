import { byteLengthOf, type DType } from './dtype.ts';
import { BonsaiError } from './errors.ts';

/** The typed array that holds the elements of each dtype; 16-bit floats travel as their raw bits. */
export interface TypedArrays {
  float32: Float32Array;
  float64: Float64Array;
  int8: Int8Array;
  uint8: Uint8Array;
  int16: Int16Array;
  uint16: Uint16Array;
  int32: Int32Array;
  uint32: Uint32Array;
  int64: BigInt64Array;
  uint64: BigUint64Array;
  bool: Uint8Array;
  float16: Uint16Array;
  bfloat16: Uint16Array;
}

export type NumericDType = keyof TypedArrays;
export type TypedArray = TypedArrays[NumericDType];

/**
 * A dense tensor, row-major. `bytes` are little-endian and hold exactly the elements; tensors of strings
 * keep their elements (UTF-8 bytes) in `strings` instead and have empty `bytes`.
 * Tensors are immutable by convention: nobody writes into `bytes` of a tensor made by somebody else.
 */
export interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
  readonly strings?: readonly Uint8Array[];
}

interface ArrayConstructor<A> {
  new (buffer: ArrayBuffer, offset: number, length: number): A;
  readonly BYTES_PER_ELEMENT: number;
}

const CONSTRUCTORS = {
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
} satisfies { [D in NumericDType]: ArrayConstructor<TypedArrays[D]> };

/** The product of the sizes; 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (const size of shape) count *= size;
  return count;
}

/** A tensor over the memory of `data` (not copied). @throws BonsaiError `shape_mismatch` if the counts differ. */
export function tensorOf<D extends NumericDType>(
  dtype: D,
  shape: readonly number[],
  data: TypedArrays[D],
): Tensor {
  if (data.length !== elementCount(shape)) {
    throw new BonsaiError(
      'shape_mismatch',
      `A ${dtype} tensor of shape [${shape.join(', ')}] needs ${elementCount(shape)} elements, got ${data.length}.`,
    );
  }
  return { dtype, shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
}

export function float32Tensor(shape: readonly number[], data: Float32Array | readonly number[]): Tensor {
  return tensorOf('float32', shape, data instanceof Float32Array ? data : Float32Array.from(data));
}

/** An int64 tensor from plain numbers; a vector unless a shape is given. */
export function int64Tensor(values: readonly number[], shape: readonly number[] = [values.length]): Tensor {
  return tensorOf('int64', shape, BigInt64Array.from(values, BigInt));
}

/** A float32 scalar (shape []). */
export function scalarTensor(value: number): Tensor {
  return float32Tensor([], [value]);
}

/**
 * The elements of a tensor as its typed array: a view where alignment allows, else a copy.
 * @throws BonsaiError `unsupported` for strings and sub-byte or exotic types.
 */
export function elementsOf<D extends NumericDType>(tensor: Tensor & { dtype: D }): TypedArrays[D];
export function elementsOf(tensor: Tensor): TypedArray;
export function elementsOf(tensor: Tensor): TypedArray {
  if (!isNumeric(tensor.dtype)) {
    throw new BonsaiError('unsupported', `Elements of dtype ${tensor.dtype} have no typed array.`);
  }
  const Elements = CONSTRUCTORS[tensor.dtype];
  const { bytes } = tensor;
  const aligned = bytes.byteOffset % Elements.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  return new Elements(
    aligned.buffer as ArrayBuffer,
    aligned.byteOffset,
    aligned.byteLength / Elements.BYTES_PER_ELEMENT,
  );
}

/** The elements of a float32 tensor. @throws BonsaiError `unsupported` for another dtype. */
export function floatsOf(tensor: Tensor): Float32Array {
  if (tensor.dtype !== 'float32') {
    throw new BonsaiError('unsupported', `Expected a float32 tensor, got ${tensor.dtype}.`);
  }
  return elementsOf(tensor) as Float32Array; // Its dtype was just checked.
}

/** The elements as plain numbers, whatever integer or float type they have (64-bit ones lose exactness over 2^53). */
export function numbersOf(tensor: Tensor): number[] {
  return Array.from(elementsOf(tensor) as ArrayLike<number | bigint>, Number);
}

export function isNumeric(dtype: DType): dtype is NumericDType {
  return dtype in CONSTRUCTORS;
}

/** Whether `bytes` has just the length that dtype and shape ask for (strings: whether the count agrees). */
export function hasConsistentSize(tensor: Tensor): boolean {
  const count = elementCount(tensor.shape);
  return tensor.dtype === 'string'
    ? tensor.strings?.length === count
    : tensor.bytes.byteLength === byteLengthOf(tensor.dtype, count);
}
