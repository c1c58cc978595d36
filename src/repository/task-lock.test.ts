import { mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { LOCK_LIFETIME_MS, withTaskLock } from './task-lock.ts';

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'bonsai-lock-'));
  await mkdir(join(root, 'digits'));
});
afterEach(() => rm(root, { recursive: true }));

it('lets one work at a time, and lies there no longer than the work', async () => {
  let inside = 0;
  let most = 0;
  const work = async () => {
    most = Math.max(most, ++inside);
    await new Promise((resolve) => setImmediate(resolve));
    inside--;
  };
  await Promise.all(Array.from({ length: 5 }, () => withTaskLock(root, 'digits', work)));
  expect(most).toBe(1);
  await expect(withTaskLock(root, 'digits', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  expect(await readdir(join(root, 'digits'))).toEqual([]);
});

it('is broken where its holder died, and not while somebody works', async () => {
  const path = join(root, 'digits', 'bonsai.json.lock');
  await writeFile(path, 'somebody');
  const old = new Date(Date.now() - LOCK_LIFETIME_MS - 1000);
  await utimes(path, old, old);
  expect(await withTaskLock(root, 'digits', async () => 'done')).toBe('done');
  expect(await readdir(join(root, 'digits'))).toEqual([]);

  await writeFile(path, 'somebody at work');
  let isDone = false;
  const waiting = withTaskLock(root, 'digits', async () => {
    isDone = true;
  });
  // Longer than two looks.
  for (let look = 0; look < 200 && !isDone; look++) await new Promise((resolve) => setImmediate(resolve));
  expect(isDone).toBe(false);
  await rm(path);
  await waiting;
  expect(isDone).toBe(true);
});

it('is renewed while somebody works for long', async () => {
  const path = join(root, 'digits', 'bonsai.json.lock');
  const old = new Date(Date.now() - LOCK_LIFETIME_MS - 1000);
  await withTaskLock(root, 'digits', async () => {
    await utimes(path, old, old);
    await vi.waitFor(async () => expect((await stat(path)).mtimeMs).toBeGreaterThan(old.getTime() + 1000), {
      timeout: LOCK_LIFETIME_MS,
      interval: 50,
    });
  });
  expect(await readdir(join(root, 'digits'))).toEqual([]);
});

it('says where it cannot be taken', async () => {
  await expect(withTaskLock(root, 'bees', async () => 1)).rejects.toMatchObject({ code: 'unwritable_path' });
});
