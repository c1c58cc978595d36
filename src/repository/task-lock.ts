import { randomUUID } from 'node:crypto';
import { link, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { BonsaiError, messageOf, systemCodeOf } from '../base/errors.ts';
import { checkTaskName } from './names.ts';

/** A lock that is older was left by a process that died: its holder renews it. */
export const LOCK_LIFETIME_MS = 10_000;
/** To write a family of large networks may take longer than a lock lives. */
const RENEWAL_MS = LOCK_LIFETIME_MS / 4;
/** So long it is waited for: longer than a dead one lies there. */
const PATIENCE_MS = 3 * LOCK_LIFETIME_MS;
const LOOK_MS = 20;

/** Beside the manifest; readers look for other names. */
const LOCK_FILE = 'bonsai.json.lock';

/**
 * Does something to a task's description that reads and writes it, while no other process does: several may measure one
 * family in a folder that they share.
 * @throws BonsaiError `already_running` where somebody else has the lock for longer than that can take; `unwritable_path`
 */
export async function withTaskLock<T>(root: string, task: string, work: () => Promise<T>): Promise<T> {
  const path = join(root, checkTaskName(task), LOCK_FILE);
  const own = randomUUID();
  const startedMs = performance.now();
  while (!(await take(path, own))) {
    if (performance.now() - startedMs > PATIENCE_MS)
      throw new BonsaiError(
        'already_running',
        `Another process has held ${path} for ${PATIENCE_MS / 1000} s, so that nothing is written there. If none is at work, remove that file.`,
      );
    await breakDead(path);
    await delay(LOOK_MS);
  }
  let renewing = Promise.resolve();
  const renewal = setInterval(() => {
    renewing = renew(path, own);
  }, RENEWAL_MS);
  try {
    return await work();
  } finally {
    clearInterval(renewal);
    await renewing;
    if ((await holder(path)) === own) await rm(path, { force: true });
  }
}

async function take(path: string, own: string): Promise<boolean> {
  try {
    await writeFile(path, own, { flag: 'wx' });
    return true;
  } catch (cause) {
    if (systemCodeOf(cause) === 'EEXIST') return false;
    throw new BonsaiError('unwritable_path', `Cannot write ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** Written anew, since its age is told by the clock of the file system. Never rejects. */
async function renew(path: string, own: string): Promise<void> {
  if ((await holder(path)) === own) await writeFile(path, own, { flag: 'r+' }).catch(() => undefined);
}

async function breakDead(path: string): Promise<void> {
  const age = await ageMs(path);
  if (age === undefined || age < LOCK_LIFETIME_MS) return;
  const dead = await holder(path);
  const aside = `${path}.${randomUUID()}`;
  await rename(path, aside).catch(() => undefined);
  // Who was quicker may hold a new one by now, which then is not ours to break.
  const moved = await holder(aside);
  if (moved !== undefined && moved !== dead) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}

/** By the clock of the file system, which stamps both files. */
async function ageMs(path: string): Promise<number | undefined> {
  const probe = `${path}.${randomUUID()}`;
  try {
    await writeFile(probe, '');
    return (await stat(probe)).mtimeMs - (await stat(path)).mtimeMs;
  } catch {
    return undefined; // It is gone.
  } finally {
    await rm(probe, { force: true }).catch(() => undefined);
  }
}

async function holder(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch(() => undefined);
}
