import { type DescField, type DescMessage, ScalarType } from '@bufbuild/protobuf';
import { CorruptModelError } from '../errors.ts';

/**
 * Walks the wire format of a message and of all messages inside it, without decoding any value, and throws where
 * the bytes break the format: fields that reach beyond their message, wrong wire types, varints without end,
 * nesting beyond MAX_MESSAGE_DEPTH. What passes can be decoded safely: the recursive decoder of the library
 * trusts lengths of nested messages and wire types. Length-delimited payloads are skipped, so that the cost is in
 * the number of fields, not in the bytes of weights.
 * @throws CorruptModelError with the byte offset and the path of fields
 */
export function checkWire(bytes: Uint8Array, message: DescMessage, source: string): void {
  walk({ bytes, source, path: [], position: 0 }, message, bytes.length);
}

/**
 * Levels of messages inside messages. A subgraph takes three (graph, node, attribute), so that this leaves 33 levels of
 * control flow; the C++ implementation of protobuf has the same limit, hence no engine loads more.
 */
export const MAX_MESSAGE_DEPTH = 100;

interface Cursor {
  readonly bytes: Uint8Array;
  readonly source: string;
  readonly path: string[];
  position: number;
}

const VARINT = 0;
const FIXED64 = 1;
const DELIMITED = 2;
const FIXED32 = 5;

/** The longest varint: ten groups of seven bits hold 64. */
const MAX_VARINT_BYTES = 10;

function walk(cursor: Cursor, message: DescMessage, end: number): void {
  if (cursor.path.length >= MAX_MESSAGE_DEPTH) {
    fail(cursor, cursor.position, `messages are nested more than ${MAX_MESSAGE_DEPTH} levels deep`);
  }
  const fields = fieldsOf(message);
  while (cursor.position < end) {
    const start = cursor.position;
    const tag = varint(cursor, end);
    const number = Math.floor(tag / 8);
    const wireType = tag % 8;
    if (number === 0 || tag > 0xffffffff)
      fail(cursor, start, `0x${tag.toString(16)} is no field of ${message.name}`);
    const field = fields.get(number);
    if (field !== undefined && !accepts(field, wireType)) {
      fail(cursor, start, `field ${message.name}.${field.name} has wire type ${wireType}`);
    }
    if (wireType === VARINT) varint(cursor, end);
    else if (wireType === FIXED64) skip(cursor, 8, end, start);
    else if (wireType === FIXED32) skip(cursor, 4, end, start);
    else if (wireType === DELIMITED) {
      const length = varint(cursor, end);
      const stop = cursor.position + length;
      if (stop > end) {
        fail(
          cursor,
          start,
          `${field === undefined ? `field ${number}` : `field ${field.name}`} of ${message.name} announces ${length} bytes where ${end - cursor.position} are left`,
        );
      }
      if (field?.message === undefined) {
        if (field !== undefined && isPacked(field)) checkPacked(cursor, field, cursor.position, stop);
        cursor.position = stop;
      } else {
        cursor.path.push(field.name);
        walk(cursor, field.message, stop);
        cursor.path.pop();
      }
    } else fail(cursor, start, `wire type ${wireType} does not occur in ONNX files`);
  }
}

function varint(cursor: Cursor, end: number): number {
  const start = cursor.position;
  let value = 0;
  let scale = 1;
  for (let i = 0; i < MAX_VARINT_BYTES; i++) {
    if (cursor.position >= end) fail(cursor, start, 'the data ends inside a number');
    const byte = cursor.bytes[cursor.position++]!;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) return value;
    scale *= 128;
  }
  return fail(cursor, start, `a number is longer than ${MAX_VARINT_BYTES} bytes`);
}

function skip(cursor: Cursor, count: number, end: number, start: number): void {
  if (cursor.position + count > end) fail(cursor, start, 'the data ends inside a number');
  cursor.position += count;
}

/** Packed numbers must fill their payload exactly: the decoder reads on until it has passed the end. */
function checkPacked(cursor: Cursor, field: DescField, start: number, stop: number): void {
  const unit = wireTypeOf(field);
  const length = stop - start;
  const whole =
    unit === FIXED32
      ? length % 4 === 0
      : unit === FIXED64
        ? length % 8 === 0
        : length === 0 || cursor.bytes[stop - 1]! < 0x80;
  if (!whole) fail(cursor, start, `the ${length} bytes of ${field.name} end inside a number`);
}

function accepts(field: DescField, wireType: number): boolean {
  return wireType === wireTypeOf(field) || (wireType === DELIMITED && isPacked(field));
}

/** A repeated number, which a file may write packed or one by one. */
function isPacked(field: DescField): boolean {
  return field.fieldKind === 'list' && wireTypeOf(field) !== DELIMITED;
}

function wireTypeOf(field: DescField): number {
  if (field.message !== undefined) return DELIMITED;
  switch (field.scalar) {
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return DELIMITED;
    case ScalarType.FLOAT:
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
      return FIXED32;
    case ScalarType.DOUBLE:
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
      return FIXED64;
    default:
      return VARINT;
  }
}

const fieldTables = new WeakMap<DescMessage, ReadonlyMap<number, DescField>>();

function fieldsOf(message: DescMessage): ReadonlyMap<number, DescField> {
  let table = fieldTables.get(message);
  if (table === undefined) {
    table = new Map(message.fields.map((field) => [field.number, field]));
    fieldTables.set(message, table);
  }
  return table;
}

function fail(cursor: Cursor, offset: number, what: string): never {
  const path =
    cursor.path.length === 0
      ? ''
      : ` (in ${cursor.path.slice(0, 8).join('.')}${cursor.path.length > 8 ? '…' : ''})`;
  throw new CorruptModelError(`${cursor.source}, byte ${offset}${path}`, what);
}
