import { request } from 'undici';
import { DTYPES, type DType } from '../base/dtype.ts';
import { BonsaiError, messageOf } from '../base/errors.ts';
import type { TaskManifest, TensorSpec } from '../repository/types.ts';

/** How long a server may take to tell about a model. */
export const METADATA_TIMEOUT_MS = 10_000;

/**
 * What a server says a task takes and gives (`GET /v2/models/{name}`), as a manifest without variants.
 * @throws BonsaiError `server_unreachable`, `model_not_found`, `invalid_request` for an answer that is no metadata
 */
export async function fetchTask(url: string, model: string): Promise<TaskManifest> {
  let status: number;
  let body: unknown;
  try {
    const response = await request(`${url.replace(/\/$/, '')}/v2/models/${encodeURIComponent(model)}`, {
      headersTimeout: METADATA_TIMEOUT_MS,
      bodyTimeout: METADATA_TIMEOUT_MS,
    });
    status = response.statusCode;
    body = await response.body.json();
  } catch (cause) {
    throw new BonsaiError(
      'server_unreachable',
      `Nothing that speaks the Open Inference Protocol answers at ${url}: ${messageOf(cause)}. Start one: bonsai serve REPOSITORY.`,
      { cause },
    );
  }
  if (status !== 200) {
    throw new BonsaiError(
      'model_not_found',
      `The server at ${url} has no model "${model}" ready (status ${status}).`,
    );
  }
  const metadata = body as { inputs?: unknown; outputs?: unknown }; // Checked field by field below.
  return {
    schemaVersion: 1,
    task: model,
    inputs: tensorSpecs(metadata.inputs, url),
    outputs: tensorSpecs(metadata.outputs, url),
    variants: [],
  };
}

/** The protocol's names of datatypes are ours in capitals, but for the floats. */
const PROTOCOL_NAMES: Readonly<Record<string, DType>> = {
  FP16: 'float16',
  FP32: 'float32',
  FP64: 'float64',
  BF16: 'bfloat16',
  BYTES: 'string',
};

function tensorSpecs(value: unknown, url: string): TensorSpec[] {
  if (!Array.isArray(value)) {
    throw new BonsaiError('invalid_request', `The metadata that ${url} gave has no list of tensors.`);
  }
  return value.map((entry: { name?: unknown; datatype?: unknown; shape?: unknown }) => {
    const datatype = String(entry.datatype);
    const dtype = PROTOCOL_NAMES[datatype] ?? DTYPES.find((name) => name === datatype.toLowerCase());
    if (typeof entry.name !== 'string' || dtype === undefined || !Array.isArray(entry.shape)) {
      throw new BonsaiError(
        'invalid_request',
        `The metadata that ${url} gave has a tensor without name, type or shape.`,
      );
    }
    return { name: entry.name, dtype, shape: entry.shape.map(Number) };
  });
}
