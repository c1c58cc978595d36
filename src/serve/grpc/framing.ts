import { promisify } from 'node:util';
import { deflate, gunzip, gzip, inflate } from 'node:zlib';
import { BonsaiError, messageOf, systemCodeOf } from '../../base/errors.ts';
import { InvalidRequestError } from '../errors.ts';

/**
 * A message travels behind one byte that tells whether it is compressed and its length in four, big-endian.
 * Source: grpc/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message".
 */
export const FRAME_PREFIX_BYTES = 5;

export const ENCODINGS = ['gzip', 'deflate'] as const;
export type Encoding = (typeof ENCODINGS)[number];

/** What `grpc-accept-encoding` says. */
export const ACCEPTED_ENCODINGS = ['identity', ...ENCODINGS].join(',');

const compressors = { gzip: promisify(gzip), deflate: promisify(deflate) };
const decompressors = { gzip: promisify(gunzip), deflate: promisify(inflate) };

/** Writes the prefix into the bytes that were left free before a message. @returns the frame itself */
export function sealFrame(frame: Buffer): Buffer {
  frame[0] = 0;
  frame.writeUInt32BE(frame.length - FRAME_PREFIX_BYTES, 1);
  return frame;
}

/** The frame of a message. */
export function frameOf(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(FRAME_PREFIX_BYTES + message.length);
  frame.set(message, FRAME_PREFIX_BYTES);
  return sealFrame(frame);
}

export async function compressFrame(frame: Buffer, encoding: Encoding): Promise<Buffer> {
  const compressed = frameOf(await compressors[encoding](frame.subarray(FRAME_PREFIX_BYTES)));
  compressed[0] = 1;
  return compressed;
}

/** A message as it came. */
export interface Framed {
  readonly isCompressed: boolean;
  readonly bytes: Uint8Array;
}

/** Messages decompressed at a time: the threads that Node.js has for it. */
export const MAX_DECOMPRESSIONS = 4;

/** Takes the compression off messages, a few at a time, so that many small ones cannot unfold into more memory at once. */
export class Decompressor {
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  /**
   * @param maxBytes of what comes out
   * @throws InvalidRequestError, BonsaiError `body_too_large`
   */
  async run(bytes: Uint8Array, encoding: Encoding | undefined, maxBytes: number): Promise<Uint8Array> {
    if (this.#running >= MAX_DECOMPRESSIONS) await new Promise<void>((go) => this.#waiting.push(go));
    this.#running++;
    try {
      return await decompress(bytes, encoding, maxBytes);
    } finally {
      this.#running--;
      this.#waiting.shift()?.();
    }
  }
}

async function decompress(
  bytes: Uint8Array,
  encoding: Encoding | undefined,
  maxBytes: number,
): Promise<Uint8Array> {
  if (encoding === undefined) {
    throw new InvalidRequestError(
      'a message is marked as compressed, but grpc-encoding names no compression',
    );
  }
  try {
    return await decompressors[encoding](bytes, { maxOutputLength: maxBytes });
  } catch (cause) {
    if (systemCodeOf(cause) === 'ERR_BUFFER_TOO_LARGE')
      throw tooLarge('is larger when decompressed', maxBytes);
    throw new InvalidRequestError(`the ${encoding} message cannot be decompressed: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/** A message of up to so many bytes gets its memory at once when it is announced; a longer one as it comes. */
const MAX_TRUSTED_BYTES = 256 * 1024;

const NO_BYTES = Buffer.alloc(0);

/** Cuts a stream's bytes into messages. A message that came in one piece is a view of it. */
export class FrameReader {
  readonly #maxBytes: number;
  #bytes: Buffer = NO_BYTES;
  /** Of `#bytes`, what has come. */
  #length = 0;
  /** Whether `#bytes` may be written to behind `#length`: it is no one else's. */
  #isOwn = false;
  /** Bytes of the frame that has begun, with its prefix; undefined until the prefix is complete. */
  #frameLength: number | undefined;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Whether a message has begun and not ended. */
  get isInside(): boolean {
    return this.#length > 0;
  }

  /** What the message that has begun takes of memory so far, which is what of it has come or up to twice as much. */
  get heldBytes(): number {
    return this.isInside ? this.#bytes.length : 0;
  }

  /** What of the message that has begun is still to come, where that is known; else 0. */
  get missingBytes(): number {
    return this.#frameLength === undefined ? 0 : this.#frameLength - this.#length;
  }

  push(chunk: Buffer): void {
    if (this.#length === 0) {
      this.#bytes = chunk;
      this.#isOwn = false;
    } else {
      this.#makeRoom(this.#length + chunk.length);
      this.#bytes.set(chunk, this.#length);
    }
    this.#length += chunk.length;
  }

  /**
   * The next message that is complete, or undefined.
   * @throws BonsaiError `body_too_large` as soon as the prefix announces it; InvalidRequestError for a wrong prefix
   */
  next(): Framed | undefined {
    if (this.#frameLength === undefined) {
      if (this.#length < FRAME_PREFIX_BYTES) return undefined;
      const flag = this.#bytes[0]!;
      if (flag > 1) throw new InvalidRequestError(`a message begins with the flag ${flag}; expected 0 or 1`);
      const length = this.#bytes.readUInt32BE(1);
      if (length > this.#maxBytes) throw tooLarge(`has ${length} bytes`, this.#maxBytes);
      this.#frameLength = FRAME_PREFIX_BYTES + length;
    }
    if (this.#length < this.#frameLength) return undefined;
    const frame = this.#bytes.subarray(0, this.#frameLength);
    this.#length -= this.#frameLength;
    // An empty view would hold the memory of the message.
    this.#bytes =
      this.#length === 0
        ? NO_BYTES
        : this.#bytes.subarray(this.#frameLength, this.#frameLength + this.#length);
    this.#isOwn = false;
    this.#frameLength = undefined;
    return { isCompressed: frame[0] === 1, bytes: frame.subarray(FRAME_PREFIX_BYTES) };
  }

  #makeRoom(needed: number): void {
    if (this.#isOwn && needed <= this.#bytes.length) return;
    const announced = this.#frameLength ?? 0;
    const grown = announced <= MAX_TRUSTED_BYTES ? announced : Math.min(announced, 2 * this.#bytes.length);
    const larger = Buffer.allocUnsafe(Math.max(needed, grown));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
    this.#isOwn = true;
  }
}

function tooLarge(what: string, maxBytes: number): BonsaiError {
  return new BonsaiError(
    'body_too_large',
    `the message exceeds the maximum of ${maxBytes} bytes: it ${what}. Send fewer examples per request, or raise the server's limit on bodies`,
  );
}
