import { DTYPES, type DType } from '../../base/dtype.ts';
import type { Attribute } from '../model.ts';

/** Kinds of attributes by AttributeProto.type; what has no kind of its own in Bonsai is carried along as `opaque`. */
export const ATTRIBUTE_KINDS: readonly Attribute['kind'][] = [
  'opaque',
  'float',
  'int',
  'string',
  'tensor',
  'graph',
  'floats',
  'ints',
  'strings',
  'tensors',
  'graphs',
];

/** The second spelling of the standard domain `''`. */
export const STANDARD_DOMAIN_ALIAS = 'ai.onnx';

/** TensorProto.data_type, where 0 is "undefined": the names in DTYPES stand in the order of the codes. */
export function dtypeOfCode(code: number): DType | undefined {
  return DTYPES[code - 1];
}

export function codeOfDtype(dtype: DType): number {
  return DTYPES.indexOf(dtype) + 1;
}
