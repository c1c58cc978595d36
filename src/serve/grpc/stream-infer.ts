import type { InferAnswer, Submission } from '../data-plane.ts';
import type { Call } from './call.ts';
import { type GrpcError, statusOf } from './errors.ts';
import type { Framed } from './framing.ts';
import { decodeInfer, encodeStreamError, encodeStreamInfer } from './infer.ts';
import { readInferMessage } from './infer-message.ts';
import type { GrpcContext } from './server.ts';

/** Requests of one stream in work at a time; while so many are, no more of it is read. */
export const MAX_PENDING_PER_STREAM = 64;

/**
 * ModelStreamInfer: every request is answered by one response, in order. A request that fails is told in its response
 * and does not end the stream, unless the metadata says `triton_grpc_error: true`, as Triton has it.
 */
export class StreamInfer {
  readonly #context: GrpcContext;
  readonly #call: Call;
  readonly #endsAtError: boolean;
  readonly #underway = new Set<Submission>();
  #pending = 0;
  #last: Promise<void> = Promise.resolve();
  #isEnding = false;

  constructor(context: GrpcContext, call: Call) {
    this.#context = context;
    this.#call = call;
    this.#endsAtError = call.headers.triton_grpc_error === 'true';
    call.onCancel = () => {
      for (const submission of this.#underway) submission.cancel();
    };
    call.receive(
      (framed) => this.#take(framed),
      () => this.end(),
    );
    // A client may wait for the headers before it sends anything.
    call.begin();
  }

  /** Answers what was taken in, then ends the call. */
  end(reason?: GrpcError): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#last.then(() => (reason === undefined ? this.#call.end() : this.#call.fail(reason)));
  }

  #take(framed: Framed): void {
    if (this.#isEnding) return;
    const response = this.#respond(framed);
    // Whoever fails while earlier ones are being written is looked at in its turn.
    response.catch(() => undefined);
    if (++this.#pending >= MAX_PENDING_PER_STREAM) this.#call.stream.pause();
    this.#last = this.#last
      .then(async () => this.#call.write(await response))
      .catch((thrown: unknown) => this.#call.fail(thrown))
      .then(() => {
        if (--this.#pending < MAX_PENDING_PER_STREAM) this.#call.stream.resume();
      });
  }

  async #respond(framed: Framed): Promise<Buffer> {
    const { models, plane } = this.#context;
    let id = '';
    try {
      const bytes = framed.isCompressed ? await this.#call.decompress(framed.bytes) : framed.bytes;
      const message = readInferMessage(bytes);
      id = message.id;
      const decoded = decodeInfer(models, plane, message, this.#call.remainingMs());
      const submission = plane.submit(decoded.request);
      this.#underway.add(submission);
      let answer: InferAnswer;
      try {
        answer = await submission.answer;
      } finally {
        this.#underway.delete(submission);
      }
      return encodeStreamInfer(decoded, answer);
    } catch (thrown) {
      if (this.#endsAtError) throw thrown;
      return encodeStreamError(statusOf(thrown).message, id);
    }
  }
}
