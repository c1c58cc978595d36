import type { DType } from './dtype.ts';
import { elementsOf, float32Tensor, type Tensor, tensorOf } from './tensor.ts';

/** 16-bit floats travel as raw bits, which are not their numbers. */
export function isHalf(dtype: DType): dtype is 'float16' | 'bfloat16' {
  return dtype === 'float16' || dtype === 'bfloat16';
}

/** The numbers that the elements of a tensor of 16-bit floats stand for; float32 holds all of them exactly. */
export function halfNumbers(tensor: Tensor & { readonly dtype: 'float16' | 'bfloat16' }): Float32Array {
  const bits = elementsOf(tensor) as Uint16Array; // Both types are held as such.
  return Float32Array.from(bits, tensor.dtype === 'float16' ? fromHalf : fromBrain);
}

/** The same numbers in float32; tensors of other types than 16-bit floats come back as they are. */
export function withoutHalf(tensor: Tensor): Tensor {
  const { dtype, shape } = tensor;
  return isHalf(dtype) ? float32Tensor(shape, halfNumbers({ ...tensor, dtype })) : tensor;
}

/** A tensor of 16-bit floats: the nearest to each number, of two as near the even one; beyond the largest infinite. */
export function halfTensor(
  dtype: 'float16' | 'bfloat16',
  shape: readonly number[],
  numbers: Iterable<number> & ArrayLike<number>,
): Tensor {
  return tensorOf(dtype, shape, Uint16Array.from(numbers, dtype === 'float16' ? toHalf : toBrain));
}

/** IEEE 754 binary16: a sign, 5 bits of exponent, 10 of fraction. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  // Below the smallest exponent the leading 1 is gone: fraction · 2^-24.
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** bfloat16: the upper half of a float32. */
function fromBrain(bits: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint16(0, bits);
  return view.getFloat32(0);
}

function toHalf(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size >= BEYOND_HALF) return sign | 0x7c00;
  // A fraction that rounds up to the next power of 2 carries into the exponent, as it should.
  if (size < 2 ** -14) return sign | roundedToEven(size * 2 ** 24);
  let exponent = Math.floor(Math.log2(size));
  if (2 ** exponent > size) exponent--; // The logarithm is rounded.
  return sign | (((exponent + 14) << 10) + roundedToEven(size * 2 ** (10 - exponent)));
}

/** Half-way between the largest binary16, 65504, and what would be the next. */
const BEYOND_HALF = 65520;

function toBrain(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  return roundedToEven(view.getUint32(0) / 2 ** 16);
}

function roundedToEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}
