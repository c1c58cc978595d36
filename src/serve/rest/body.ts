import type { IncomingMessage } from 'node:http';
import { promisify } from 'node:util';
import { gunzip, inflate } from 'node:zlib';
import { BonsaiError, messageOf, systemCodeOf } from '../../base/errors.ts';
import { InvalidRequestError } from '../errors.ts';

const decompressors = { gzip: promisify(gunzip), deflate: promisify(inflate) };

/** The encodings of bodies that are understood, as the Accept-Encoding header of a refusal says. */
export const ACCEPTED_ENCODINGS = 'gzip, deflate';

/**
 * Reads a request's whole body, decompressed. The limit holds for what arrives and for what comes out of it, so a
 * small body cannot unfold into a large one.
 * @throws BonsaiError `body_too_large`, `unsupported_media`, `cancelled`; InvalidRequestError for damaged compression
 */
export async function readBody(request: IncomingMessage, maxBytes: number): Promise<Uint8Array> {
  const encoding = request.headers['content-encoding'] ?? 'identity';
  if (encoding !== 'identity' && encoding !== 'gzip' && encoding !== 'deflate') {
    throw new BonsaiError(
      'unsupported_media',
      `unsupported Content-Encoding '${encoding}'; send ${ACCEPTED_ENCODINGS}`,
    );
  }
  const body = await collect(request, maxBytes);
  if (encoding === 'identity') return body;
  try {
    return await decompressors[encoding](body, { maxOutputLength: maxBytes });
  } catch (cause) {
    if (systemCodeOf(cause) === 'ERR_BUFFER_TOO_LARGE')
      throw tooLarge('is larger when decompressed', maxBytes);
    throw new InvalidRequestError(`the ${encoding} body cannot be decompressed: ${messageOf(cause)}`, {
      cause,
    });
  }
}

function collect(request: IncomingMessage, maxBytes: number): Promise<Uint8Array> {
  const declared = Number(request.headers['content-length'] ?? Number.NaN);
  if (declared > maxBytes) return Promise.reject(tooLarge(`has ${declared} bytes`, maxBytes));
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const onData = (chunk: Buffer) => {
      length += chunk.length;
      if (length > maxBytes) {
        // The rest is for whoever answers to discard.
        request.off('data', onData).off('end', onEnd).pause();
        chunks.length = 0;
        reject(tooLarge('goes on beyond that', maxBytes));
      } else {
        chunks.push(chunk);
      }
    };
    const onEnd = () => resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, length));
    request.on('data', onData);
    request.on('end', onEnd);
    request.on('error', (cause) => reject(new BonsaiError('cancelled', messageOf(cause), { cause })));
    request.on('close', () => reject(new BonsaiError('cancelled', 'The client has gone.')));
  });
}

function tooLarge(what: string, maxBytes: number): BonsaiError {
  return new BonsaiError(
    'body_too_large',
    `the request body exceeds the maximum of ${maxBytes} bytes: it ${what}. Send fewer examples per request, or raise the server's limit on bodies`,
  );
}
