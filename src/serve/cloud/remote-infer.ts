import { Pool } from 'undici';
import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { DTYPE_BY_DATATYPE, datatypeOf } from '../../repository/datatypes.ts';
import type { TensorSpec } from '../../repository/types.ts';
import type { NamedTensor } from '../input-check.ts';
import { bytesFromTensor, tensorFromBytes } from '../tensor-bytes.ts';

/** What a remote server answered. */
export interface RemoteAnswer {
  /** In the order of the specs. */
  readonly outputs: readonly NamedTensor[];
  /** Its model and version, for people. */
  readonly by: string;
}

/** A model of a server that speaks the Open Inference Protocol with binary tensors, as Bonsai and Triton do. */
export interface RemoteModel {
  readonly url: string;
  /** @throws BonsaiError `server_unreachable` for whatever is not the answer that was asked for; the signal's reason */
  infer(
    inputs: readonly NamedTensor[],
    specs: readonly TensorSpec[],
    signal: AbortSignal,
  ): Promise<RemoteAnswer>;
  close(): Promise<void>;
}

/** An answer is a vector of classes; more is a mistake. */
const MAX_ANSWER_BYTES = 16e6;
const LENGTH_HEADER = 'inference-header-content-length';

/** @throws InvalidArgumentError for what is no address of a model */
export function remoteModel(url: string, connections: number): RemoteModel {
  let target: URL;
  try {
    target = new URL(url);
  } catch (cause) {
    throw new InvalidArgumentError(`"${url}" is no address; expected http://HOST:8000/v2/models/NAME.`, {
      cause,
    });
  }
  if (
    !/^https?:$/.test(target.protocol) ||
    !/\/v2\/models\/[^/]+(\/versions\/\d+)?\/?$/.test(target.pathname)
  )
    throw new InvalidArgumentError(`"${url}" names no model; expected http://HOST:8000/v2/models/NAME.`);
  const pool = new Pool(target.origin, { connections, pipelining: 1 });
  const path = `${target.pathname.replace(/\/$/, '')}/infer`;
  return {
    url,
    async infer(inputs, specs, signal) {
      const { head, body } = encoded(inputs, specs);
      const {
        statusCode,
        headers,
        body: answer,
      } = await pool.request({
        method: 'POST',
        path,
        signal,
        body,
        headers: { 'content-type': 'application/octet-stream', [LENGTH_HEADER]: String(head) },
      });
      const chunks: Buffer[] = [];
      let size = 0;
      for await (const chunk of answer) {
        size += (chunk as Buffer).length;
        if (size > MAX_ANSWER_BYTES) throw wrong(url, `answered more than ${MAX_ANSWER_BYTES} bytes`);
        chunks.push(chunk as Buffer);
      }
      const bytes = Buffer.concat(chunks);
      if (statusCode !== 200)
        throw wrong(url, `answered ${statusCode}: ${bytes.subarray(0, 200).toString()}`);
      return decoded(url, bytes, Number(headers[LENGTH_HEADER] ?? bytes.length), specs);
    },
    close: () => pool.destroy(),
  };
}

function encoded(
  inputs: readonly NamedTensor[],
  specs: readonly TensorSpec[],
): { head: number; body: Buffer } {
  const blobs = inputs.map(bytesFromTensor);
  const head = Buffer.from(
    JSON.stringify({
      inputs: inputs.map(({ name, dtype, shape }, i) => ({
        name,
        datatype: datatypeOf(dtype),
        shape,
        parameters: { binary_data_size: blobs[i]!.byteLength },
      })),
      outputs: specs.map(({ name }) => ({ name, parameters: { binary_data: true } })),
    }),
  );
  return { head: head.byteLength, body: Buffer.concat([head, ...blobs]) };
}

/** The parts of an answer that are looked at. */
interface AnswerHead {
  readonly model_name?: unknown;
  readonly model_version?: unknown;
  readonly outputs?: readonly {
    readonly name?: unknown;
    readonly datatype?: unknown;
    readonly shape?: unknown;
    readonly parameters?: { readonly binary_data_size?: unknown };
  }[];
}

function decoded(url: string, bytes: Buffer, head: number, specs: readonly TensorSpec[]): RemoteAnswer {
  let parsed: AnswerHead;
  try {
    parsed = JSON.parse(bytes.subarray(0, head).toString()) as AnswerHead; // Each part is checked below.
  } catch (cause) {
    throw wrong(url, 'answered something that is not JSON', cause);
  }
  let at = head;
  const found = new Map<string, NamedTensor>();
  for (const { name, datatype, shape, parameters } of parsed.outputs ?? []) {
    const size = parameters?.binary_data_size;
    const dtype = DTYPE_BY_DATATYPE.get(String(datatype));
    if (
      typeof size !== 'number' ||
      dtype === undefined ||
      !Array.isArray(shape) ||
      !shape.every(Number.isInteger)
    )
      throw wrong(url, `gave the output "${String(name)}" in a way that cannot be read`);
    const blob = Uint8Array.from(bytes.subarray(at, at + size));
    found.set(String(name), {
      ...tensorFromBytes(dtype, shape as number[], blob, `output '${String(name)}'`),
      name: String(name),
    });
    at += size;
  }
  const outputs = specs.map(({ name, dtype, shape }) => {
    const tensor = found.get(name);
    if (tensor === undefined || tensor.dtype !== dtype || !fits(tensor.shape, shape))
      throw wrong(
        url,
        `did not give "${name}" as ${datatypeOf(dtype)} of [${shape.join(',')}], as this server's network does`,
      );
    return tensor;
  });
  return { outputs, by: `${String(parsed.model_name)}/${String(parsed.model_version)}` };
}

function fits(shape: readonly number[], spec: readonly number[]): boolean {
  return shape.length === spec.length && spec.every((size, axis) => size === -1 || size === shape[axis]);
}

function wrong(url: string, problem: string, cause?: unknown): BonsaiError {
  return new BonsaiError('server_unreachable', `${url} ${problem}.`, { cause });
}
