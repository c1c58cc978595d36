import { mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { checkWritableFile, checkWritableFolder } from './writable.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-writable-'));
});
afterEach(() => rm(folder, { recursive: true }));

it('takes files and folders that can be written, makes the folder, and leaves nothing in it', async () => {
  await checkWritableFile(join(folder, 'new', 'x.onnx'));
  await checkWritableFolder(join(folder, 'other'));
  expect((await readdir(folder, { recursive: true })).sort()).toEqual(['new', 'other']);
});

it('refuses a folder where a file is wanted', async () => {
  await expect(checkWritableFile(folder)).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(/is a folder; expected the file to write, such as .*network\.onnx/),
  });
});

it("tells the system's own reason", async () => {
  await writeFile(join(folder, 'file'), '');
  await symlink('loop', join(folder, 'loop'));
  await expect(checkWritableFile(join(folder, 'file', 'x.onnx'))).rejects.toMatchObject({
    code: 'unwritable_path',
    message: expect.stringMatching(/: ENOTDIR: not a directory \(folder/),
  });
  await expect(checkWritableFolder(join(folder, 'file'))).rejects.toThrow(/ENOTDIR/);
  await expect(checkWritableFolder(join(folder, 'loop'))).rejects.toThrow(/ELOOP: too many symbolic links/);
});
