import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  link,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { isSameFile, replaceFile, targetOf } from './replace-file.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-replace-'));
});
afterEach(() => rm(folder, { recursive: true }));

const bytes = new TextEncoder().encode('new');
const at = (...names: string[]) => join(folder, ...names);

it('replaces a file as a whole, keeps its permissions, and leaves nothing beside it', async () => {
  await writeFile(at('x'), 'old and longer');
  await chmod(at('x'), 0o640);
  const before = await stat(at('x'));
  await replaceFile(at('x'), bytes);
  expect(await readFile(at('x'), 'utf8')).toBe('new');
  const after = await stat(at('x'));
  expect(after.mode & 0o777).toBe(0o640);
  // A file of its own: whoever has the old one open goes on reading it.
  expect(after.ino).not.toBe(before.ino);
  expect(await readdir(folder)).toEqual(['x']);
});

it('follows links: to a file, by way of a linked folder, to a file that is not there yet', async () => {
  await mkdir(at('real'));
  await writeFile(at('real', 'x'), 'old');
  await symlink('real', at('linked'));
  await symlink(join('linked', 'x'), at('link'));
  await symlink(join('linked', '..', 'fresh'), at('dangling'));
  await replaceFile(at('link'), bytes);
  await replaceFile(at('dangling'), bytes);
  expect(await readFile(at('real', 'x'), 'utf8')).toBe('new');
  expect(await readFile(at('fresh'), 'utf8')).toBe('new');
  expect(await readlink(at('link'))).toBe(join('linked', 'x'));
  expect(await targetOf(at('dangling'))).toMatchObject({ path: at('fresh'), kind: 'file' });
});

it.skipIf(process.platform === 'win32')(
  'writes into pipes and devices, which stay what they are',
  async () => {
    execFileSync('mkfifo', [at('pipe')]);
    const reader = spawn('cat', [at('pipe')], { stdio: ['ignore', 'pipe', 'inherit'] });
    const chunks: Buffer[] = [];
    reader.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
    const ended = once(reader, 'close');
    await replaceFile(at('pipe'), bytes);
    await ended;
    expect(Buffer.concat(chunks).toString()).toBe('new');
    expect((await stat(at('pipe'))).isFIFO()).toBe(true);
    await replaceFile('/dev/null', bytes);
    expect((await stat('/dev/null')).isCharacterDevice()).toBe(true);
  },
);

it("passes the system's error on, and leaves nothing behind", async () => {
  await symlink('loop', at('loop'));
  await writeFile(at('file'), '');
  await mkdir(at('folder', 'full'), { recursive: true });
  for (const [names, code] of [
    [['no', 'x'], 'ENOENT'],
    [['loop'], 'ELOOP'],
    [['file', 'x'], 'ENOTDIR'],
  ] as const) {
    await expect(replaceFile(at(...names), bytes)).rejects.toMatchObject({ code });
  }
  await expect(replaceFile(at('folder'), bytes)).rejects.toThrow();
  expect((await readdir(folder)).sort()).toEqual(['file', 'folder', 'loop']);
});

it('knows a file by any of its names', async () => {
  await writeFile(at('a'), '');
  await writeFile(at('b'), '');
  await symlink('a', at('symbolic'));
  await link(at('a'), at('hard'));
  for (const name of ['a', 'symbolic', 'hard']) expect(await isSameFile(at('a'), at(name))).toBe(true);
  for (const name of ['b', 'absent']) expect(await isSameFile(at('a'), at(name))).toBe(false);
  expect(await isSameFile('/dev/null', '/dev/null')).toBe(false);
});
