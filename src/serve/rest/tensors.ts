import type { DType } from '../../base/dtype.ts';
import { byteLengthOf } from '../../base/dtype.ts';
import {
  elementCount,
  elementsOf,
  type NumericDType,
  type Tensor,
  type TypedArrays,
  tensorOf,
} from '../../base/tensor.ts';
import { datatypeOf } from '../../repository/datatypes.ts';
import { InvalidRequestError } from '../errors.ts';
import type { Json } from '../json.ts';

/** Smallest and largest value of each integer type. */
const INTEGER_RANGES: Partial<Record<DType, readonly [bigint, bigint]>> = {
  uint8: [0n, 255n],
  uint16: [0n, 65_535n],
  uint32: [0n, 4_294_967_295n],
  uint64: [0n, 2n ** 64n - 1n],
  int8: [-128n, 127n],
  int16: [-32_768n, 32_767n],
  int32: [-2_147_483_648n, 2_147_483_647n],
  int64: [-(2n ** 63n), 2n ** 63n - 1n],
};

/** Largest finite value of the float types that have a JSON form: (2 − 2⁻²³) · 2¹²⁷ and (2 − 2⁻⁵²) · 2¹⁰²³. */
const LARGEST_FLOAT = { float32: '3.4028235e38', float64: '1.7976931348623157e308' } as const;

/** Values are cut here in messages. */
const MAX_SHOWN_LENGTH = 60;

/**
 * A tensor from the `data` of a request, flat or nested.
 * @param where how errors name it, e.g. `input 'image'`
 * @throws InvalidRequestError
 */
export function tensorFromJson(dtype: DType, shape: readonly number[], data: Json, where: string): Tensor {
  if (!Array.isArray(data)) throw new InvalidRequestError(`${where}: 'data' must be an array`);
  const count = elementCount(shape);
  const elements = elementsOfJson(data, shape, where);
  const wrong = (expected: string, value: Json | undefined) =>
    new InvalidRequestError(`${where}: ${datatypeOf(dtype)} takes ${expected}, got ${describe(value)}`);

  switch (dtype) {
    case 'float16':
    case 'bfloat16':
      throw new InvalidRequestError(
        `${where}: ${datatypeOf(dtype)} has no JSON form; send it as binary data`,
      );
    case 'string': {
      const encoder = new TextEncoder();
      const strings = elements.map((value) => {
        if (typeof value !== 'string') throw wrong('strings', value);
        return encoder.encode(value);
      });
      return { dtype, shape, bytes: new Uint8Array(0), strings };
    }
    case 'bool': {
      const bits = elements.map((value) => {
        if (typeof value !== 'boolean') throw wrong('true and false', value);
        return value ? 1 : 0;
      });
      return tensorOf('bool', shape, Uint8Array.from(bits));
    }
    case 'float32':
    case 'float64': {
      const values = dtype === 'float32' ? new Float32Array(count) : new Float64Array(count);
      for (let i = 0; i < count; i++) {
        const value = elements[i];
        if (typeof value !== 'number' && typeof value !== 'bigint') throw wrong('numbers', value);
        values[i] = Number(value);
        if (!Number.isFinite(values[i])) {
          // JSON has neither NaN nor infinity, so the number was finite as it was written.
          const type = datatypeOf(dtype);
          const got = Number.isFinite(Number(value)) ? `${value} is` : 'a number is';
          throw new InvalidRequestError(
            `${where}: ${got} outside the range of ${type} (±${LARGEST_FLOAT[dtype]}) at ${positionOf(i, shape)}`,
          );
        }
      }
      return { dtype, shape, bytes: new Uint8Array(values.buffer) };
    }
  }
  const range = INTEGER_RANGES[dtype];
  if (range === undefined) throw new InvalidRequestError(`${where}: ${dtype} cannot be sent`);
  const bytes = new Uint8Array(byteLengthOf(dtype, count));
  const target = elementsOf({ dtype, shape, bytes });
  for (let i = 0; i < count; i++) {
    const value = elements[i];
    const isInteger = typeof value === 'bigint' || (typeof value === 'number' && Number.isInteger(value));
    if (!isInteger) throw wrong('integers', value);
    const exact = BigInt(value);
    if (exact < range[0] || exact > range[1]) throw wrong(`integers from ${range[0]} to ${range[1]}`, value);
    // 64-bit arrays take bigints, the others numbers.
    if (target instanceof BigInt64Array || target instanceof BigUint64Array) target[i] = exact;
    else target[i] = Number(exact);
  }
  return { dtype, shape, bytes };
}

