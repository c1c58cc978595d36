import { link, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { checkWritableFile, checkWritableFolder } from './writable.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-writable-'));
});
afterEach(() => rm(folder, { recursive: true }));

it('takes files and folders that can be written, makes folders, and leaves nothing in them', async () => {
  await checkWritableFolder(join(folder, 'new', 'deeper'));
  await checkWritableFile(join(folder, 'new', 'x.onnx'));
  await symlink(join('new', 'x.onnx'), join(folder, 'dangling'));
  await checkWritableFile(join(folder, 'dangling'));
  await checkWritableFile('/dev/null');
  expect((await readdir(folder, { recursive: true })).sort()).toEqual([
    'dangling',
    'new',
    join('new', 'deeper'),
  ]);
});

it.each([
  ['', /--out is empty; expected the file to write/],
  ['.', /is a folder; expected the file to write, such as .*network\.onnx/],
  ['x.onnx/', /is a folder; expected the file to write/],
])('refuses "%s" where a file is wanted', async (name, message) => {
  const path = name === '' ? '' : `${folder}/${name}`;
  await expect(checkWritableFile(path)).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(message),
  });
});

it('does not make the folder of a file', async () => {
  await expect(checkWritableFile(join(folder, 'no', 'such', 'x.onnx'))).rejects.toMatchObject({
    code: 'unwritable_path',
    message: expect.stringMatching(/there is no folder .*such\. Make it \(mkdir -p /),
  });
  expect(await readdir(folder)).toEqual([]);
});

it('names the folder that is missing behind a link, not that of the link', async () => {
  await symlink(join('gone', 'x.onnx'), join(folder, 'relative'));
  await symlink(join(folder, 'far', 'away', 'x.onnx'), join(folder, 'absolute'));
  for (const [name, missing] of [
    ['relative', join(folder, 'gone')],
    ['absolute', join(folder, 'far', 'away')],
  ] as const) {
    const path = join(folder, name);
    await expect(checkWritableFile(path)).rejects.toMatchObject({
      code: 'unwritable_path',
      message: expect.stringContaining(
        `Cannot write ${path}: it is a link to where there is no folder ${missing}. Make it (mkdir -p ${missing})`,
      ),
    });
  }
});

it('refuses the file that is read, under any of its names, unless told otherwise', async () => {
  const file = join(folder, 'network.onnx');
  await writeFile(file, 'precious');
  await symlink(file, join(folder, 'symbolic.onnx'));
  await link(file, join(folder, 'hard.onnx'));
  for (const name of ['network.onnx', 'symbolic.onnx', 'hard.onnx']) {
    const out = join(folder, name);
    await expect(checkWritableFile(out, { reads: [file] })).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(/the file that is read.*--force/),
    });
    await checkWritableFile(out, { reads: [file], force: true });
  }
  await checkWritableFile(join(folder, 'other.onnx'), { reads: [file] });
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
