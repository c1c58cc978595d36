import { InvalidRequestError } from '../errors.ts';

/** Wire types of the protobuf encoding. Groups (3, 4) occur in no message of the protocol. */
export const VARINT = 0;
export const FIXED64 = 1;
export const DELIMITED = 2;
export const FIXED32 = 5;

/** The longest varint: ten groups of seven bits hold 64. */
const MAX_VARINT_BYTES = 10;

const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Reads one protobuf message field by field without copying: what is delimited comes out as a view. Whatever the bytes
 * are, it ends, reads nothing outside them, and throws InvalidRequestError where they break the format.
 */
export class WireReader {
  /** Number and wire type of the field that `next` has come to. */
  field = 0;
  wireType = 0;
  readonly #bytes: Uint8Array;
  #position = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#position >= this.#bytes.length;
  }

  /** Goes to the next field. @returns whether there is one */
  next(): boolean {
    if (this.isAtEnd) return false;
    const tag = this.#varint32();
    this.field = tag >>> 3;
    this.wireType = tag & 7;
    if (this.field === 0) throw malformed('a field has the number 0');
    return true;
  }

  /** Passes over the value of a field that is not known. */
  skip(): void {
    switch (this.wireType) {
      case VARINT:
        this.#skipVarint();
        break;
      case FIXED64:
        this.#advance(8);
        break;
      case DELIMITED:
        this.#advance(this.#length());
        break;
      case FIXED32:
        this.#advance(4);
        break;
      default:
        throw malformed(`field ${this.field} has the wire type ${this.wireType}`);
    }
  }

  /** A view of a delimited value: bytes, a message, packed numbers. */
  bytes(): Uint8Array {
    this.expect(DELIMITED);
    const length = this.#length();
    const start = this.#position;
    this.#advance(length);
    return this.#bytes.subarray(start, start + length);
  }

  string(): string {
    const bytes = this.bytes();
    // Short names are read faster by hand than by a call into the runtime; they are ASCII as a rule.
    if (bytes.length <= MAX_HAND_READ_BYTES) {
      let text = '';
      let i = 0;
      for (; i < bytes.length && bytes[i]! < 0x80; i++) text += String.fromCharCode(bytes[i]!);
      if (i === bytes.length) return text;
    }
    try {
      return strictUtf8.decode(bytes);
    } catch {
      throw malformed(`the string in field ${this.field} is not UTF-8`);
    }
  }

  bool(): boolean {
    return this.uint64() !== 0n;
  }

  /** A varint as an int64. */
  int64(): bigint {
    return BigInt.asIntN(64, this.uint64());
  }

  uint64(): bigint {
    this.expect(VARINT);
    return this.uint64Value();
  }

  double(): number {
    this.expect(FIXED64);
    const start = this.#position;
    this.#advance(8);
    return viewOf(this.#bytes).getFloat64(start, true);
  }

  /** The next 8 or 4 bytes, as a view. */
  fixed(length: 8 | 4): Uint8Array {
    this.expect(length === 8 ? FIXED64 : FIXED32);
    const start = this.#position;
    this.#advance(length);
    return this.#bytes.subarray(start, start + length);
  }

  expect(wireType: number): void {
    if (this.wireType === wireType) return;
    throw malformed(`field ${this.field} has the wire type ${this.wireType}, expected ${wireType}`);
  }

  /** A varint without a tag, as packed numbers have them. Small ones are by far the most. */
  uint64Value(): bigint {
    const first = this.#bytes[this.#position];
    if (first !== undefined && first < 0x80) {
      this.#position++;
      return BigInt(first);
    }
    let low = 0n;
    for (let i = 0; i < MAX_VARINT_BYTES; i++) {
      const byte = this.#bytes[this.#position++];
      if (byte === undefined) throw malformed('it ends inside a number');
      low |= BigInt(byte & 0x7f) << BigInt(7 * i);
      if (byte < 0x80) return BigInt.asUintN(64, low);
    }
    throw malformed('a number has more than 64 bits');
  }

  /** The lower 32 bits of a varint without a tag, as a signed number. */
  int32Value(): number {
    let value = 0;
    for (let i = 0; i < MAX_VARINT_BYTES; i++) {
      const byte = this.#bytes[this.#position++];
      if (byte === undefined) throw malformed('it ends inside a number');
      if (i < 5) value |= (byte & 0x7f) << (7 * i);
      if (byte < 0x80) return value;
    }
    throw malformed('a number has more than 64 bits');
  }

  #varint32(): number {
    const first = this.#bytes[this.#position];
    if (first !== undefined && first < 0x80) {
      this.#position++;
      return first;
    }
    const value = this.uint64Value();
    if (value > 0xffff_ffffn) throw malformed('a tag or length has more than 32 bits');
    return Number(value);
  }

  #length(): number {
    return this.#varint32();
  }

  #skipVarint(): void {
    this.int32Value();
  }

  #advance(length: number): void {
    if (length > this.#bytes.length - this.#position) {
      throw malformed(`field ${this.field} reaches beyond the end of its message`);
    }
    this.#position += length;
  }
}

