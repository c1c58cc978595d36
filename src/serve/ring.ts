import type { DType } from '../base/dtype.ts';
import { byteLengthOf } from '../base/dtype.ts';
import { elementCount, type Tensor } from '../base/tensor.ts';

/**
 * The shared memory between the socket thread and one inference worker: a fixed number of slots, used in order, each
 * with room for the tensors of one request and those of its answer. Requests are counted in `submitted`, answers in
 * `completed`; slot = count mod SLOTS. The worker sleeps in `Atomics.wait` on `submitted`; it wakes the socket thread
 * by a message (the doorbell), once for all the answers that thread has not looked at yet.
 *
 * Tensors that do not fit (larger batches than expected, strings) go by message port; their slot says so.
 */
export interface Ring {
  readonly buffer: SharedArrayBuffer;
  readonly requestBytes: number;
  readonly answerBytes: number;
}

/** More than the two inferences that a slot of the server ever commits to one worker; a power of two. */
export const RING_SLOTS = 4;

/** Room for inputs or outputs of batch 1 is multiplied by this, so that small batches also take the fast path. */
export const RING_BATCH_ROOM = 8;

/** Beyond this a slot is not worth its memory: copying takes a millisecond and a message's 60 µs do not matter. */
export const MAX_RING_SLOT_BYTES = 8 * 1024 * 1024;

/** Indices of the control words. */
export const CONTROL = { submitted: 0, completed: 1, doorbell: 2, stop: 3, crash: 4 } as const;

/** How the tensors of a slot travel. */
export const CARRIAGE = { inline: 0, message: 1, failure: 2 } as const;

const CONTROL_WORDS = 16;
/** Words before the payload: carriage, microseconds of compute, count, then rank and sizes of each tensor. */
const META_WORDS = 128;
const ALIGNMENT = 8;

export function createRing(requestBytes: number, answerBytes: number): Ring {
  const request = roundUp(Math.min(requestBytes, MAX_RING_SLOT_BYTES));
  const answer = roundUp(Math.min(answerBytes, MAX_RING_SLOT_BYTES));
  const size = CONTROL_WORDS * 4 + RING_SLOTS * (2 * META_WORDS * 4 + request + answer);
  return { buffer: new SharedArrayBuffer(size), requestBytes: request, answerBytes: answer };
}

export interface RingView {
  readonly control: Int32Array;
  readonly slots: readonly { readonly request: Region; readonly answer: Region }[];
}

/** One side of a slot. */
export interface Region {
  readonly meta: Int32Array;
  readonly payload: Uint8Array;
}

/** The views through which either thread uses the ring. */
export function viewOf(ring: Ring): RingView {
  let offset = CONTROL_WORDS * 4;
  const region = (bytes: number): Region => {
    const meta = new Int32Array(ring.buffer, offset, META_WORDS);
    const payload = new Uint8Array(ring.buffer, offset + META_WORDS * 4, bytes);
    offset += META_WORDS * 4 + bytes;
    return { meta, payload };
  };
  const slots = Array.from({ length: RING_SLOTS }, () => ({
    request: region(ring.requestBytes),
    answer: region(ring.answerBytes),
  }));
  return { control: new Int32Array(ring.buffer, 0, CONTROL_WORDS), slots };
}

/** Copies tensors into a region. @returns false, with the region unspecified, if they do not fit */
export function putTensors(region: Region, tensors: readonly Tensor[]): boolean {
  return putMerged(region, [tensors]);
}

/**
 * Copies the tensors of several requests into a region as those of one, joined along the first axis.
 * @param parts of each request its tensors; they agree in all sizes but the first
 * @returns false, with the region unspecified, if they do not fit
 */
export function putMerged(region: Region, parts: readonly (readonly Tensor[])[]): boolean {
  const { meta, payload } = region;
  const [first] = parts;
  let word = 3;
  let offset = 0;
  meta[2] = first!.length;
  for (let i = 0; i < first!.length; i++) {
    const { shape, strings } = first![i]!;
    if (strings !== undefined || word + 1 + shape.length > META_WORDS) return false;
    meta[word++] = shape.length;
    const rowsWord = word;
    for (const size of shape) meta[word++] = size;
    if (parts.length > 1) meta[rowsWord] = 0;
    for (const part of parts) {
      const { bytes, shape: sizes } = part[i]!;
      if (offset + bytes.byteLength > payload.byteLength) return false;
      payload.set(bytes, offset);
      offset += bytes.byteLength;
      if (parts.length > 1) meta[rowsWord]! += sizes[0]!;
    }
    offset = roundUp(offset);
  }
  meta[0] = CARRIAGE.inline;
  return true;
}

/** The shapes of the tensors in a region. */
export function shapesIn({ meta }: Region): number[][] {
  const shapes: number[][] = [];
  let word = 3;
  for (let i = 0; i < meta[2]!; i++) {
    const rank = meta[word++]!;
    shapes.push(Array.from(meta.subarray(word, word + rank)));
    word += rank;
  }
  return shapes;
}

/** Copies the tensors of a region, which have the sizes of `targets`, into them. */
export function copyInto({ payload }: Region, targets: readonly Uint8Array[]): void {
  let offset = 0;
  for (const target of targets) {
    target.set(payload.subarray(offset, offset + target.byteLength));
    offset = roundUp(offset + target.byteLength);
  }
}

/**
 * Copies the tensors out into private memory (ONNX Runtime refuses shared memory, and the slot is used again).
 * @param dtypes the element types, which both sides know from the network
 */
export function takeTensors(region: Region, dtypes: readonly DType[]): Tensor[] {
  const { meta, payload } = region;
  const tensors: Tensor[] = [];
  let word = 3;
  let offset = 0;
  for (let i = 0; i < meta[2]!; i++) {
    const rank = meta[word++]!;
    const shape = Array.from(meta.subarray(word, word + rank));
    word += rank;
    const length = byteLengthOf(dtypes[i]!, elementCount(shape));
    const bytes = new Uint8Array(length);
    bytes.set(payload.subarray(offset, offset + length));
    tensors.push({ dtype: dtypes[i]!, shape, bytes });
    offset = roundUp(offset + length);
  }
  return tensors;
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
