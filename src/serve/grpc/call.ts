import {
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Clock } from '../../base/clock.ts';
import { type ByteBudget, Holding } from '../byte-budget.ts';
import { InvalidRequestError, RefusedError } from '../errors.ts';
import { encodeStatusMessage, GrpcError, STATUS, type Status, statusOf } from './errors.ts';
import {
  ACCEPTED_ENCODINGS,
  compressFrame,
  type Decompressor,
  ENCODINGS,
  type Encoding,
  type Framed,
  FrameReader,
} from './framing.ts';

/** Shorter answers are not compressed: they would hardly become shorter. */
export const MIN_COMPRESSED_BYTES = 1024;

const RESPONSE_HEADERS: OutgoingHttpHeaders = {
  ':status': 200,
  'content-type': 'application/grpc',
  'grpc-accept-encoding': ACCEPTED_ENCODINGS,
};

/** The Date header says nothing in gRPC. */
const RESPOND_OPTIONS = { waitForTrailers: true, sendDate: false };
const RESPOND_AND_END_OPTIONS = { endStream: true, sendDate: false };

const OK_TRAILERS: OutgoingHttpHeaders = { 'grpc-status': '0' };

/** Longest delay that a timer can have; who waits longer has no deadline to speak of. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export interface CallOptions {
  readonly stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
  readonly clock: Clock;
  readonly maxMessageBytes: number;
  /** Memory for messages that are on their way, over all protocols. */
  readonly bytes: ByteBudget;
  readonly decompressor: Decompressor;
  /** Told once what went wrong, unless the answer was OK. */
  readonly onFailure: (thrown: unknown, status: Status) => void;
}

/** One call: messages in, messages out, and exactly one status, whatever happens to either side. */
export class Call {
  readonly stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
  /** The client has gone, or its deadline has passed: what is done for the call is to be dropped. */
  onCancel: (() => void) | undefined;
  /** Since when the client has been due: to send the rest of a message, or to take the answer. */
  waitingSinceMs: number | undefined;
  readonly #options: CallOptions;
  readonly #reader: FrameReader;
  readonly #encoding: Encoding | undefined;
  readonly #deadlineMs: number | undefined;
  readonly #timer: NodeJS.Timeout | undefined;
  #trailers: OutgoingHttpHeaders = OK_TRAILERS;
  /** The memory of the message that is on its way. */
  readonly #holding: Holding;
  #isDone = false;

