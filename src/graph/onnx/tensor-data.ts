import { BITS_PER_ELEMENT, byteLengthOf, type DType } from '../../base/dtype.ts';
import { BonsaiError } from '../../base/errors.ts';
import type { Tensor } from '../../base/tensor.ts';
import { CorruptModelError } from '../errors.ts';
import { dtypeOfCode } from './codes.ts';
import type { TensorProto } from './onnx_pb.ts';

/** Where the elements of tensors come from when they are not in the message itself. */
export interface TensorSource {
  readonly source: string;
  readonly readExternal?: (location: string) => Uint8Array;
}

/**
 * A tensor in Bonsai's form: little-endian bytes, whichever of ONNX's seven fields hold the elements.
 * Raw and external data become views, the others are copied.
 * @param where the tensor's place, for errors
 * @throws CorruptModelError for negative sizes, unknown types and data that do not fit the shape
 */
export function toTensor(proto: TensorProto, where: string, from: TensorSource): Tensor {
  const dtype = dtypeOfCode(proto.dataType);
  if (dtype === undefined) throw new CorruptModelError(where, `${proto.dataType} is no type of elements`);
  if (proto.segment !== undefined) {
    throw new BonsaiError(
      'unsupported',
      `${where}: the tensor is split into segments; save the model with whole tensors.`,
    );
  }
  const { shape, count } = checkedShape(proto.dims, where);
  inlineExternalData(proto, where, from);
  if (dtype === 'string') {
    if (proto.stringData.length !== count)
      throw misfit(where, shape, `${count} strings`, `${proto.stringData.length}`);
    return { dtype, shape, bytes: new Uint8Array(0), strings: proto.stringData };
  }
  const expected = byteLengthOf(dtype, count);
  const bytes = Object.hasOwn(proto, 'rawData') ? proto.rawData : packedElements(proto, dtype);
  if (bytes.byteLength !== expected)
    throw misfit(where, shape, `${expected} bytes of ${dtype}`, `${bytes.byteLength}`);
  return { dtype, shape, bytes };
}

/**
 * Moves external data into `raw_data` (as a view); does nothing to other tensors.
 * @throws CorruptModelError if the entries are no numbers or reach beyond the file
 */
export function inlineExternalData(proto: TensorProto, where: string, from: TensorSource): void {
  if (proto.dataLocation !== EXTERNAL) return;
  const entries = new Map(proto.externalData.map(({ key, value }) => [key, value]));
  const location = entries.get('location');
  if (location === undefined || location === '')
    throw new CorruptModelError(where, 'external data without a location');
  if (from.readExternal === undefined) {
    throw new BonsaiError(
      'missing_file',
      `${where}: its data lie in the file "${location}"; read the model from its file.`,
    );
  }
  const file = from.readExternal(location);
  const offset = count(entries.get('offset'), 0, 'offset', where);
  const length = count(entries.get('length'), Math.max(0, file.byteLength - offset), 'length', where);
  if (offset + length > file.byteLength) {
    throw new CorruptModelError(
      where,
      `bytes ${offset} to ${offset + length} of "${location}" are needed, it has ${file.byteLength}`,
    );
  }
  proto.rawData = new Uint8Array(file.buffer, file.byteOffset + offset, length);
  proto.dataLocation = IN_MESSAGE;
  proto.externalData = [];
}

const IN_MESSAGE = 0;
const EXTERNAL = 1;

function count(text: string | undefined, fallback: number, key: string, where: string): number {
  if (text === undefined) return fallback;
  const value = /^[0-9]+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value))
    throw new CorruptModelError(where, `the ${key} "${text}" of external data is no count`);
  return value;
}

function checkedShape(dims: readonly bigint[], where: string): { shape: number[]; count: number } {
  const shape = dims.map(Number);
  if (shape.some((size) => size < 0))
    throw new CorruptModelError(where, `the shape [${shape.join(', ')}] has a negative size`);
  // Zero sizes first: a huge size beside a zero is an empty tensor, not an overflow.
  const count = shape.includes(0) ? 0 : shape.reduce((product, size) => product * size, 1);
  if (!Number.isSafeInteger(count))
    throw new CorruptModelError(where, `the shape [${shape.join(', ')}] has too many elements`);
  return { shape, count };
}

function misfit(where: string, shape: readonly number[], expected: string, got: string): CorruptModelError {
  return new CorruptModelError(
    where,
    `the shape [${shape.join(', ')}] needs ${expected}, the file has ${got}`,
  );
}

/** The elements of the typed field that ONNX assigns to the type, as little-endian bytes. */
function packedElements(proto: TensorProto, dtype: Exclude<DType, 'string'>): Uint8Array {
  switch (dtype) {
    case 'float32':
    case 'complex64':
      return bytesOf(Float32Array.from(proto.floatData));
    case 'float64':
    case 'complex128':
      return bytesOf(Float64Array.from(proto.doubleData));
    case 'int64':
      return bytesOf(BigInt64Array.from(proto.int64Data));
    case 'uint64':
      return bytesOf(BigUint64Array.from(proto.uint64Data));
    case 'uint32':
      return bytesOf(Uint32Array.from(proto.uint64Data, Number));
    case 'int32':
      return bytesOf(Int32Array.from(proto.int32Data));
    default:
      // Narrower types lie in the low bits of an int32 each; two 4-bit elements share one.
      return BITS_PER_ELEMENT[dtype] === 16
        ? bytesOf(Uint16Array.from(proto.int32Data))
        : bytesOf(Uint8Array.from(proto.int32Data));
  }
}

function bytesOf(data: ArrayBufferView<ArrayBuffer>): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
