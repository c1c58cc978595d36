import { mkdir, rmdir, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { systemCodeOf } from './errors.ts';

/**
 * Makes a folder and what lies above it. Unlike `mkdir` with `recursive`, which on some Node.js versions tries for ever
 * where a file system takes no folders (/proc), each level is tried once.
 * @returns those that were not there, the outermost first
 * @throws the system's error
 */
export async function makeFolder(path: string): Promise<string[]> {
  const missing: string[] = [];
  for (let folder = resolve(path); !(await exists(folder)); folder = dirname(folder)) missing.push(folder);
  const made: string[] = [];
  for (const folder of missing.reverse()) {
    try {
      await mkdir(folder);
      made.push(folder);
    } catch (error) {
      if (systemCodeOf(error) !== 'EEXIST') throw error; // Somebody else was quicker, which is as good.
    }
  }
  return made;
}

/** Removes folders that `makeFolder` made and nothing was put into, after what was to lie there could not be written. */
export async function removeMade(made: readonly string[]): Promise<void> {
  for (const folder of made.toReversed()) await rmdir(folder).catch(() => undefined);
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (systemCodeOf(error) === 'ENOENT') return false;
    throw error;
  }
}
