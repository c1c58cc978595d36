import { existsSync } from 'node:fs';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { makeFolder } from './make-folder.ts';

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bonsai-folder-'));
});
afterAll(() => rm(root, { recursive: true }));

it('makes every level, and is content with what is there', async () => {
  const path = join(root, 'a', 'b', 'c');
  await Promise.all([makeFolder(path), makeFolder(path)]);
  await makeFolder(path);
  expect((await stat(path)).isDirectory()).toBe(true);
});

it('says so where a file is in the way', async () => {
  await writeFile(join(root, 'file'), '');
  await expect(makeFolder(join(root, 'file', 'a'))).rejects.toThrow(/ENOTDIR/);
});

it.runIf(existsSync('/proc/self'))('gives up where no folder can be made', async () => {
  await expect(makeFolder('/proc/bonsai/models')).rejects.toThrow();
});
