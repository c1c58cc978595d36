import { readFile, rm, writeFile } from 'node:fs/promises';
import { BonsaiError, messageOf, systemCodeOf } from './errors.ts';
import { isAlive } from './is-alive.ts';

/**
 * Takes a file as a sign that this process works there, until it is let go. One that a killed process left counts for nothing.
 * @param what is done there, as in "another experiment"
 * @returns lets go of it
 * @throws BonsaiError `already_running` where another process of this machine has it; `unwritable_path`
 */
export async function takeProcessLock(path: string, what: string): Promise<() => Promise<void>> {
  for (let isSecond = false; ; isSecond = true) {
    try {
      await writeFile(path, String(process.pid), { flag: 'wx' });
      return () => rm(path, { force: true });
    } catch (cause) {
      if (systemCodeOf(cause) !== 'EEXIST')
        throw new BonsaiError('unwritable_path', `Cannot write ${path}: ${messageOf(cause)}`, { cause });
      const holder = Number(await readFile(path, 'utf8').catch(() => ''));
      const isHeld = holder > 0 && holder !== process.pid && isAlive(holder);
      if (isHeld || isSecond) {
        throw new BonsaiError(
          'already_running',
          `Process ${holder} runs ${what} there (${path}). Wait until it has ended, or choose another folder.`,
        );
      }
      await rm(path, { force: true });
    }
  }
}
