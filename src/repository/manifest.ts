import { z } from 'zod';
import { DTYPES } from '../base/dtype.ts';
import { messageOf } from '../base/errors.ts';
import { canonicalJson, digestOf } from './digest.ts';
import { CorruptRepositoryError } from './errors.ts';
import { MANIFEST_SCHEMA_VERSION, type TaskManifest } from './types.ts';

/**
 * Reads the text of a `bonsai.json`. Fields that this version does not know are kept.
 * @param file its path, for errors
 * @throws CorruptRepositoryError naming file and field; also for a document that is not the one its digest names
 */
export function parseManifest(text: string, file: string): ParsedManifest {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw new CorruptRepositoryError({ file, problem: `is not JSON (${messageOf(cause)}).`, cause });
  }
  const version = z.looseObject({ schemaVersion: z.int().positive() }).safeParse(raw);
  if (version.success && version.data.schemaVersion > MANIFEST_SCHEMA_VERSION) {
    throw new CorruptRepositoryError({
      file,
      field: 'schemaVersion',
      problem: `is ${version.data.schemaVersion}; this Bonsai reads up to ${MANIFEST_SCHEMA_VERSION}. Use a newer Bonsai.`,
    });
  }
  const result = manifestSchema.safeParse(raw);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    if (issue.path.length > 0)
      throw new CorruptRepositoryError({ file, field: issue.path.join('.'), problem: `${issue.message}.` });
    throw new CorruptRepositoryError({
      file,
      problem: `the whole document is no manifest (${issue.message}). Write the task again: bonsai port.`,
    });
  }
  const { [DIGEST_FIELD]: expected, ...manifest } = result.data;
  if (expected === undefined) return { manifest, hasDigest: false };
  // Over what the file says, not over what the schema made of it.
  const digest = digestOfManifest(raw as object); // The schema has accepted it, so it is one.
  if (digest === expected) return { manifest, hasDigest: true };
  throw new CorruptRepositoryError({
    file,
    field: DIGEST_FIELD,
    problem:
      `is ${expected}; the document has ${digest}. It was damaged, or changed by hand. Take it from a backup or ` +
      'write the task again; if the change is meant, remove this field.',
  });
}

export interface ParsedManifest {
  readonly manifest: TaskManifest;
  /** Whether the document named its own digest, which was then right. Those written before digests do not. */
  readonly hasDigest: boolean;
}

/** The text of a `bonsai.json`: the manifest and, last, the digest by which a reader notices damage. */
export function manifestText(manifest: TaskManifest): string {
  return `${JSON.stringify({ ...manifest, [DIGEST_FIELD]: digestOfManifest(manifest) }, null, 2)}\n`;
}

/** Where `bonsai.json` names its own digest: SHA-256 of the canonical JSON of all other fields. */
export const DIGEST_FIELD = 'manifestDigest';

function digestOfManifest(document: object): string {
  return digestOf(
    new TextEncoder().encode(
      canonicalJson(Object.fromEntries(Object.entries(document).filter(([field]) => field !== DIGEST_FIELD))),
    ),
  );
}

const ratio = z.number().min(0).max(1);
const count = z.int().nonnegative();
const measurement = z.looseObject({
  count,
  mean: z.number(),
  median: z.number(),
  min: z.number(),
  max: z.number(),
  p95: z.number().optional(),
  p99: z.number().optional(),
  standardDeviation: z.number().optional(),
});
const target = z.looseObject({
  fingerprint: z.string(),
  cpuModel: z.string(),
  architecture: z.string(),
  cpus: z.number().positive(),
  runtime: z.string(),
  runtimeVersion: z.string(),
  unpinned: z.literal(true).optional(),
  host: z.string().optional(),
  name: z.string().optional(),
});
const contested = z.looseObject({
  by: z.looseObject({ task: z.string(), version: z.int().positive(), digest: z.string().optional() }),
  share: ratio,
  maximumRps: z.number(),
  offeredRps: z.number(),
  answeredRps: z.number(),
  throughputRps: measurement,
  concurrency: count,
  noisy: z.literal(true).optional(),
});
const profile = z.looseObject({
  target,
  measuredAt: z.string(),
  latencyMs: measurement,
  latencySource: z.enum(['engine', 'server', 'network']).optional(),
  throughputRps: measurement,
  concurrency: count,
  noisy: z.literal(true).optional(),
  unbatchedRps: measurement.optional(),
  contested: z.array(contested).optional(),
  loadMs: z.number().optional(),
  memoryBytes: z.number().optional(),
});
const lineage = z.looseObject({
  parent: z.string().optional(),
  backbone: z.string().optional(),
  dataset: z.string().optional(),
  seed: z.number().optional(),
  epochs: z.number().optional(),
  pruning: z
    .looseObject({ criterion: z.string(), scope: z.string(), ratio: z.number(), align: z.number() })
    .optional(),
});
const variant = z.looseObject({
  version: z.int().min(1).max(999_999_999),
  digest: z.string().regex(/^[0-9a-f]{64}$/, 'expected 64 lower-case hexadecimal digits'),
  sizeBytes: count,
  accuracy: z.looseObject({ validation: ratio.optional(), test: ratio, testCount: count }),
  macs: z.number().nonnegative(),
  parameters: z.number().nonnegative(),
  lineage,
  profiles: z.record(z.string(), profile),
});
const tensorSpec = z.looseObject({
  name: z.string().min(1),
  dtype: z.enum(DTYPES),
  shape: z.array(z.int().min(-1)),
});
const manifestSchema = z.looseObject({
  schemaVersion: z.int().positive(),
  task: z.string().min(1),
  inputs: z.array(tensorSpec).min(1),
  outputs: z.array(tensorSpec).min(1),
  classes: z.array(z.string()).optional(),
  sloMs: z.number().positive().optional(),
  variants: z
    .array(variant)
    .refine(
      (list) => list.every((v, i) => i === 0 || v.version > list[i - 1]!.version),
      'versions must ascend',
    ),
  [DIGEST_FIELD]: z.string().optional(),
});
