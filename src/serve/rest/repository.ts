import { z } from 'zod';
import { BonsaiError } from '../../base/errors.ts';
import {
  type VersionPolicy,
  versionPolicySchema,
  type Warmup,
  warmupsOf,
  warmupsSchema,
} from '../../repository/model-config.ts';
import { InvalidRequestError } from '../errors.ts';
import { DEFAULT_LIMITS } from '../limits.ts';
import { type IndexEntry, type ModelRegistry, selectionOf } from '../model-registry.ts';
import type { VersionSelection } from '../served-model.ts';
import { modelConfig, SHARES_PARAMETER } from './config.ts';
import { type Json, parseJson } from './json.ts';

/** Nesting of administrative bodies: a configuration has four levels at most. */
const MAX_DEPTH = 32;

/** The index, of all models or, where the body says `{"ready": true}`, of the ready ones. */
export async function repositoryIndex(models: ModelRegistry, body: Json): Promise<readonly IndexEntry[]> {
  const { ready } = check(z.looseObject({ ready: z.boolean().optional() }), body, 'the request');
  const entries = await models.index();
  return ready === true ? entries.filter((entry) => entry.state === 'READY') : entries;
}

const PREFIX = 'file:';

/**
 * Loads a model. `parameters.config` may override its configuration: the version policy, which is how an orchestrator
 * switches versions, the shares of traffic, the number of threads and the warm-up. `file:<version>/<name>` brings
 * networks in base64, which take the place of the repository's. A later plain load keeps all of these.
 * @param maxFileBytes of all files together
 * @throws InvalidRequestError, LoadFailedError, NotReadyError, BonsaiError `body_too_large`
 */
export async function loadModel(
  models: ModelRegistry,
  name: string,
  body: Json | Uint8Array,
  slots: number,
  maxFileBytes: number = DEFAULT_LIMITS.maxBodyBytes,
): Promise<void> {
  const request = z.looseObject({ parameters: z.record(z.string(), z.string()).optional() });
  const value = body instanceof Uint8Array ? parseJson(body, MAX_DEPTH) : body;
  const { parameters = {} } = check(request, value, 'the request');
  const names = Object.keys(parameters);
  const unknown = names.find((key) => key !== 'config' && !key.startsWith(PREFIX));
  if (unknown !== undefined) {
    throw new InvalidRequestError(
      `a load request has no parameter '${unknown.slice(0, 80)}'; there are 'config' and 'file:<version>/<name>'`,
    );
  }
  const { config } = parameters;
  const texts = new Map(
    names.filter((key) => key.startsWith(PREFIX)).map((key) => [key.slice(PREFIX.length), parameters[key]!]),
  );
  const files = texts.size === 0 ? undefined : filesOf(texts, maxFileBytes);
  if (files !== undefined && config === undefined) {
    throw new InvalidRequestError(
      `a load request with files needs the parameter 'config' as well, such as {"backend":"onnxruntime"}`,
    );
  }
  const override = config === undefined ? {} : overrideOf(models, name, config, slots, files !== undefined);
  await models.load(name, override.selection, override.threads, { warmups: override.warmups, files });
}

/** Stops serving a model. That it has no dependents, which could be asked for, makes no difference. */
export async function unloadModel(models: ModelRegistry, name: string, body: Json): Promise<void> {
  const parameters = z.looseObject({ unload_dependents: z.boolean().optional() });
  check(z.looseObject({ parameters: parameters.optional() }), body, 'the request');
  await models.unload(name);
}

/** A body of JSON up to here is read at once; a larger one holds a network in base64. */
const INLINE_BYTES = 128 * 1024;

/**
 * The JSON of an administrative body; `{}` where there is none.
 * @param parseLarge reads large ones where that holds up nobody
 */
export function jsonBody(
  body: Uint8Array,
  parseLarge: (body: Uint8Array, maxDepth: number) => Promise<Json>,
): Json | Promise<Json> {
  if (body.byteLength === 0) return {};
  return body.byteLength <= INLINE_BYTES ? parseJson(body, MAX_DEPTH) : parseLarge(body, MAX_DEPTH);
}

function filesOf(texts: ReadonlyMap<string, string>, maxBytes: number): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  let total = 0;
  for (const [path, text] of texts) {
    const bytes = Buffer.from(text, 'base64');
    const digits = text.endsWith('==') ? text.length - 2 : text.length - Number(text.endsWith('='));
    // The decoder passes over what is no base64, so that too few bytes come out.
    if (bytes.byteLength !== Math.floor((digits * 3) / 4))
      throw new InvalidRequestError(`'${PREFIX}${path.slice(0, 80)}' is no base64`);
    total += bytes.byteLength;
    if (total > maxBytes) {
      throw new BonsaiError(
        'body_too_large',
        `the files of the load request exceed the maximum of ${maxBytes} bytes; put the model into the repository`,
      );
    }
    files.set(path, bytes);
  }
  return files;
}

const config = z.looseObject({
  name: z.string().optional(),
  version_policy: versionPolicySchema.optional(),
  model_warmup: warmupsSchema.optional(),
  parameters: z.record(z.string(), z.looseObject({ string_value: z.string() })).optional(),
});

