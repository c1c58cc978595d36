import { Worker } from 'node:worker_threads';
import { BonsaiError, type ErrorCode, messageOf } from '../../base/errors.ts';
import { permutation, type Random } from '../../base/random.ts';
import { elementCount } from '../../base/tensor.ts';
import { workerUrl } from '../../base/worker-url.ts';
import type { Dataset, ImageFiles, Split } from './data-module.ts';
import { decodeImages, IMAGE_CHANNELS } from './decode-image.ts';
import { drawExamples, takeExamples } from './split.ts';

/** Whether a split's images wait in their files. */
export function isOnDemand(split: Split): split is Split & { readonly files: ImageFiles } {
  return split.files !== undefined && split.images.length === 0 && split.count > 0;
}

/** Bytes that stand for a split's content in digests: the images, or the digest of the files they come from. */
export function identityOf(split: Split): Uint8Array {
  return isOnDemand(split) ? Buffer.from(split.files.digest, 'utf8') : split.images;
}

/** @throws BonsaiError `shape_mismatch` where a split's images are of another size than a network's */
export function checkImageShape(split: Split, shape: Dataset['shape']): void {
  if (isOnDemand(split)) {
    const { size } = split.files;
    if (shape.join() === [IMAGE_CHANNELS, size, size].join()) return;
    throw new BonsaiError(
      'shape_mismatch',
      `The network takes images of ${shape.join('×')}; those of the data are ${IMAGE_CHANNELS}×${size}×${size}.`,
    );
  }
  if (split.images.length === split.count * elementCount(shape)) return;
  throw new BonsaiError(
    'shape_mismatch',
    `The network takes images of ${shape.join('×')}; ${split.images.length} bytes are not ${split.count} of those.`,
  );
}

/**
 * Chosen examples as a split in memory. For many of them use `openExamples`, which holds few at a time.
 * @throws BonsaiError `corrupt_dataset` naming the file that does not decode, `missing_dataset`
 */
export async function loadExamples(
  split: Split,
  indices: Uint32Array,
  shape: Dataset['shape'],
  signal?: AbortSignal,
): Promise<Split> {
  if (!isOnDemand(split)) return takeExamples(split, indices, elementCount(shape));
  checkImageShape(split, shape);
  const images = new Uint8Array(indices.length * elementCount(shape));
  await decodeImages(
    Array.from(indices, (index) => split.files.paths[index]!),
    () => split.files,
    images,
    { signal },
  );
  return { count: indices.length, images, labels: Uint8Array.from(indices, (i) => split.labels[i]!) };
}

/** The examples from `from` to before `to`, without a copy of images in memory. */
export function sliceExamples(split: Split, from: number, to: number): Split {
  const { files } = split;
  const bytes = split.images.length / Math.max(1, split.count);
  return {
    count: to - from,
    images: split.images.subarray(from * bytes, to * bytes),
    labels: split.labels.subarray(from, to),
    ...(files && {
      files: { ...files, paths: files.paths.slice(from, to), digest: `${files.digest} ${from}-${to}` },
    }),
  };
}

/** `count` examples drawn without repetition (all of them where there are fewer), in memory. */
export async function loadDrawn(
  split: Split,
  count: number,
  random: Random,
  signal?: AbortSignal,
): Promise<Split> {
  if (!isOnDemand(split)) return drawExamples(split, count, random);
  const { size } = split.files;
  const drawn = permutation(split.count, random).slice(0, count);
  return loadExamples(split, drawn, [IMAGE_CHANNELS, size, size], signal);
}

/** Examples that a loop will want. */
export interface ExampleRequest {
  readonly indices: ArrayLike<number>;
  /** At random crops, where there are files. Of all requests of a stream, or of none. */
  readonly crop?: RandomCrops;
}

/** Crops of the files themselves, which show more than those of scaled-down bytes (see `drawCrop`). */
export interface RandomCrops {
  readonly minAreaRatio: number;
  /** With an example's place in the request it decides its crop. */
  readonly seed: number;
}

/** Examples of one request: `indices` into `split`, which holds at least those. */
export interface Examples {
  readonly split: Split;
  readonly indices: ArrayLike<number>;
  /** Whether the request's crops are done. Those of images that are only in memory are left to `batchOf`. */
  readonly isCropped: boolean;
}