  /** @throws GrpcError, InvalidRequestError for headers that cannot be served; then `refuse` answers */
  constructor(options: CallOptions) {
    const { stream, headers, clock } = options;
    this.#options = options;
    this.stream = stream;
    this.headers = headers;
    this.#reader = new FrameReader(options.maxMessageBytes);
    this.#holding = new Holding(options.bytes);
    this.#encoding = encodingOf(headers['grpc-encoding']);
    const timeoutMs = timeoutOf(headers['grpc-timeout']);
    if (timeoutMs !== undefined && timeoutMs < MAX_TIMER_MS) {
      this.#deadlineMs = clock.nowMs() + timeoutMs;
      this.#timer = setTimeout(
        () => this.fail(new GrpcError(STATUS.DEADLINE_EXCEEDED, 'Deadline Exceeded')),
        Math.ceil(timeoutMs),
      );
    }
    stream.on('wantTrailers', () => {
      stream.sendTrailers(this.#trailers);
      // A reset must not overtake the trailers.
      if (this.#trailers !== OK_TRAILERS) setImmediate(stopReading, stream);
    });
    stream.on('close', () => {
      this.#finish(true);
      this.#holding.release();
    });
  }

  get isDone(): boolean {
    return this.#isDone;
  }

  /** Until the client's deadline; undefined: it has none. */
  remainingMs(): number | undefined {
    return this.#deadlineMs === undefined ? undefined : this.#deadlineMs - this.#options.clock.nowMs();
  }

  /**
   * Hands out every message that has come completely. What is wrong with the framing, or thrown by `take`, fails the
   * call: after it nothing can be told apart any more.
   * @param end told when no more will come and nothing is left over
   */
  receive(take: (framed: Framed) => void, end: () => void): void {
    this.#receive(take, end, false);
  }

  #receive(take: (framed: Framed) => void, end: () => void, isEndDue: boolean): void {
    const { stream, clock } = this.#options;
    const reader = this.#reader;
    this.waitingSinceMs = isEndDue ? clock.nowMs() : undefined;
    stream.on('data', (chunk: Buffer) => {
      if (this.#isDone) return;
      try {
        reader.push(chunk);
        for (let framed = reader.next(); framed !== undefined; framed = reader.next()) {
          this.#holding.release();
          take(framed);
        }
        this.#holdWhatCame();
        if (isEndDue) return;
        this.waitingSinceMs = reader.isInside ? (this.waitingSinceMs ?? clock.nowMs()) : undefined;
      } catch (thrown) {
        this.fail(thrown);
      }
    });
    stream.on('end', () => {
      if (this.#isDone) return;
      this.waitingSinceMs = undefined;
      if (reader.isInside) this.fail(new InvalidRequestError('the stream ends inside a message'));
      else end();
    });
  }

  /** Waits for the one message of the call and for its end. */
  receiveOne(take: (framed: Framed) => Promise<void>): void {
    let message: Framed | undefined;
    this.#receive(
      (framed) => {
        if (message !== undefined)
          throw new InvalidRequestError('the call takes one message, more than one came');
        message = framed;
      },
      () => {
        if (message === undefined)
          this.fail(new InvalidRequestError('the call takes one message, none came'));
        else take(message).catch((thrown: unknown) => this.fail(thrown));
        // An answer that the client takes slowly is not to hold the request's memory as well.
        message = undefined;
      },
      true,
    );
  }

  /** A message without its compression. @throws InvalidRequestError, BonsaiError `body_too_large` */
  decompress(bytes: Uint8Array): Promise<Uint8Array> {
    return this.#options.decompressor.run(bytes, this.#encoding, this.#options.maxMessageBytes);
  }

  /** The only message of an answer, and its status OK. */
  answer(frame: Buffer): void | Promise<void> {
    const encoding = this.#answerEncoding(frame);
    if (encoding === undefined) this.#answer(frame, RESPONSE_HEADERS);
    else return this.#answerCompressed(frame, encoding);
  }

  async #answerCompressed(frame: Buffer, encoding: Encoding): Promise<void> {
    this.#answer(await compressFrame(frame, encoding), { ...RESPONSE_HEADERS, 'grpc-encoding': encoding });
  }

  #answer(frame: Buffer, headers: OutgoingHttpHeaders): void {
    if (this.#isDone) return;
    // What a client does not take must not pile up without bound either. @throws RefusedError
    this.#holding.release();
    this.#holding.expect(frame.length);
    this.#finish(false);
    this.#holding.add(frame.length);
    this.waitingSinceMs = this.#options.clock.nowMs();
    this.stream.respond(headers, RESPOND_OPTIONS);
    this.stream.end(frame);
  }