/** The text of a tensor's `data`. Integers keep all their digits. @throws InvalidRequestError for what JSON cannot say */
export function jsonFromTensor(tensor: Tensor, where: string): string {
  const { dtype } = tensor;
  if (dtype === 'string') {
    const decoder = new TextDecoder();
    return JSON.stringify((tensor.strings ?? []).map((item) => decoder.decode(item)));
  }
  if (dtype === 'float16' || dtype === 'bfloat16') {
    throw new InvalidRequestError(`${where}: ${datatypeOf(dtype)} has no JSON form; ask for binary data`);
  }
  const elements = elementsOf(tensor) as TypedArrays[NumericDType];
  if (dtype === 'bool') return `[${Array.from(elements as Uint8Array, (bit) => bit !== 0).join(',')}]`;
  if (dtype === 'float32' || dtype === 'float64') {
    for (const value of elements as Float32Array | Float64Array) {
      if (!Number.isFinite(value)) {
        throw new InvalidRequestError(`${where} holds ${value}, which has no JSON form; ask for binary data`);
      }
    }
  }
  return `[${elements.join(',')}]`;
}

/**
 * The elements of `data`, which is either flat or nested just as the shape is. @throws InvalidRequestError
 */
function elementsOfJson(data: readonly Json[], shape: readonly number[], where: string): readonly Json[] {
  const count = elementCount(shape);
  const isNested = Array.isArray(data[0]) || data.some((item) => Array.isArray(item));
  if (!isNested) {
    if (data.length === count) return data;
    // Rows that are empty need not be written: [2, 0] may be [[], []] or [].
    const got = data.length > count ? `more than ${count}` : String(data.length);
    throw new InvalidRequestError(
      `${where}: got ${got} elements, but shape [${shape.join(',')}] has ${count}`,
    );
  }
  const elements: Json[] = [];
  if (shape.length === 0) throw new InvalidRequestError(`${where}: 'data' of a scalar must be [value]`);
  flatten(data, shape, 0, elements, where);
  return elements;
}

function flatten(
  data: readonly Json[],
  shape: readonly number[],
  axis: number,
  into: Json[],
  where: string,
): void {
  if (data.length !== shape[axis]) {
    throw new InvalidRequestError(
      `${where}: the nesting of 'data' does not match shape [${shape.join(',')}]: an array of axis ${axis} has ${data.length} items, not ${shape[axis]}`,
    );
  }
  const isInnermost = axis === shape.length - 1;
  for (const item of data) {
    if (Array.isArray(item) === isInnermost) {
      const problem = isInnermost ? 'it goes deeper' : `it ends at axis ${axis}`;
      throw new InvalidRequestError(
        `${where}: the nesting of 'data' does not match shape [${shape.join(',')}]: ${problem}; write it flat or nested in full`,
      );
    }
    if (Array.isArray(item)) flatten(item, shape, axis + 1, into, where);
    else into.push(item);
  }
}

function describe(value: Json | undefined): string {
  if (typeof value === 'bigint' || typeof value === 'number') return String(value);
  if (value !== null && typeof value === 'object') return 'an object';
  const text = JSON.stringify(value);
  return text.length > MAX_SHOWN_LENGTH ? `${text.slice(0, MAX_SHOWN_LENGTH)}…` : text;
}

/** Where a flat index lies, row-major: 7 in shape [2, 4] is `[1,3]`, (1 · 4 + 3). */
function positionOf(index: number, shape: readonly number[]): string {
  let rest = index;
  const position = shape
    .toReversed()
    .map((size) => {
      const at = rest % size;
      rest = (rest - at) / size;
      return at;
    })
    .reverse();
  return `[${position.join(',')}]`;
}
