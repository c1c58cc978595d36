import { createHash } from 'node:crypto';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { makeFolder } from '../base/make-folder.ts';
import { canonicalJson } from '../repository/digest.ts';
import { readSealed, writeSealed } from './sealed-file.ts';

/**
 * Results of finished steps in a folder, one sealed file each, named by the step and a digest of all that its result
 * depends on. A file that is missing, damaged or of another version counts as absent: the step is done again.
 * @param shared where other machines leave theirs; what is not in the folder is taken from there
 */
export function openStepCache(directory: string, shared?: SharedSteps): StepCache {
  const path = (key: string, extension: string) => join(directory, `${key}.${extension}`);
  const saved = new Set<string>();
  return {
    key: (step, inputs) =>
      `${step}-${digestOf(canonicalJson({ step, version: STEP_CACHE_VERSION, inputs })).slice(0, KEY_DIGITS)}`,
    json: (key) =>
      slotOf(
        path(key, 'step'),
        ({ result }) => result as never, // Written under this key by `save`, whose type is the same.
        (result) => ({ result, parts: [] }),
        saved,
        shared,
      ),
    scratch: (key) =>
      slotOf(
        path(key, 'step'),
        ({ result }) => result as never, // As above.
        (result) => ({ result, parts: [] }),
        saved,
      ),
    model: (key) =>
      slotOf(
        path(key, 'step'),
        ({ payload }) => payload,
        (bytes) => ({ result: 'network', parts: [bytes] }),
        saved,
        shared,
      ),
    drop: (key) => rm(path(key, 'step'), { force: true }),
    checkpointPath: (key) => path(key, 'checkpoint'),
    dropCheckpoint: (key) => rm(path(key, 'checkpoint'), { force: true }),
  };
}

export interface StepCache {
  /** A name for a step's result: a digest over the step and all that its result depends on. */
  key(step: string, inputs: unknown): string;
  json<T>(key: string): Slot<T>;
  /** For what a step has before it is done: of this folder alone. */
  scratch<T>(key: string): Slot<T>;
  model(key: string): Slot<Uint8Array>;
  /** Removes a result that is of no use any more. */
  drop(key: string): Promise<void>;
  /** Where the step may keep what it needs to go on after an interruption. */
  checkpointPath(key: string): string;
  dropCheckpoint(key: string): Promise<void>;
}

/** A place that several machines see, such as a bucket; files in it are whole or not there. */
export interface SharedSteps {
  /** The file of a step that somebody has finished; undefined where nobody has. */
  read(name: string): Promise<Uint8Array | undefined>;
  write(name: string, bytes: Uint8Array): Promise<void>;
}

export interface Slot<T> {
  /** Undefined: not there, or not as it was written. */
  load(): Promise<T | undefined>;
  /** The same with how long the step took, where `save` was told. */
  open(): Promise<KeptStep<T> | undefined>;
  /** @throws BonsaiError `unwritable_path` */
  save(result: T, tookMs?: number): Promise<void>;
}

export interface KeptStep<T> {
  readonly result: T;
  /** It was there before this cache was opened. */
  readonly isEarlier: boolean;
  readonly tookMs?: number;
}

/** Part of every key: raise it when a step's meaning changes, and old results are made again. */
export const STEP_CACHE_VERSION = 1;

/** 96 bits: no two keys meet by accident, and file names stay readable. */
export const KEY_DIGITS = 24;

/** SHA-256, lower-case hexadecimal. */
export function digestOf(content: string | Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

/** @param saved paths whose results are of this cache: this one is added when it is saved to */
function slotOf<T>(
  path: string,
  read: (file: { result: unknown; payload: Uint8Array }) => T,
  write: (result: T) => { result: unknown; parts: readonly Uint8Array[] },
  saved: Set<string>,
  shared?: SharedSteps,
): Slot<T> {
  const found = async () => {
    const file = await readSealed(path);
    if (file.kind === 'intact' || shared === undefined) return file;
    const bytes = await shared.read(basename(path));
    if (bytes === undefined) return file;
    await makeFolder(dirname(path));
    await writeFile(arriving(path), bytes);
    await rename(arriving(path), path);
    return readSealed(path);
  };
  const open = async () => {
    const file = await found();
    if (file.kind !== 'intact') return undefined;
    const { header, payload } = file;
    if (typeof header !== 'object' || header === null || !('result' in header)) return undefined;
    const tookMs = 'tookMs' in header && typeof header.tookMs === 'number' ? header.tookMs : undefined;
    const result = read({ result: header.result, payload });
    return { result, isEarlier: !saved.has(path), ...(tookMs !== undefined && { tookMs }) };
  };
  return {
    open,
    load: async () => (await open())?.result,
    async save(step, tookMs) {
      const { result, parts } = write(step);
      const header = { result, ...(tookMs !== undefined && { tookMs }) };
      saved.add(path);
      if (shared === undefined) return writeSealed(path, header, parts);
      // The others have it first: what lies here would not be brought to them another time.
      await writeSealed(arriving(path), header, parts);
      await shared.write(basename(path), await readFile(arriving(path)));
      await rename(arriving(path), path);
    },
  };
}

function arriving(path: string): string {
  return `${path}.${process.pid}.shared`;
}
