/** Element types of tensors, in ONNX's meaning, by the names used throughout Bonsai. */
export const DTYPES = [
  'float32',
  'uint8',
  'int8',
  'uint16',
  'int16',
  'int32',
  'int64',
  'string',
  'bool',
  'float16',
  'float64',
  'uint32',
  'uint64',
  'complex64',
  'complex128',
  'bfloat16',
  'float8e4m3fn',
  'float8e4m3fnuz',
  'float8e5m2',
  'float8e5m2fnuz',
  'uint4',
  'int4',
  'float4e2m1',
  'float8e8m0',
] as const;

export type DType = (typeof DTYPES)[number];

/** Bits of one element; `string` has no fixed size and counts as 0. */
export const BITS_PER_ELEMENT: Readonly<Record<DType, number>> = {
  float32: 32,
  uint8: 8,
  int8: 8,
  uint16: 16,
  int16: 16,
  int32: 32,
  int64: 64,
  string: 0,
  bool: 8,
  float16: 16,
  float64: 64,
  uint32: 32,
  uint64: 64,
  complex64: 64,
  complex128: 128,
  bfloat16: 16,
  float8e4m3fn: 8,
  float8e4m3fnuz: 8,
  float8e5m2: 8,
  float8e5m2fnuz: 8,
  uint4: 4,
  int4: 4,
  float4e2m1: 4,
  float8e8m0: 8,
};

/** Bytes that `count` packed elements take (4-bit types share bytes, the last one is padded). */
export function byteLengthOf(dtype: DType, count: number): number {
  return Math.ceil((BITS_PER_ELEMENT[dtype] * count) / 8);
}
