import { BITS_PER_ELEMENT } from '../base/dtype.ts';
import { elementCount, type Tensor } from '../base/tensor.ts';
import type { PartialTensor } from './partial.ts';

/**
 * Tensors that are known before running are re-arranged up to this many elements; larger ones are left to the engine.
 * 2^24 elements hold every kernel of common networks and all of their embeddings.
 */
export const MAX_DATA_ELEMENTS = 2 ** 24;

/** A walk over the elements of a row-major tensor: how far each axis steps, and where the first element lies. */
export interface Walk {
  readonly shape: readonly number[];
  /** In elements, one for each axis; 0 repeats, negative goes backwards. */
  readonly strides: readonly number[];
  readonly offset?: number;
}

/**
 * The elements that a walk visits, as a tensor of the walk's shape. Undefined where that would be too large
 * (`MAX_DATA_ELEMENTS`), or where elements share bytes.
 */
export function walked(tensor: Tensor, walk: Walk): Tensor | undefined {
  const { shape } = walk;
  const size = BITS_PER_ELEMENT[tensor.dtype] / 8;
  const count = elementCount(shape);
  if (size < 1 || count > MAX_DATA_ELEMENTS) return undefined;
  const bytes = new Uint8Array(count * size);
  // Whole words where the type and the memory allow: kernels are float32 nearly always.
  const isWords = size === 4 && tensor.bytes.byteOffset % 4 === 0;
  if (isWords) {
    const { buffer, byteOffset, byteLength } = tensor.bytes;
    copy(new Uint32Array(buffer, byteOffset, byteLength / 4), new Uint32Array(bytes.buffer), walk, 1);
  } else copy(tensor.bytes, bytes, walk, size);
  return { dtype: tensor.dtype, shape, bytes };
}

/** @param size how many entries of the arrays make an element */
function copy<A extends Uint8Array | Uint32Array>(from: A, to: A, walk: Walk, size: number): void {
  const { shape, strides, offset = 0 } = walk;
  const last = shape.length - 1;
  const row = last < 0 ? 1 : shape[last]!;
  const step = last < 0 ? 0 : strides[last]! * size;
  let at = 0;
  for (const start of walkOf({ shape: shape.slice(0, -1), strides: strides.slice(0, -1), offset })) {
    for (let i = 0, source = start * size; i < row; i++, source += step) {
      for (let part = 0; part < size; part++) to[at++] = from[source + part]!;
    }
  }
}

/** What a walk visits of a small tensor that is known in part. */
export function walkedElements(value: PartialTensor, walk: Walk): PartialTensor {
  return { ...value, shape: walk.shape, elements: Array.from(walkOf(walk), (at) => value.elements[at]!) };
}

/** The positions in the source of the elements that a walk visits, in order. */
export function* walkOf({ shape, strides, offset = 0 }: Walk): Generator<number> {
  const count = elementCount(shape);
  const position = new Array<number>(shape.length).fill(0);
  let from = offset;
  for (let at = 0; at < count; at++) {
    yield from;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++position[axis]! < shape[axis]!) break;
      from -= strides[axis]! * shape[axis]!;
      position[axis] = 0;
    }
  }
}

/** Steps of the axes of a row-major tensor. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis]!;
  }
  return strides;
}

/** Steps through an operand of shape `from` as it is broadcast, right-aligned, to `to`. */
export function broadcastStrides(from: readonly number[], to: readonly number[]): number[] {
  const missing = to.length - from.length;
  const strides = stridesOf(from);
  return to.map((_, axis) => (axis < missing || from[axis - missing] === 1 ? 0 : strides[axis - missing]!));
}