/** Above this the runtime's decoder is faster. */
const MAX_HAND_READ_BYTES = 24;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function malformed(what: string): InvalidRequestError {
  return new InvalidRequestError(`the message is not as its definition says: ${what}`);
}

/** Writes protobuf fields into one buffer that grows; short fields by hand, large contents by one copy. */
export class WireWriter {
  #bytes: Buffer;
  #length: number;

  /**
   * @param reserved bytes left free before the message
   * @param expectedBytes of the message, so that the buffer need not grow
   */
  constructor(reserved: number, expectedBytes: number) {
    this.#bytes = Buffer.allocUnsafe(reserved + expectedBytes);
    this.#length = reserved;
  }

  string(field: number, text: string): void {
    if (text.length === 0) return;
    this.#tag(field, DELIMITED);
    // UTF-8 takes at most three bytes for a unit of UTF-16.
    const position = this.#length;
    this.#reserve(MAX_LENGTH_BYTES + 3 * text.length);
    if (text.length < 0x80 / 3) {
      const written = this.#bytes.write(text, position + 1);
      this.#bytes[position] = written;
      this.#length += written + 1;
    } else {
      this.#varint(Buffer.byteLength(text));
      this.#length += this.#bytes.write(text, this.#length);
    }
  }

  bytes(field: number, content: Uint8Array): void {
    this.#tag(field, DELIMITED);
    this.#reserve(MAX_LENGTH_BYTES + content.length);
    this.#varint(content.length);
    this.#bytes.set(content, this.#length);
    this.#length += content.length;
  }

  bool(field: number, value: boolean): void {
    this.#tag(field, VARINT);
    this.#bytes[this.#length++] = value ? 1 : 0;
  }

  double(field: number, value: number): void {
    this.#tag(field, FIXED64);
    this.#length = this.#bytes.writeDoubleLE(value, this.#length);
  }

  /** Packed int64; values are sizes, 0 or more. */
  sizes(field: number, values: readonly number[]): void {
    if (values.length === 0) return;
    this.message(field, () => {
      for (const value of values) {
        this.#reserve(MAX_VARINT_BYTES);
        this.#varint(value);
      }
    });
  }

  /** A message inside the message. */
  message(field: number, write: () => void): void {
    this.#tag(field, DELIMITED);
    // Most are short, so their length takes one byte; a longer one is moved to make room.
    const start = ++this.#length;
    write();
    const length = this.#length - start;
    if (length < 0x80) {
      this.#bytes[start - 1] = length;
      return;
    }
    this.#reserve(MAX_LENGTH_BYTES);
    const extra = varintBytes(length) - 1;
    this.#bytes.copyWithin(start + extra, start, start + length);
    this.#length = start - 1;
    this.#varint(length);
    this.#length += length;
  }

  /** Everything written, after the reserved bytes. */
  finish(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  #tag(field: number, wireType: number): void {
    this.#reserve(MAX_TAG_AND_FIXED_BYTES);
    this.#varint((field << 3) | wireType);
  }

  #varint(value: number): void {
    let rest = value;
    while (rest >= 0x80) {
      this.#bytes[this.#length++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#bytes[this.#length++] = rest;
  }

  #reserve(count: number): void {
    const needed = this.#length + count;
    if (needed <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.#bytes.length));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
  }
}

/** Lengths are under 2³². */
const MAX_LENGTH_BYTES = 5;

/** A tag, and room for a fixed value or a length byte after it. */
const MAX_TAG_AND_FIXED_BYTES = 5 + 8;

function varintBytes(value: number): number {
  let count = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) count++;
  return count;
}
