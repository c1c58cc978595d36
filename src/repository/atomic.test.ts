import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { linkAtomically, writeAtomically } from './atomic.ts';

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'bonsai-atomic-'));
});
afterEach(() => rm(root, { recursive: true }));

/** No file system takes names of 300 characters, as a full one takes no file. */
const IMPOSSIBLE_NAME = 'm'.repeat(300);

it('leaves no folder behind where the file cannot be written', async () => {
  await expect(writeAtomically(join(root, 'task', '1', IMPOSSIBLE_NAME), 'text')).rejects.toMatchObject({
    code: 'unwritable_path',
  });
  await writeFile(join(root, 'file'), 'text');
  await expect(
    linkAtomically(join(root, 'file'), join(root, 'task', '1', IMPOSSIBLE_NAME)),
  ).rejects.toMatchObject({ code: 'unwritable_path' });
  expect(await readdir(root)).toEqual(['file']);
});

it('keeps folders that were there', async () => {
  await mkdir(join(root, 'task'));
  await expect(writeAtomically(join(root, 'task', IMPOSSIBLE_NAME), 'text')).rejects.toMatchObject({
    code: 'unwritable_path',
  });
  expect(await readdir(root)).toEqual(['task']);
});
