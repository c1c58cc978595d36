import type { DType } from './dtype.ts';
import { elementsOf, type Tensor } from './tensor.ts';

/** 16-bit floats travel as raw bits, which are not their numbers. */
export function isHalf(dtype: DType): dtype is 'float16' | 'bfloat16' {
  return dtype === 'float16' || dtype === 'bfloat16';
}

/** The numbers that the elements of a tensor of 16-bit floats stand for; float32 holds all of them exactly. */
export function halfNumbers(tensor: Tensor & { readonly dtype: 'float16' | 'bfloat16' }): Float32Array {
  const bits = elementsOf(tensor) as Uint16Array; // Both types are held as such.
  return Float32Array.from(bits, tensor.dtype === 'float16' ? fromHalf : fromBrain);
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
