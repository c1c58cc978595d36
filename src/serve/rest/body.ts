import type { IncomingMessage } from 'node:http';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import type { Holding } from '../byte-budget.ts';
import { type ContentEncoding, inflateBounded } from '../safety/inflate.ts';
import { HttpError } from './errors.ts';

/** The encodings of bodies that are understood, as the Accept-Encoding header of a refusal says. */
export const ACCEPTED_ENCODINGS = 'gzip, deflate';

export interface BodyRules {
  /** Holds for what arrives and for what comes out of it. */
  readonly maxBytes: number;
  /** Longest pause between two parts of a body. */
  readonly idleTimeoutMs: number;
  /** What the body takes of the server's memory, until its answer has left. */
  readonly holding: Holding;
  /** Tells a client that waits for it (Expect: 100-continue) to go on; called once the body may come. */
  readonly proceed?: () => void;
}

/**
 * Reads a request's whole body, decompressed. What is announced is checked before any of it is taken.
 * @throws BonsaiError `body_too_large`, `unsupported_media`, `cancelled`; InvalidRequestError for damaged compression;
 *   RefusedError if the server holds too many bytes already; HttpError 408 if the client pauses too long
 */
export async function readBody(request: IncomingMessage, rules: BodyRules): Promise<Uint8Array> {
  const encoding = encodingOf(request);
  const declared = Number(request.headers['content-length'] ?? Number.NaN);
  if (declared > rules.maxBytes) throw tooLarge(`has ${declared} bytes`, rules.maxBytes);
  // Room is taken as bytes come: clients that announce much and send little do not keep others out.
  if (!Number.isNaN(declared)) rules.holding.expect(declared);
  rules.proceed?.();
  const body = await collect(request, rules);
  if (encoding === undefined) return body;
  return inflateBounded(body, encoding, rules.maxBytes, (bytes) => rules.holding.add(bytes));
}

function encodingOf(request: IncomingMessage): ContentEncoding | undefined {
  const encoding = request.headers['content-encoding']?.trim().toLowerCase() ?? 'identity';
  if (encoding === 'identity' || encoding === '') return undefined;
  if (encoding === 'gzip' || encoding === 'deflate') return encoding;
  throw new BonsaiError(
    'unsupported_media',
    `unsupported Content-Encoding '${encoding}'; send ${ACCEPTED_ENCODINGS}`,
  );
}

function collect(
  request: IncomingMessage,
  { maxBytes, idleTimeoutMs, holding }: BodyRules,
): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const stop = (thrown: unknown) => {
      clearTimeout(timer);
      // The rest is for whoever answers to discard.
      request.off('data', onData).off('end', onEnd).pause();
      chunks.length = 0;
      reject(thrown);
    };
    const timer = setTimeout(
      () => stop(new HttpError(408, `nothing more of the body came within ${idleTimeoutMs} ms`)),
      idleTimeoutMs,
    );
    const onData = (chunk: Buffer) => {
      timer.refresh();
      length += chunk.length;
      if (length > maxBytes) return stop(tooLarge('goes on beyond that', maxBytes));
      try {
        holding.add(chunk.length);
      } catch (thrown) {
        return stop(thrown);
      }
      chunks.push(chunk);
    };
    const onEnd = () => {
      clearTimeout(timer);
      resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, length));
    };
    request.on('data', onData);
    request.on('end', onEnd);
    request.on('error', (cause) => stop(new BonsaiError('cancelled', messageOf(cause), { cause })));
    request.on('close', () => {
      if (!request.complete) stop(new BonsaiError('cancelled', 'The client has gone.'));
    });
  });
}

function tooLarge(what: string, maxBytes: number): BonsaiError {
  return new BonsaiError(
    'body_too_large',
    `the request body exceeds the maximum of ${maxBytes} bytes: it ${what}. Send fewer examples per request, or raise the server's limit on bodies`,
  );
}
