import { z } from 'zod';
import { BonsaiError } from '../../base/errors.ts';
import { InvalidRequestError } from '../errors.ts';
import type { IndexEntry, ModelRegistry } from '../model-registry.ts';
import type { VersionSelection } from '../served-model.ts';
import { modelConfig } from './config.ts';
import { parseJson } from './json.ts';

/** Nesting of administrative bodies: a configuration has four levels at most. */
const MAX_DEPTH = 32;

/** The index, of all models or, where the body says `{"ready": true}`, of the ready ones. */
export async function repositoryIndex(
  models: ModelRegistry,
  body: Uint8Array,
): Promise<readonly IndexEntry[]> {
  const { ready } = check(z.looseObject({ ready: z.boolean().optional() }), bodyOf(body), 'the request');
  const entries = await models.index();
  return ready === true ? entries.filter((entry) => entry.state === 'READY') : entries;
}

/**
 * Loads a model. `parameters.config` may override its configuration; what can be overridden is the version policy,
 * which is how an orchestrator switches versions. A later plain load keeps it.
 * @throws InvalidRequestError, LoadFailedError, BonsaiError `unsupported`, `missing_file`
 */
export async function loadModel(
  models: ModelRegistry,
  name: string,
  body: Uint8Array,
  slots: number,
): Promise<void> {
  const request = z.looseObject({ parameters: z.record(z.string(), z.string()).optional() });
  const { parameters = {} } = check(request, bodyOf(body), 'the request');
  const files = Object.keys(parameters).find((key) => key.startsWith('file:'));
  if (files !== undefined) {
    throw new BonsaiError(
      'unsupported',
      `'${files}': networks inside a load request are not offered; put them into the repository`,
    );
  }
  const { config } = parameters;
  await models.load(name, config === undefined ? undefined : selectionOf(models, name, config, slots));
}

const versionPolicy = z.union([
  z.strictObject({
    specific: z.strictObject({ versions: z.array(z.coerce.number().int().positive()).min(1) }),
  }),
  z.strictObject({ latest: z.strictObject({ num_versions: z.coerce.number().int().positive().default(1) }) }),
  z.strictObject({ all: z.strictObject({}) }),
]);
const config = z.looseObject({ name: z.string().optional(), version_policy: versionPolicy.optional() });

function selectionOf(
  models: ModelRegistry,
  name: string,
  text: string,
  slots: number,
): VersionSelection | undefined {
  const override = check(config, parseJson(Buffer.from(text), MAX_DEPTH), "parameter 'config'");
  const model = models.models.get(name);
  // A client may send back what it was given with another version policy; any other change would be ignored, so it is refused.
  const known: Record<string, unknown> =
    model?.isReady === true ? modelConfig(model, undefined, slots) : { name };
  for (const [key, value] of Object.entries(override)) {
    if (key === 'version_policy' || key === 'backend' || key === 'platform') continue;
    if (JSON.stringify(value) !== JSON.stringify(known[key])) {
      throw new InvalidRequestError(
        `parameter 'config': '${key}' of model '${name}' cannot be overridden; only version_policy can`,
      );
    }
  }
  const policy = override.version_policy;
  if (policy === undefined) return undefined;
  if ('specific' in policy) return { kind: 'specific', versions: policy.specific.versions };
  if ('latest' in policy) return { kind: 'latest', count: policy.latest.num_versions };
  return { kind: 'all' };
}

function bodyOf(body: Uint8Array): unknown {
  return body.byteLength === 0 ? {} : parseJson(body, MAX_DEPTH);
}

function check<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const field = issue.path.length === 0 ? '' : ` ('${issue.path.join('.')}')`;
  throw new InvalidRequestError(`${where} is not as expected${field}: ${issue.message}`);
}
