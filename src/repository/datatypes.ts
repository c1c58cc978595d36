import type { DType } from '../base/dtype.ts';
import { tritonTypeOf } from './triton-config.ts';

/** The protocol's name of an element type, e.g. `FP32`. @throws BonsaiError `unsupported` for types it has no name for */
export function datatypeOf(dtype: DType): string {
  return dtype === 'string' ? 'BYTES' : tritonTypeOf(dtype).slice('TYPE_'.length);
}

/** The element types that can travel, by the protocol's names. */
export const DTYPE_BY_DATATYPE: ReadonlyMap<string, DType> = new Map(
  (
    [
      'bool',
      'uint8',
      'uint16',
      'uint32',
      'uint64',
      'int8',
      'int16',
      'int32',
      'int64',
      'float16',
      'float32',
      'float64',
      'bfloat16',
      'string',
    ] as const
  ).map((dtype) => [datatypeOf(dtype), dtype]),
);