export interface ExampleStream {
  /** The examples of the next request. @throws BonsaiError as `loadExamples`, or `worker_lost` */
  next(): Promise<Examples>;
  close(): Promise<void>;
}

/**
 * Requests that are decoded while the one before is in use: one is not enough where decoding times vary, and each
 * costs the memory of a batch.
 */
export const REQUESTS_AHEAD = 2;

/**
 * Reads a split's examples in the order of the requests. Images in memory are used where they are. Files are decoded
 * in a worker thread, `REQUESTS_AHEAD` requests ahead of the reader, so that no more than so many are in memory. What
 * a request gives depends on nothing but itself. The owner closes the stream.
 */
export function openExamples(
  split: Split,
  shape: Dataset['shape'],
  requests: Iterable<ExampleRequest>,
): ExampleStream {
  const iterator = requests[Symbol.iterator]();
  checkImageShape(split, shape);
  if (split.files === undefined) return fromMemory(split, iterator);
  const { files } = split;
  // Whether crops are wanted is known with the first request, and the same for all.
  const first = iterator.next();
  const rest = function* (): Generator<ExampleRequest> {
    if (!first.done) yield first.value;
    yield* { [Symbol.iterator]: () => iterator };
  };
  const wantsCrops = !first.done && first.value.crop !== undefined;
  return isOnDemand(split) || wantsCrops ? decodedAhead(split, files, rest()) : fromMemory(split, rest());
}

function fromMemory(split: Split, requests: Iterator<ExampleRequest>): ExampleStream {
  return {
    async next() {
      const { done, value } = requests.next();
      if (done) throw noMoreRequests();
      return { split, indices: value.indices, isCropped: false };
    },
    close: async () => {},
  };
}

/** What the decoding worker is asked. */
export interface DecodeRequest {
  readonly paths: readonly string[];
  readonly crop?: RandomCrops;
}

/** What it answers, in the order of the requests. */
export type DecodeReply =
  | { readonly kind: 'decoded'; readonly images: Uint8Array }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string };

function decodedAhead(split: Split, files: ImageFiles, requests: Iterator<ExampleRequest>): ExampleStream {
  const { size, resize } = files;
  const worker = new Worker(workerUrl(import.meta.url, 'decode-worker'), { workerData: { size, resize } });
  const replies: DecodeReply[] = [];
  const asked: ExampleRequest[] = [];
  let waiting: (() => void) | undefined;
  const arrived = (reply: DecodeReply) => {
    replies.push(reply);
    waiting?.();
  };
  const lost = (message: string) => arrived({ kind: 'failed', code: 'worker_lost', message });
  worker.on('message', arrived);
  worker.on('error', (thrown) => lost(`The worker that decodes images failed: ${messageOf(thrown)}.`));
  worker.on('exit', () => lost('The worker that decodes images ended before its work was done.'));
  const ask = () => {
    const { done, value } = requests.next();
    if (done) return;
    const paths = Array.from(value.indices, (index) => files.paths[index]!);
    asked.push(value);
    worker.postMessage({ paths, crop: value.crop } satisfies DecodeRequest);
  };
  for (let i = 0; i < REQUESTS_AHEAD; i++) ask();
  return {
    async next() {
      // Asked before waiting: the worker is busy with it while the caller computes.
      ask();
      const request = asked.shift();
      if (request === undefined) throw noMoreRequests();
      while (replies.length === 0) {
        await new Promise<void>((resolve) => {
          waiting = resolve;
        });
      }
      const reply = replies.shift()!;
      if (reply.kind === 'failed') throw new BonsaiError(reply.code, reply.message);
      const labels = Uint8Array.from(request.indices, (index) => split.labels[index]!);
      return {
        split: { count: labels.length, images: reply.images, labels },
        indices: Uint32Array.from(labels, (_, i) => i),
        isCropped: request.crop !== undefined,
      };
    },
    async close() {
      worker.removeAllListeners();
      await worker.terminate();
    },
  };
}

/** The reader asked for more than it requested. */
function noMoreRequests(): BonsaiError {
  return new BonsaiError('invalid_argument', 'There are no more examples: all requests were read.');
}
