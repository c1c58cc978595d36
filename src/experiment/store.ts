import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { BonsaiError, systemCodeOf, systemReason } from '../base/errors.ts';
import { makeFolder } from '../base/make-folder.ts';
import { replaceFile } from '../base/replace-file.ts';

/** The version of the layout below. Readers refuse higher ones. */
export const RESULTS_SCHEMA_VERSION = 1;

/** What is kept of one experiment: all that figures are drawn from, and how it was made. */
export interface StoredResults {
  readonly schemaVersion: number;
  readonly experiment: string;
  /** What results depend on, as one text: others are never mixed with these. */
  readonly identity: string;
  /** ISO 8601. */
  readonly measuredAt: string;
  readonly tookMs: number;
  /** Name and value: machine, seed, lengths, command. */
  readonly made: readonly (readonly [string, string])[];
  /** Of the experiment's own kind; absent where it could not be run. */
  readonly results?: unknown;
  /** Why there are none, as a sentence. */
  readonly absent?: string;
}

/** The folder that an experiment's results lie in. */
export function folderOf(out: string, experiment: string): string {
  return join(out, experiment);
}

const RESULTS_FILE = 'results.json';
const PARTS_FOLDER = 'parts';

/**
 * @returns undefined where there are none
 * @throws BonsaiError `corrupt_dataset` for a file that holds none, or of a later layout
 */
export async function readResults(out: string, experiment: string): Promise<StoredResults | undefined> {
  const path = join(folderOf(out, experiment), RESULTS_FILE);
  const value = await readJson(path);
  if (value === undefined) return undefined;
  const stored = value as Partial<StoredResults> | null; // Checked next.
  if (
    stored?.experiment !== experiment ||
    !Number.isInteger(stored.schemaVersion) ||
    !Array.isArray(stored.made)
  ) {
    throw new BonsaiError(
      'corrupt_dataset',
      `${path} holds no results of "${experiment}": remove it to measure again.`,
    );
  }
  if (stored.schemaVersion! > RESULTS_SCHEMA_VERSION) {
    throw new BonsaiError(
      'corrupt_dataset',
      `${path} has layout ${stored.schemaVersion}, this Bonsai knows ${RESULTS_SCHEMA_VERSION}. Use a newer Bonsai.`,
    );
  }
  return stored as StoredResults;
}

/** Replaces the results as a whole, and lets go of the parts that they came from; those of what failed are kept for the next try. */
export async function writeResults(out: string, stored: StoredResults): Promise<void> {
  const folder = folderOf(out, stored.experiment);
  await writeText(folder, RESULTS_FILE, `${JSON.stringify(stored)}\n`);
  if (stored.results !== undefined) await rm(join(folder, PARTS_FOLDER), { recursive: true, force: true });
}

/** Writes a file of an experiment whole; compressed where its name ends in `.gz`. @throws BonsaiError `unwritable_path` */
export async function writeText(folder: string, file: string, text: string): Promise<void> {
  const path = join(folder, file);
  try {
    await makeFolder(folder);
    await replaceFile(path, file.endsWith('.gz') ? gzipSync(text) : Buffer.from(text));
  } catch (cause) {
    throw new BonsaiError(
      'unwritable_path',
      `Cannot write ${path}: ${systemReason(cause)}. Free some space there or make it writable, and run the same command again: what was written before is whole.`,
      { cause },
    );
  }
}

/** Measures what a key stands for, or gives what was kept of it under the same identity. */
export async function storedPart<T>(
  folder: string,
  key: string,
  identity: string,
  measure: () => Promise<T>,
): Promise<T> {
  const parts = join(folder, PARTS_FOLDER);
  const file = `${key.replaceAll(/[^a-z0-9._-]/gi, '_')}.json`;
  const kept = (await readJson(join(parts, file))) as { identity?: string; value?: T } | undefined;
  if (kept?.identity === identity && kept.value !== undefined) return kept.value;
  const value = await measure();
  await writeText(parts, file, JSON.stringify({ identity, value }));
  return value;
}

async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (systemCodeOf(cause) === 'ENOENT') return undefined;
    throw cause;
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new BonsaiError('corrupt_dataset', `${path} is no JSON: remove it to measure again.`, { cause });
  }
}
