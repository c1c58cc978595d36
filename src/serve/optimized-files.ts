import { rm, stat, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BonsaiError, systemReason } from '../base/errors.ts';
import { makeProcessFolder } from '../base/process-folder.ts';

/** Files that are kept for the next load of the same network; of more, the one that was needed longest ago goes. */
export const MAX_OPTIMIZED_FILES = 64;
/** All of them together: a temporary folder may lie in memory. What is being loaded stays beyond that. */
export const MAX_OPTIMIZED_BYTES = 128 * 1024 * 1024;

/** Less room than so many times a network's own file may be why its optimised one could not be written. */
const SCARCE_RATIO = 2;

const PREFIX = 'bonsai-optimized-';

/** A file of what was made, with what its maker said. */
export interface OptimizedFile<T> {
  readonly key: string;
  readonly path: string;
  readonly sizeBytes: number;
  readonly said: T;
}

/**
 * Networks as ONNX Runtime has optimised them, in a temporary folder of this process: bounded in number and bytes, made again where
 * somebody has tidied up, and gone when the process ends.
 */
export class OptimizedFiles<T> {
  readonly #parent: string;
  readonly #maxBytes: number;
  /** By key, the one needed longest ago first. */
  readonly #files = new Map<string, OptimizedFile<T>>();
  /** Those being made, by key: who wants the same one waits for it. */
  readonly #making = new Map<string, Promise<OptimizedFile<T>>>();
  /** How many loads read a file now. */
  readonly #readers = new Map<string, number>();
  #folder: string | undefined;
  #isClosed = false;

  constructor(options: { readonly parent?: string; readonly maxBytes?: number } = {}) {
    this.#parent = options.parent ?? tmpdir();
    this.#maxBytes = options.maxBytes ?? MAX_OPTIMIZED_BYTES;
  }

  /**
   * The file of a key, made unless it is there. It stays until `release`.
   * @param key that can be a file's name
   * @param sourceBytes about so large the file will be
   * @throws what `make` throws; BonsaiError `unwritable_path` where there is no room or no folder
   */
  async take(
    key: string,
    sourceBytes: number,
    make: (path: string) => Promise<T>,
  ): Promise<OptimizedFile<T>> {
    this.#readers.set(key, (this.#readers.get(key) ?? 0) + 1);
    try {
      const file = (await this.#known(key)) ?? (await this.#madeOnce(key, sourceBytes, make));
      this.#files.delete(key);
      this.#files.set(key, file);
      return file;
    } catch (thrown) {
      await this.#let(key);
      throw thrown;
    }
  }

  /** To be called once a file that was taken is not read any more. */
  async release({ key }: OptimizedFile<T>): Promise<void> {
    await this.#let(key);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#files.clear();
    if (this.#folder !== undefined) await rm(this.#folder, { recursive: true, force: true });
  }

  async #let(key: string): Promise<void> {
    const readers = this.#readers.get(key)! - 1;
    if (readers > 0) this.#readers.set(key, readers);
    else this.#readers.delete(key);
    await this.#trim(MAX_OPTIMIZED_FILES, this.#maxBytes);
  }

  /** Undefined unless it is as it was written: others may tidy temporary folders, or fill them. */
  async #known(key: string): Promise<OptimizedFile<T> | undefined> {
    const file = this.#files.get(key);
    if (file === undefined) return undefined;
    const size = await stat(file.path).then(
      (status) => status.size,
      () => undefined,
    );
    if (size === file.sizeBytes) return file;
    this.#files.delete(key);
    return undefined;
  }

  #madeOnce(key: string, sourceBytes: number, make: (path: string) => Promise<T>): Promise<OptimizedFile<T>> {
    const underWay = this.#making.get(key);
    if (underWay !== undefined) return underWay;
    const making = this.#made(key, sourceBytes, make).finally(() => this.#making.delete(key));
    this.#making.set(key, making);
    return making;
  }

  async #made(
    key: string,
    sourceBytes: number,
    make: (path: string) => Promise<T>,
  ): Promise<OptimizedFile<T>> {
    const folder = await this.#folderThatIsThere();
    try {
      return await written(folder, key, make);
    } catch (thrown) {
      const isScarce = async () => (await roomIn(folder)) < SCARCE_RATIO * sourceBytes;
      if (!(await isScarce())) throw thrown;
      // What is kept for later is worth less than what is wanted now.
      await this.#trim(0, 0);
      if (await isScarce()) throw noRoom(folder, await roomIn(folder), thrown);
      return await written(folder, key, make);
    }
  }

  async #trim(maxFiles: number, maxBytes: number): Promise<void> {
    let bytes = 0;
    for (const { sizeBytes } of this.#files.values()) bytes += sizeBytes;
    for (const [key, { path, sizeBytes }] of [...this.#files]) {
      if (this.#files.size <= maxFiles && bytes <= maxBytes) return;
      if (this.#readers.has(key)) continue;
      this.#files.delete(key);
      bytes -= sizeBytes;
      await rm(path, { force: true });
    }
  }

  async #folderThatIsThere(): Promise<string> {
    if (this.#isClosed) throw new BonsaiError('aborted', 'The server stops: nothing is loaded any more.');
    if (this.#folder !== undefined && (await isFolder(this.#folder))) return this.#folder;
    try {
      this.#folder = await makeProcessFolder(this.#parent, PREFIX);
    } catch (cause) {
      throw new BonsaiError(
        'unwritable_path',
        `Optimised networks cannot be written to the temporary folder ${this.#parent}: ${systemReason(cause)}. Make it writable, or set TMPDIR to one that is.`,
        { cause },
      );
    }
    return this.#folder;
  }
}

async function written<T>(
  folder: string,
  key: string,
  make: (path: string) => Promise<T>,
): Promise<OptimizedFile<T>> {
  const path = join(folder, `${key}.onnx`);
  try {
    const said = await make(path);
    return { key, path, sizeBytes: (await stat(path)).size, said };
  } catch (thrown) {
    await rm(path, { force: true });
    throw thrown;
  }
}

function noRoom(folder: string, bytes: number, cause: unknown): BonsaiError {
  return new BonsaiError(
    'unwritable_path',
    `The optimised network cannot be written to the temporary folder ${folder}, which has ${(bytes / 1024 ** 2).toFixed(1)} MiB left. Free some, or set TMPDIR to another one.`,
    { cause },
  );
}

/** Bytes that may still be written there; infinite where the system does not tell. */
async function roomIn(folder: string): Promise<number> {
  return statfs(folder).then(
    ({ bavail, bsize }) => bavail * bsize,
    () => Number.POSITIVE_INFINITY,
  );
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (status) => status.isDirectory(),
    () => false,
  );
}
