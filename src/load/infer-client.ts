import { Pool } from 'undici';
import { BITS_PER_ELEMENT, type DType } from '../base/dtype.ts';
import { BonsaiError, InvalidArgumentError, messageOf, systemCodeOf } from '../base/errors.ts';
import { itemByteLength, type LabelledInputs } from './labelled-inputs.ts';

/**
 * What became of a request: answered; turned away at once (503, 429); failed; or not answered within the
 * client's or the server's deadline (504).
 */
export type Outcome = 'ok' | 'refused' | 'error' | 'timeout';

/** One answer of the server, scored. */
export interface Answer {
  readonly outcome: Outcome;
  /** The HTTP status; 0 if none came. */
  readonly status: number;
  /** The version that answered, where the server says it. */
  readonly version?: string;
  /** Whether the largest output element is the label's; only of answered requests. */
  readonly correct?: boolean;
  /** What went wrong, for outcomes other than `ok`. */
  readonly reason?: string;
}

export interface InferClientOptions {
  /** The server's origin, e.g. http://127.0.0.1:8000. */
  readonly url: string;
  readonly model: string;
  /** A version to ask for; without it the server chooses. */
  readonly version?: string;
  readonly inputs: LabelledInputs;
  /** Sockets at most; or those that several clients share, which whoever opened them closes (`openConnections`). */
  readonly connections: number | Pool;
}

/**
 * Sockets to one server, so many at most; what is beyond waits for one, whosever it is.
 * @throws InvalidArgumentError for an address that is none
 */
export function openConnections(url: string, most: number): Pool {
  // Deadlines are the caller's (an exact signal); undici's own timers only tick about every half second.
  return new Pool(originOf(url), { connections: most, pipelining: 1, headersTimeout: 0, bodyTimeout: 0 });
}

/** Error texts are cut here: enough to tell causes apart, small enough for 10^6 records. */
export const MAX_REASON_LENGTH = 200;

/**
 * Sends labelled inputs as binary tensor requests of the Open Inference Protocol and scores the answers.
 * Bodies are made once per item and reused, so that a request costs the client about 0.1 ms of CPU.
 */
export class InferClient {
  readonly #pool: Pool;
  readonly #isPoolOwn: boolean;
  readonly #path: string;
  readonly #inputs: LabelledInputs;
  readonly #itemBytes: number;
  readonly #head: Uint8Array;
  readonly #headers: Record<string, string>;
  readonly #bodies: (Uint8Array | undefined)[] = [];

  constructor({ url, model, version, inputs, connections }: InferClientOptions) {
    this.#isPoolOwn = typeof connections === 'number';
    this.#pool = typeof connections === 'number' ? openConnections(url, connections) : connections;
    this.#inputs = inputs;
    this.#itemBytes = itemByteLength(inputs);
    const versionPath = version === undefined ? '' : `/versions/${encodeURIComponent(version)}`;
    this.#path = `/v2/models/${encodeURIComponent(model)}${versionPath}/infer`;
    this.#head = new TextEncoder().encode(
      JSON.stringify({
        inputs: [
          {
            name: inputs.inputName,
            shape: [1, ...inputs.itemShape],
            datatype: v2DatatypeOf(inputs.dtype),
            parameters: { binary_data_size: this.#itemBytes },
          },
        ],
        outputs: [{ name: inputs.outputName, parameters: { binary_data: true } }],
      }),
    );
    this.#headers = {
      'content-type': 'application/octet-stream',
      'inference-header-content-length': String(this.#head.byteLength),
    };
  }

  /** Makes the bodies of these items now, so that sending does not have to. */
  prepare(items: Iterable<number>): void {
    for (const item of items) this.#bodyOf(item);
  }

