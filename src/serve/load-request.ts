import { z } from 'zod';
import {
  type VersionPolicy,
  versionPolicySchema,
  type Warmup,
  warmupsOf,
  warmupsSchema,
} from '../repository/model-config.ts';
import { InvalidRequestError } from './errors.ts';
import { parseJson } from './json.ts';
import { modelConfig, SHARES_PARAMETER } from './model-configuration.ts';
import { type ModelRegistry, selectionOf } from './model-registry.ts';
import type { VersionSelection } from './served-model.ts';

/** Nesting of administrative JSON: a configuration has four levels at most. */
export const MAX_ADMINISTRATIVE_DEPTH = 32;

/** Before the path of a file, in the names of a load's parameters. */
export const FILE_PREFIX = 'file:';

/** What a load request may say beside the model's name, in either protocol. */
export interface LoadParameters {
  /** A model configuration as JSON text. */
  readonly config?: string;
  /** Networks by `<version>/<name>`; they need a `config` beside them. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** @throws InvalidRequestError for a parameter of a load that does not exist */
export function checkLoadParameter(name: string): void {
  if (name === 'config' || name.startsWith(FILE_PREFIX)) return;
  throw new InvalidRequestError(
    `a load request has no parameter '${name.slice(0, 80)}'; there are 'config' and '${FILE_PREFIX}<version>/<name>'`,
  );
}

/**
 * Loads a model. `config` may override its configuration: the version policy, which is how an orchestrator switches
 * versions, the shares of traffic, the number of threads and the warm-up. Files take the place of the repository's. A
 * later plain load keeps all of these.
 * @throws InvalidRequestError, LoadFailedError, NotReadyError
 */
export async function loadModel(
  models: ModelRegistry,
  name: string,
  { config, files: given }: LoadParameters,
  slots: number,
): Promise<void> {
  const files = given.size === 0 ? undefined : given;
  if (files !== undefined && config === undefined) {
    throw new InvalidRequestError(
      `a load request with files needs the parameter 'config' as well, such as {"backend":"onnxruntime"}`,
    );
  }
  const override = config === undefined ? {} : overrideOf(models, name, config, slots, files !== undefined);
  await models.load(name, override.selection, override.threads, { warmups: override.warmups, files });
}

const configSchema = z.looseObject({
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
  const override = checkShape(
    configSchema,
    parseJson(Buffer.from(text), MAX_ADMINISTRATIVE_DEPTH, "the JSON of the parameter 'config'"),
    "parameter 'config'",
  );
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
  const shares = checkShape(
    z.record(z.string(), z.number().min(0)),
    parseJson(Buffer.from(text), MAX_ADMINISTRATIVE_DEPTH, "the JSON of the parameter 'config'"),
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

/** The value as its schema has it. @throws InvalidRequestError naming the field that is not */
export function checkShape<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const field = issue.path.length === 0 ? '' : ` ('${issue.path.join('.')}')`;
  throw new InvalidRequestError(`${where} is not as expected${field}: ${issue.message}`);
}
