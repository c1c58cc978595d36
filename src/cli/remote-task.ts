import { request } from 'undici';
import { DTYPES, type DType } from '../base/dtype.ts';
import { BonsaiError, messageOf } from '../base/errors.ts';
import type { TaskManifest, TensorSpec } from '../repository/types.ts';

/** How long a server may take to tell about a model. */
export const METADATA_TIMEOUT_MS = 10_000;

/**
 * What a server says a task takes and gives (`GET /v2/models/{name}`), as a manifest without variants.
 * @param version a version that has to be ready; by default any will do
 * @throws BonsaiError `server_unreachable`; `model_not_found` or `version_not_found`, naming what is ready;
 *   `invalid_request` for an answer that is no metadata
 */
export async function fetchTask(url: string, model: string, version?: number): Promise<TaskManifest> {
  const path = `/v2/models/${encodeURIComponent(model)}`;
  const { status, body } = await ask(url, 'GET', path);
  if (status !== 200) {
    const models = [...(await readyVersions(url)).keys()];
    throw new BonsaiError(
      'model_not_found',
      `The server at ${url} has no model "${model}" ready (status ${status}). Ready: ${models.join(', ') || 'none'}.`,
    );
  }
  if (version !== undefined && (await ask(url, 'GET', `${path}/versions/${version}`)).status !== 200) {
    const versions = (await readyVersions(url)).get(model) ?? [];
    throw new BonsaiError(
      'version_not_found',
      `The server at ${url} has no version ${version} of "${model}" ready. Ready: ${versions.join(', ') || 'unknown'}. ` +
        'Load the version first, or leave --model-version out to take what the server chooses.',
    );
  }
  const metadata = (body ?? {}) as { inputs?: unknown; outputs?: unknown }; // Checked field by field below.
  return {
    schemaVersion: 1,
    task: model,
    inputs: tensorSpecs(metadata.inputs, url),
    outputs: tensorSpecs(metadata.outputs, url),
    variants: [],
  };
}

async function ask(
  url: string,
  method: 'GET' | 'POST',
  path: string,
): Promise<{ status: number; body: unknown }> {
  try {
    const { statusCode, body } = await request(`${url.replace(/\/$/, '')}${path}`, {
      method,
      ...(method === 'POST' && { body: '{}', headers: { 'content-type': 'application/json' } }),
      headersTimeout: METADATA_TIMEOUT_MS,
      bodyTimeout: METADATA_TIMEOUT_MS,
    });
    // What a server says beside a refusal need not be JSON; metadata has to be.
    if (statusCode !== 200) await body.dump();
    return { status: statusCode, body: statusCode === 200 ? await body.json() : undefined };
  } catch (cause) {
    throw new BonsaiError(
      'server_unreachable',
      `Nothing that speaks the Open Inference Protocol answers at ${url}: ${messageOf(cause)}. Start one: bonsai serve REPOSITORY.`,
      { cause },
    );
  }
}

/** The versions that are ready, by model, where the server has a repository index; it need not have one. */
async function readyVersions(url: string): Promise<Map<string, string[]>> {
  const versions = new Map<string, string[]>();
  const answer = await ask(url, 'POST', '/v2/repository/index').catch(() => undefined);
  if (answer?.status !== 200 || !Array.isArray(answer.body)) return versions;
  for (const entry of answer.body as { name?: unknown; version?: unknown; state?: unknown }[]) {
    if (typeof entry?.name !== 'string' || String(entry.state).toUpperCase() !== 'READY') continue;
    versions.set(entry.name, [...(versions.get(entry.name) ?? []), String(entry.version)]);
  }
  return versions;
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