const THREADS_PARAMETER = 'intra_op_thread_count';

/** More threads than any machine's cores only take turns. */
const MAX_THREADS = 256;

/** What a configuration changes; what it does not name stays. */
interface Override {
  readonly selection?: VersionSelection;
  /** Of one inference. */
  readonly threads?: number;
  readonly warmups?: readonly Warmup[];
}

/**
 * A client may send back what it was given with another version policy, other shares of traffic (`bonsai.shares`) or
 * another number of threads (`intra_op_thread_count`); any other change would be ignored, so it is refused.
 */
function overrideOf(
  models: ModelRegistry,
  name: string,
  text: string,
  slots: number,
  hasFiles: boolean,
): Override {
  const override = check(config, parseJson(Buffer.from(text), MAX_DEPTH), "parameter 'config'");
  const model = models.models.get(name);
  const known: Record<string, unknown> =
    model?.isReady === true ? modelConfig(model, undefined, slots) : { name };
  for (const [key, value] of Object.entries(override)) {
    if (APPLIED.has(key)) continue;
    // What another network takes and gives is seen once it is loaded.
    if (hasFiles && (key === 'input' || key === 'output' || key === 'default_model_filename')) continue;
    if (hasFiles && key === 'max_batch_size' && value === 0) continue;
    if (JSON.stringify(value) !== JSON.stringify(known[key])) {
      throw new InvalidRequestError(
        `parameter 'config': '${key}' of model '${name}' cannot be overridden; only version_policy, model_warmup and parameters can`,
      );
    }
  }
  const { [SHARES_PARAMETER]: shares, [THREADS_PARAMETER]: threads, ...others } = override.parameters ?? {};
  for (const key of Object.keys(others)) {
    throw new InvalidRequestError(
      `parameter 'config': there is no parameter '${key}' of models; there are '${SHARES_PARAMETER}' and '${THREADS_PARAMETER}'`,
    );
  }
  checkBackend(name, override);
  return {
    selection: selectionBy(override.version_policy as VersionPolicy | undefined, shares?.string_value), // As its schema says.
    threads: threads === undefined ? undefined : threadsOf(threads.string_value),
    warmups: override.model_warmup === undefined ? undefined : warmupsOf(override.model_warmup),
  };
}

/** Fields of a configuration that have an effect, or that say what is so anyway. */
const APPLIED: ReadonlySet<string> = new Set([
  'version_policy',
  'backend',
  'platform',
  'parameters',
  'model_warmup',
]);

function checkBackend(name: string, { backend, platform }: Record<string, unknown>): void {
  const isOnnx = [backend, platform].every(
    (value) =>
      value === undefined || value === '' || (typeof value === 'string' && value.startsWith('onnxruntime')),
  );
  if (isOnnx) return;
  throw new InvalidRequestError(
    `parameter 'config': model '${name}' cannot run on '${String(backend ?? platform)}'; the backend is 'onnxruntime'`,
  );
}

function threadsOf(text: string): number {
  const threads = /^\d{1,3}$/.test(text) ? Number(text) : 0;
  if (threads >= 1 && threads <= MAX_THREADS) return threads;
  throw new InvalidRequestError(
    `parameter 'config': '${THREADS_PARAMETER}' must be an integer from 1 to ${MAX_THREADS}, got '${text}'`,
  );
}

function selectionBy(
  policy: VersionPolicy | undefined,
  shares: string | undefined,
): VersionSelection | undefined {
  if (shares === undefined) return selectionOf(policy);
  if (policy !== undefined && 'specific' in policy) {
    const { versions } = policy.specific;
    return { kind: 'specific', versions, shares: sharesOf(shares, versions) };
  }
  throw new InvalidRequestError(
    `parameter 'config': '${SHARES_PARAMETER}' needs a version_policy that is specific and names the versions`,
  );
}

/** Shares as given, scaled to a sum of 1. */
function sharesOf(text: string, versions: readonly number[]): ReadonlyMap<number, number> {
  const where = `'${SHARES_PARAMETER}' of parameter 'config'`;
  const shares = check(
    z.record(z.string(), z.number().min(0)),
    parseJson(Buffer.from(text), MAX_DEPTH),
    where,
  );
  const total = Object.values(shares).reduce((sum, share) => sum + share, 0);
  if (!(total > 0) || !Number.isFinite(total))
    throw new InvalidRequestError(`${where} must hold a share above 0, such as {"2":0.9,"3":0.1}`);
  const unknown = Object.keys(shares).find((version) => !versions.includes(Number(version)));
  if (unknown !== undefined) {
    throw new InvalidRequestError(
      `${where} names version ${unknown}; the version_policy has ${versions.join(', ')}`,
    );
  }
  return new Map(Object.entries(shares).map(([version, share]) => [Number(version), share / total]));
}

function check<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const field = issue.path.length === 0 ? '' : ` ('${issue.path.join('.')}')`;
  throw new InvalidRequestError(`${where} is not as expected${field}: ${issue.message}`);
}
