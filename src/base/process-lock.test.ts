import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { takeProcessLock } from './process-lock.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-lock-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

it('keeps others out while a process lives, and not longer', async () => {
  const path = join(folder, 'lock');
  await writeFile(path, String(process.ppid));
  await expect(takeProcessLock(path, 'an experiment')).rejects.toThrow(
    `Process ${process.ppid} runs an experiment there`,
  );
  // No system has so many processes.
  for (const left of ['2147483646', '', 'x']) {
    await writeFile(path, left);
    const letGo = await takeProcessLock(path, 'an experiment');
    await letGo();
    expect(await readdir(folder)).toEqual([]);
  }
});

it('says why it cannot be taken', async () => {
  await expect(takeProcessLock(join(folder, 'none', 'lock'), 'an experiment')).rejects.toMatchObject({
    code: 'unwritable_path',
  });
});
