import type { DType } from '../base/dtype.ts';
import { BITS_PER_ELEMENT, byteLengthOf } from '../base/dtype.ts';
import { elementCount, type Tensor } from '../base/tensor.ts';
import { datatypeOf } from '../repository/datatypes.ts';
import { InvalidRequestError } from './errors.ts';

/** A tensor from the bytes of a request. @throws InvalidRequestError */
export function tensorFromBytes(
  dtype: DType,
  shape: readonly number[],
  bytes: Uint8Array,
  where: string,
): Tensor {
  const count = elementCount(shape);
  if (dtype === 'string')
    return { dtype, shape, bytes: new Uint8Array(0), strings: splitStrings(bytes, count, where) };
  const expected = byteLengthOf(dtype, count);
  if (bytes.byteLength !== expected) {
    throw new InvalidRequestError(
      `${where}: got ${bytes.byteLength} bytes, but ${datatypeOf(dtype)} of shape [${shape.join(',')}] has ${expected}`,
    );
  }
  return { dtype, shape, bytes };
}

/** The bytes of a tensor as the binary extension sends them. */
export function bytesFromTensor(tensor: Tensor): Uint8Array {
  if (tensor.strings === undefined) return tensor.bytes;
  const parts = tensor.strings.flatMap((item) => {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(item.byteLength);
    return [length, item];
  });
  return Buffer.concat(parts);
}

/** Bytes of one element; 0 for strings. */
export function elementBytes(dtype: DType): number {
  return BITS_PER_ELEMENT[dtype] / 8;
}

function splitStrings(bytes: Uint8Array, count: number, where: string): Uint8Array[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const strings: Uint8Array[] = [];
  let offset = 0;
  while (offset < bytes.byteLength && strings.length < count) {
    if (offset + 4 > bytes.byteLength) break;
    const end = offset + 4 + view.getUint32(offset, true);
    if (end > bytes.byteLength) break;
    strings.push(bytes.subarray(offset + 4, end));
    offset = end;
  }
  if (strings.length !== count || offset !== bytes.byteLength) {
    throw new InvalidRequestError(
      `${where}: its bytes are not ${count} strings, each after its length in 4 bytes`,
    );
  }
  return strings;
}
