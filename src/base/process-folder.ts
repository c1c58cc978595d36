import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isAlive } from './is-alive.ts';

/**
 * Makes a folder for files that are worth nothing without this process, and removes those of processes that were killed. One of a
 * process that only looks dead from here has to be made again by it.
 * @param prefix of the name, such as `bonsai-optimized-`
 * @throws the system's error where it cannot be made
 */
export async function makeProcessFolder(parent: string, prefix: string): Promise<string> {
  for (const name of await readdir(parent).catch(() => [])) {
    const pid = name.startsWith(prefix) ? /^(\d+)-/.exec(name.slice(prefix.length))?.[1] : undefined;
    if (pid === undefined || isAlive(Number(pid))) continue;
    await rm(join(parent, name), { recursive: true, force: true }).catch(() => undefined);
  }
  return mkdtemp(join(parent, `${prefix}${process.pid}-`));
}
