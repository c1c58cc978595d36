import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { digestOfFiles } from './digest-of-files.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-digest-'));
  await mkdir(join(folder, 'images', 'bees'), { recursive: true });
  await writeFile(join(folder, 'images', 'bees', '1.png'), 'one');
  await writeFile(join(folder, 'trace.csv'), '1\n2\n');
});
afterAll(() => rm(folder, { recursive: true, force: true }));

it('changes with what files hold, with their names, and not with where they lie', async () => {
  const paths = [join(folder, 'images'), join(folder, 'trace.csv')];
  const before = await digestOfFiles(paths);
  expect(await digestOfFiles(paths)).toBe(before);
  await writeFile(join(folder, 'trace.csv'), '1\n3\n');
  const changed = await digestOfFiles(paths);
  expect(changed).not.toBe(before);
  await writeFile(join(folder, 'images', 'bees', '2.png'), '');
  expect(await digestOfFiles(paths)).not.toBe(changed);
  await mkdir(join(folder, 'copy'));
  await writeFile(join(folder, 'copy', 'other.csv'), '1\n3\n');
  expect(await digestOfFiles([join(folder, 'copy', 'other.csv')])).toBe(await digestOfFiles([paths[1]!]));
});

it('knows nothing of files that are not there', async () => {
  expect(await digestOfFiles([join(folder, 'none')])).toBeUndefined();
});
