import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { messageOf, systemCodeOf } from '../base/errors.ts';
import { CorruptRepositoryError } from './errors.ts';
import { isTaskName } from './names.ts';
import { parseTextProto, type TextMessage, type TextValue } from './text-proto.ts';

/** What a Triton model configuration (`config.pbtxt`, or as JSON in a load request) says that a server here heeds. */
export interface ModelConfig {
  readonly versionPolicy?: VersionPolicy;
  readonly warmups: readonly Warmup[];
  /** The name of the file of labels, by output. */
  readonly labelFiles: ReadonlyMap<string, string>;
}

export type VersionPolicy =
  | { readonly specific: { readonly versions: readonly number[] } }
  | { readonly latest: { readonly num_versions: number } }
  | { readonly all: Record<string, never> };

/** Inferences to run before a version counts as ready. */
export interface Warmup {
  readonly name: string;
  readonly batchSize: number;
  readonly count: number;
  readonly inputs: ReadonlyMap<string, WarmupInput>;
}

export interface WarmupInput {
  /** Such as `TYPE_FP32`; the network's own type where it is not said. */
  readonly dataType: string | undefined;
  /** With or without the batch. */
  readonly dims: readonly number[];
  readonly source: 'zero' | 'random' | { readonly file: string };
}

export const CONFIG_FILE = 'config.pbtxt';

/** A configuration has some kilobytes. */
export const MAX_CONFIG_BYTES = 1024 * 1024;

const whole = z.coerce.number().int();

export const versionPolicySchema = z.union(
  [
    z.strictObject({ specific: z.strictObject({ versions: z.array(whole.positive()).min(1) }) }),
    z.strictObject({ latest: z.strictObject({ num_versions: whole.positive().default(1) }) }),
    z.strictObject({ all: z.strictObject({}) }),
  ],
  {
    error:
      'expected one of {"specific":{"versions":[1,2]}}, {"latest":{"num_versions":1}} and {"all":{}}, with versions above 0',
  },
);

const warmupInputSchema = z.looseObject({
  data_type: z.string().optional(),
  dims: z.array(whole.min(0)).default([]),
  zero_data: z.boolean().optional(),
  random_data: z.boolean().optional(),
  input_data_file: z.string().optional(),
});

/** A name and some more. So many runs at most, or a configuration could keep a server from ever being ready. */
export const MAX_WARMUP_COUNT = 1000;

export const warmupsSchema = z.array(
  z.looseObject({
    name: z.string().default(''),
    batch_size: whole.min(0).default(1),
    count: whole.min(0).max(MAX_WARMUP_COUNT).default(1),
    inputs: z.record(z.string(), warmupInputSchema).default({}),
  }),
);

const configSchema = z.looseObject({
  version_policy: versionPolicySchema.optional(),
  model_warmup: warmupsSchema.optional(),
  output: z
    .array(z.looseObject({ name: z.string().default(''), label_filename: z.string().optional() }))
    .optional(),
});

/**
 * Reads a task's `config.pbtxt`; undefined where it has none.
 * @throws CorruptRepositoryError naming the line or the field
 */
export async function readModelConfig(root: string, task: string): Promise<ModelConfig | undefined> {
  const file = join(root, task, CONFIG_FILE);
  let text: string;
  try {
    const { size } = await stat(file);
    if (size > MAX_CONFIG_BYTES)
      throw new CorruptRepositoryError({
        file,
        problem: `has ${size} bytes, more than ${MAX_CONFIG_BYTES}.`,
      });
    text = await readFile(file, 'utf8');
  } catch (cause) {
    if (cause instanceof CorruptRepositoryError) throw cause;
    if (systemCodeOf(cause) === 'ENOENT') return undefined;
    throw new CorruptRepositoryError({ file, problem: `cannot be read (${messageOf(cause)}).`, cause });
  }
  try {
    return modelConfigOf(plainOf(parseTextProto(text), ''));
  } catch (cause) {
    throw new CorruptRepositoryError({
      file,
      problem: `is no model configuration: ${messageOf(cause)}`,
      cause,
    });
  }
}

/** @param value as the JSON form of ModelConfig. @throws Error with the field that is not as expected */
export function modelConfigOf(value: unknown): ModelConfig {
  const parsed = configSchema.safeParse(value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw new Error(`${issue.path.join('.') || 'it'}: ${issue.message}`);
  }
  const { version_policy, model_warmup = [], output = [] } = parsed.data;
  return {
    versionPolicy: version_policy as VersionPolicy | undefined, // As its schema says.
    warmups: warmupsOf(model_warmup),
    labelFiles: new Map(
      output.flatMap(({ name, label_filename: file }) =>
        file === undefined || file === '' ? [] : [[name, file] as const],
      ),
    ),
  };
}

export function warmupsOf(samples: z.infer<typeof warmupsSchema>): Warmup[] {
  return samples.map(({ name, batch_size, count, inputs }) => ({
    name,
    batchSize: batch_size,
    // As in Triton, where 0 means once.
    count: Math.max(1, count),
    inputs: new Map(
      Object.entries(inputs).map(([input, { data_type, dims, random_data, input_data_file: file }]) => {
        const source =
          file !== undefined && file !== '' ? { file } : random_data === true ? 'random' : 'zero';
        return [input, { dataType: data_type, dims, source }] as const;
      }),
    ),
  }));
}

/** The labels of each output, by the names of their files. @throws CorruptRepositoryError for a file that is not there */
export async function readLabels(
  root: string,
  task: string,
  { labelFiles }: ModelConfig,
): Promise<ReadonlyMap<string, readonly string[]>> {
  const labels = new Map<string, readonly string[]>();
  for (const [output, name] of labelFiles) {
    const file = join(root, task, name);
    try {
      if (!isTaskName(name)) throw new Error('the name of a file in the folder of the model is expected');
      const text = await readFile(file, 'utf8');
      labels.set(output, text.replace(/\r?\n$/, '').split(/\r?\n/));
    } catch (cause) {
      throw new CorruptRepositoryError({ file, problem: `cannot be read (${messageOf(cause)}).`, cause });
    }
  }
  return labels;
}

/** Fields that are lists, and maps written as entries of key and value; by their paths. */
const LISTS = new Set([
  'input',
  'output',
  'instance_group',
  'instance_group.gpus',
  'instance_group.profile',
  'model_warmup',
  'input.dims',
  'output.dims',
  'version_policy.specific.versions',
  'dynamic_batching.preferred_batch_size',
  'model_warmup.inputs.value.dims',
]);
const MAPS = new Set(['parameters', 'metric_tags', 'cc_model_filenames', 'model_warmup.inputs']);

/** A message of the text format as the JSON form has it. */
function plainOf(message: TextMessage, path: string): Record<string, unknown> {
  const result: [string, unknown][] = [];
  for (const [name, values] of message) {
    const own = path === '' ? name : `${path}.${name}`;
    if (MAPS.has(own)) {
      const entries = values.map((value) => {
        const { key, value: item } = plainValue(value, own) as { key?: unknown; value?: unknown };
        return [String(key), item] as const;
      });
      result.push([name, Object.fromEntries(entries)]);
    } else if (LISTS.has(own)) {
      result.push([name, values.map((value) => plainValue(value, own))]);
    } else {
      result.push([name, plainValue(values.at(-1)!, own)]); // The last one counts, as in protobuf.
    }
  }
  return Object.fromEntries(result);
}

function plainValue(value: TextValue, path: string): unknown {
  if (value instanceof Map) return plainOf(value, path);
  if (typeof value === 'object' && 'identifier' in value) return value.identifier;
  return value;
}