  /** Sends one item. Never throws: whatever happens is an outcome. */
  async infer(item: number, signal?: AbortSignal): Promise<Answer> {
    let status = 0;
    try {
      const response = await this.#pool.request({
        path: this.#path,
        method: 'POST',
        headers: this.#headers,
        body: this.#bodyOf(item),
        signal: signal ?? null,
      });
      status = response.statusCode;
      const body = await response.body.bytes();
      if (status === 200) {
        const { version, output } = decodeAnswer(body, response.headers, this.#inputs.outputName);
        return { outcome: 'ok', status, version, correct: argmax(output) === this.#inputs.labels[item] };
      }
      const reason = new TextDecoder().decode(body.subarray(0, MAX_REASON_LENGTH));
      return { outcome: outcomeOfStatus(status), status, reason };
    } catch (error) {
      if (signal?.aborted) return { outcome: 'timeout', status, reason: 'no answer in time' };
      const code = systemCodeOf(error);
      const reason = `${code === undefined ? '' : `${code}: `}${messageOf(error)}`.slice(
        0,
        MAX_REASON_LENGTH,
      );
      return { outcome: 'error', status, reason };
    }
  }

  /** Closes its own sockets, at once. */
  async close(): Promise<void> {
    if (this.#isPoolOwn) await this.#pool.destroy();
  }

  #bodyOf(item: number): Uint8Array {
    let body = this.#bodies[item];
    if (body === undefined) {
      body = new Uint8Array(this.#head.byteLength + this.#itemBytes);
      body.set(this.#head);
      const start = item * this.#itemBytes;
      body.set(this.#inputs.bytes.subarray(start, start + this.#itemBytes), this.#head.byteLength);
      this.#bodies[item] = body;
    }
    return body;
  }
}

function originOf(url: string): string {
  try {
    return new URL(url).origin;
  } catch (error) {
    throw new InvalidArgumentError(`"${url}" is not a server address; expected e.g. http://127.0.0.1:8000.`, {
      cause: error,
    });
  }
}

/** The protocol's name of a dtype, e.g. FP32. */
function v2DatatypeOf(dtype: DType): string {
  if (dtype === 'bfloat16') return 'BF16';
  const match = /^(float|u?int)(8|16|32|64)$/.exec(dtype);
  if (match !== null) return `${match[1] === 'float' ? 'FP' : match[1]!.toUpperCase()}${match[2]}`;
  if (dtype === 'bool' && BITS_PER_ELEMENT.bool === 8) return 'BOOL';
  throw new InvalidArgumentError(`Tensors of dtype ${dtype} have no name in the inference protocol.`);
}

function outcomeOfStatus(status: number): Outcome {
  if (status === 503 || status === 429) return 'refused';
  return status === 504 ? 'timeout' : 'error';
}

/** The parts of an inference response that scoring needs. Border: `JSON.parse` of what a server sent. */
interface AnswerHead {
  readonly model_version?: unknown;
  readonly outputs?: readonly {
    readonly name?: unknown;
    readonly datatype?: unknown;
    readonly data?: unknown;
    readonly parameters?: { readonly binary_data_size?: unknown };
  }[];
}

/** Finds the float32 output in a response, be it binary (JSON, then bytes) or all JSON. */
function decodeAnswer(
  body: Uint8Array,
  headers: Record<string, string | string[] | undefined>,
  outputName: string,
): { version?: string; output: ArrayLike<number> } {
  const headLength = Number(headers['inference-header-content-length'] ?? body.byteLength);
  const parsed: unknown = JSON.parse(new TextDecoder().decode(body.subarray(0, headLength)));
  const head = (parsed ?? {}) as AnswerHead; // Every field read below is checked.
  const version = typeof head.model_version === 'string' ? head.model_version : undefined;
  let offset = headLength;
  for (const output of Array.isArray(head.outputs) ? head.outputs : []) {
    const size = output?.parameters?.binary_data_size;
    const length = typeof size === 'number' ? size : 0;
    if (output?.name === outputName && output.datatype === 'FP32') {
      if (Array.isArray(output.data))
        return { version, output: output.data.flat(Number.POSITIVE_INFINITY).map(Number) };
      if (length > 0 && length % 4 === 0 && offset + length <= body.byteLength) {
        // Copied, since the bytes behind a JSON head are rarely aligned.
        return { version, output: new Float32Array(body.slice(offset, offset + length).buffer) };
      }
    }
    offset += length;
  }
  throw new BonsaiError('invalid_request', `The answer has no float32 output "${outputName}".`);
}

function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
