import { createGunzip, createInflate } from 'node:zlib';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import { InvalidRequestError } from '../errors.ts';

/** The encodings of bodies that are understood. `deflate` is zlib's format, as HTTP means it. */
export type ContentEncoding = 'gzip' | 'deflate';

/** Output up to here is never suspicious: an image of zeros is small, and compresses a thousandfold. */
export const UNSUSPICIOUS_BYTES = 8 * 1024 * 1024;

/** Past that, real tensors and their JSON compress to no less than this; only what is made to explode does. */
export const MAX_RATIO = 200;

const CHUNK_BYTES = 64 * 1024;

/**
 * Decompresses, giving up as soon as the output is too large or too large for its input; work done until then is
 * bounded by the limit. Runs beside the calling thread.
 * @param onGrowth told of output bytes as they come; may throw to stop
 * @throws BonsaiError `body_too_large`; InvalidRequestError for damaged data; what `onGrowth` throws
 */
export function inflateBounded(
  bytes: Uint8Array,
  encoding: ContentEncoding,
  maxBytes: number,
  onGrowth: (bytes: number) => void = () => undefined,
): Promise<Uint8Array> {
  const options = { chunkSize: CHUNK_BYTES };
  const stream = encoding === 'gzip' ? createGunzip(options) : createInflate(options);
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const stop = (thrown: unknown) => {
      stream.destroy();
      reject(thrown);
    };
    stream.on('data', (chunk: Buffer) => {
      length += chunk.length;
      if (length > maxBytes) return stop(tooLarge(`is larger than ${maxBytes} bytes when decompressed`));
      if (length > UNSUSPICIOUS_BYTES && length > MAX_RATIO * bytes.byteLength)
        return stop(tooLarge(`unfolds to more than ${MAX_RATIO} times its ${bytes.byteLength} bytes`));
      try {
        onGrowth(chunk.length);
      } catch (thrown) {
        return stop(thrown);
      }
      chunks.push(chunk);
    });
    stream.on('end', () => resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, length)));
    stream.on('error', (cause) =>
      reject(
        new InvalidRequestError(`the ${encoding} body cannot be decompressed: ${messageOf(cause)}`, {
          cause,
        }),
      ),
    );
    stream.end(bytes);
  });
}

function tooLarge(what: string): BonsaiError {
  return new BonsaiError(
    'body_too_large',
    `the request body exceeds the maximum: it ${what}. Send fewer examples per request, or uncompressed ones`,
  );
}