  /** One of several messages. @returns resolves when the connection takes more */
  async write(frame: Buffer): Promise<void> {
    const encoding = this.#answerEncoding(frame);
    const sent = encoding === undefined ? frame : await compressFrame(frame, encoding);
    const { stream } = this;
    if (this.#isDone) return;
    this.begin();
    if (stream.write(sent)) return;
    this.waitingSinceMs ??= this.#options.clock.nowMs();
    await drained(stream);
    this.waitingSinceMs = undefined;
  }

  /** Sends the headers of an answer of several messages, where they have not been. */
  begin(): void {
    if (this.#isDone || this.stream.headersSent) return;
    const encoding = this.#encoding;
    this.stream.respond(
      encoding === undefined ? RESPONSE_HEADERS : { ...RESPONSE_HEADERS, 'grpc-encoding': encoding },
      RESPOND_OPTIONS,
    );
  }

  /** The end of an answer of several messages. */
  end(): void {
    if (this.#isDone) return;
    this.begin();
    this.#finish(false);
    this.stream.end();
  }

  /** Ends the call with the status of what was thrown. */
  fail(thrown: unknown): void {
    if (this.#isDone) return;
    const { status, message } = statusOf(thrown);
    this.#options.onFailure(thrown, status);
    this.#finish(true);
    const { stream } = this;
    const trailers = statusTrailers(status, message, thrown);
    if (stream.destroyed) return;
    if (stream.headersSent) {
      this.#trailers = trailers;
      stream.end();
    } else {
      stream.respond({ ...RESPONSE_HEADERS, ...trailers }, RESPOND_AND_END_OPTIONS);
      stopReading(stream);
    }
  }

  /** Ends a call whose client has been due for too long. */
  giveUp(): void {
    if (this.#isDone) this.stream.close(constants.NGHTTP2_CANCEL);
    else this.fail(new GrpcError(STATUS.DEADLINE_EXCEEDED, 'the request took too long to arrive'));
  }

  /** The client's own compression, where it is one that it can read and that pays. */
  #answerEncoding(frame: Buffer): Encoding | undefined {
    if (this.#encoding === undefined || frame.length < MIN_COMPRESSED_BYTES) return undefined;
    const accepted = String(this.headers['grpc-accept-encoding'] ?? '');
    return accepted.split(',').some((name) => name.trim() === this.#encoding) ? this.#encoding : undefined;
  }

  #finish(isCancelled: boolean): void {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#holding.release();
    clearTimeout(this.#timer);
    if (isCancelled) this.onCancel?.();
    this.onCancel = undefined;
  }

  /** Of a message that comes in pieces; what is only announced takes no memory yet. @throws RefusedError */
  #holdWhatCame(): void {
    const { heldBytes, missingBytes } = this.#reader;
    const holding = this.#holding;
    if (heldBytes > holding.bytes) {
      holding.add(heldBytes - holding.bytes);
      holding.expect(missingBytes);
    }
  }
}

/** Answers a call that never began. */
export function refuse(stream: ServerHttp2Stream, thrown: unknown): void {
  const { status, message } = statusOf(thrown);
  if (stream.destroyed || stream.headersSent) return;
  stream.respond(
    { ...RESPONSE_HEADERS, ...statusTrailers(status, message, thrown) },
    RESPOND_AND_END_OPTIONS,
  );
  stopReading(stream);
}

/** Answers what is not gRPC at all, as HTTP. */
export function refuseHttp(stream: ServerHttp2Stream, status: 405 | 415): void {
  stream.respond({ ':status': status }, RESPOND_AND_END_OPTIONS);
  stopReading(stream);
}

/** Whatever the client still sends is of no use: it is told so once the answer has left. */
function stopReading(stream: ServerHttp2Stream): void {
  if (stream.destroyed) return;
  stream.removeAllListeners('data');
  stream.resume();
  stream.close(constants.NGHTTP2_NO_ERROR);
}

function statusTrailers(status: Status, message: string, thrown: unknown): OutgoingHttpHeaders {
  return {
    'grpc-status': String(status),
    'grpc-message': encodeStatusMessage(message),
    // Source: gRPC proposal A6, "Pushback".
    ...(thrown instanceof RefusedError
      ? { 'grpc-retry-pushback-ms': String(Math.max(1, Math.ceil(thrown.retryAfterMs))) }
      : {}),
  };
}

function encodingOf(header: string | string[] | undefined): Encoding | undefined {
  const name = String(header ?? 'identity');
  if (name === 'identity') return undefined;
  const known = ENCODINGS.find((encoding) => encoding === name);
  if (known !== undefined) return known;
  throw new GrpcError(
    STATUS.UNIMPLEMENTED,
    `unsupported grpc-encoding '${name}'; send ${ACCEPTED_ENCODINGS}`,
  );
}

/** Milliseconds of the units of `grpc-timeout`. */
const UNIT_MS: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1000,
  m: 1,
  u: 1e-3,
  n: 1e-6,
};

function timeoutOf(header: string | string[] | undefined): number | undefined {
  if (header === undefined) return undefined;
  const [, digits, unit] = /^(\d{1,8})([HMSmun])$/.exec(String(header)) ?? [];
  if (digits !== undefined && unit !== undefined) return Number(digits) * UNIT_MS[unit]!;
  throw new InvalidRequestError(
    `grpc-timeout is '${header}'; expected up to eight digits and one of H, M, S, m, u, n`,
  );
}

/** Resolves when what was written has left, or never will. */
function drained(stream: ServerHttp2Stream): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stream.off('drain', done).off('close', done);
      resolve();
    };
    stream.once('drain', done).once('close', done);
  });
}
