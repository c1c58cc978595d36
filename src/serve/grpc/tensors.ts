import type { DType } from '../../base/dtype.ts';
import {
  elementCount,
  type NumericDType,
  type Tensor,
  type TypedArrays,
  tensorOf,
} from '../../base/tensor.ts';
import { datatypeOf } from '../../repository/datatypes.ts';
import { InvalidRequestError } from '../errors.ts';
import { DELIMITED, WireReader } from './wire.ts';

/** Which field of InferTensorContents holds each element type. 16-bit floats have none. */
const FIELDS: Partial<Record<DType, { readonly field: number; readonly name: string }>> = {
  bool: { field: 1, name: 'bool_contents' },
  int8: { field: 2, name: 'int_contents' },
  int16: { field: 2, name: 'int_contents' },
  int32: { field: 2, name: 'int_contents' },
  int64: { field: 3, name: 'int64_contents' },
  uint8: { field: 4, name: 'uint_contents' },
  uint16: { field: 4, name: 'uint_contents' },
  uint32: { field: 4, name: 'uint_contents' },
  uint64: { field: 5, name: 'uint64_contents' },
  float32: { field: 6, name: 'fp32_contents' },
  float64: { field: 7, name: 'fp64_contents' },
  string: { field: 8, name: 'bytes_contents' },
};

const FIELD_NAMES = [
  '',
  'bool_contents',
  'int_contents',
  'int64_contents',
  'uint_contents',
  'uint64_contents',
  'fp32_contents',
  'fp64_contents',
  'bytes_contents',
];

/**
 * A tensor from typed contents. Packed floats are its bytes already and are not copied.
 * @param contents an InferTensorContents message
 * @param where how errors name it, e.g. `input 'image'`
 * @throws InvalidRequestError
 */
export function tensorFromContents(
  dtype: DType,
  shape: readonly number[],
  contents: Uint8Array,
  where: string,
): Tensor {
  const fitting = FIELDS[dtype];
  if (fitting === undefined) {
    throw new InvalidRequestError(
      `${where}: ${datatypeOf(dtype)} has no typed contents; send it in raw_input_contents`,
    );
  }
  const count = elementCount(shape);
  const values = collectorOf(dtype, count, where);
  const reader = new WireReader(contents);
  while (reader.next()) {
    if (reader.field === fitting.field) values.take(reader);
    else if (FIELD_NAMES[reader.field] === undefined) reader.skip();
    else if (reader.wireType === DELIMITED && reader.bytes().length === 0) {
      // A list of no elements, which says nothing.
    } else {
      throw new InvalidRequestError(
        `${where}: ${datatypeOf(dtype)} is expected in ${fitting.name}, got ${FIELD_NAMES[reader.field]}`,
      );
    }
  }
  return values.finish(shape);
}

/** Gathers the elements of one field, which may come packed, one by one, or both. */
interface Collector {
  take(reader: WireReader): void;
  finish(shape: readonly number[]): Tensor;
}

function collectorOf(dtype: DType, count: number, where: string): Collector {
  const wrongCount = (got: number | string) =>
    new InvalidRequestError(`${where}: got ${got} elements, but its shape has ${count}`);
  switch (dtype) {
    case 'string':
      return stringCollector(count, wrongCount);
    case 'float32':
    case 'float64':
      return floatCollector(dtype, count, wrongCount);
    case 'int64':
    case 'uint64':
      return numberCollector(dtype, count, wrongCount, (reader) => reader.uint64Value());
    case 'bool':
      return numberCollector(dtype, count, wrongCount, (reader) => (reader.uint64Value() === 0n ? 0 : 1));
    case 'int8':
    case 'int16':
    case 'int32':
    case 'uint8':
    case 'uint16':
    case 'uint32':
      return numberCollector(dtype, count, wrongCount, (reader) => {
        const signed = reader.int32Value();
        const value = dtype.startsWith('u') ? signed >>> 0 : signed;
        const [low, high] = RANGES[dtype];
        if (value >= low && value <= high) return value;
        throw new InvalidRequestError(
          `${where}: ${datatypeOf(dtype)} takes integers from ${low} to ${high}, got ${value}`,
        );
      });
    default:
      throw new InvalidRequestError(`${where}: ${dtype} cannot be sent`);
  }
}

const RANGES = {
  int8: [-128, 127],
  int16: [-32_768, 32_767],
  int32: [-2_147_483_648, 2_147_483_647],
  uint8: [0, 255],
  uint16: [0, 65_535],
  uint32: [0, 4_294_967_295],
} as const;

type WrongCount = (got: number | string) => InvalidRequestError;

const ARRAYS = {
  bool: Uint8Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
} as const;

function numberCollector<D extends keyof typeof ARRAYS & NumericDType>(
  dtype: D,
  count: number,
  wrongCount: WrongCount,
  read: (reader: WireReader) => number | bigint,
): Collector {
  // The shape is only claimed: memory is taken as elements come.
  const values: (number | bigint)[] = [];
  const push = (value: number | bigint) => {
    if (values.length >= count) throw wrongCount(`more than ${count}`);
    values.push(value);
  };
  return {
    take(reader) {
      if (reader.wireType !== DELIMITED) {
        reader.expect(0);
        push(read(reader));
        return;
      }
      const packed = new WireReader(reader.bytes());
      while (!packed.isAtEnd) push(read(packed));
    },
    finish(shape) {
      if (values.length !== count) throw wrongCount(values.length);
      // Numbers or bigints, as `read` gives them for the array of this type.
      const Elements = ARRAYS[dtype] as unknown as new (values: (number | bigint)[]) => TypedArrays[D];
      return tensorOf(dtype, shape, new Elements(values));
    },
  };
}

function floatCollector(dtype: 'float32' | 'float64', count: number, wrongCount: WrongCount): Collector {
  const size = dtype === 'float32' ? 4 : 8;
  const parts: Uint8Array[] = [];
  let length = 0;
  return {
    take(reader) {
      const part = reader.wireType === DELIMITED ? reader.bytes() : reader.fixed(size);
      if (part.length % size !== 0) throw wrongCount(part.length / size);
      parts.push(part);
      length += part.length;
      if (length > count * size) throw wrongCount(`more than ${count}`);
    },
    finish(shape) {
      if (length !== count * size) throw wrongCount(length / size);
      return { dtype, shape, bytes: parts.length === 1 ? parts[0]! : Buffer.concat(parts, length) };
    },
  };
}

function stringCollector(count: number, wrongCount: WrongCount): Collector {
  const strings: Uint8Array[] = [];
  return {
    take(reader) {
      if (strings.length >= count) throw wrongCount(`more than ${count}`);
      strings.push(reader.bytes());
    },
    finish(shape) {
      if (strings.length !== count) throw wrongCount(strings.length);
      return { dtype: 'string', shape, bytes: new Uint8Array(0), strings };
    },
  };
}
