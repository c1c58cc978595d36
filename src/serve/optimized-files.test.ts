import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MAX_OPTIMIZED_FILES, OptimizedFiles } from './optimized-files.ts';

let parent: string;
beforeEach(async () => {
  parent = await mkdtemp(join(tmpdir(), 'bonsai-files-'));
});
afterEach(() => rm(parent, { recursive: true, force: true }));

/** Makes files of so many bytes, and notes which. */
function maker(bytes: number) {
  const made: string[] = [];
  return {
    made,
    take: (files: OptimizedFiles<string>, key: string) =>
      files.take(key, bytes, async (path) => {
        made.push(key);
        await writeFile(path, Buffer.alloc(bytes));
        return `about ${key}`;
      }),
  };
}

test('a file that was made is there for the next, with what was said of it', async () => {
  const files = new OptimizedFiles<string>({ parent });
  const { take, made } = maker(10);
  const first = await take(files, 'a');
  await files.release(first);
  const again = await take(files, 'a');
  expect(again).toEqual({ key: 'a', path: first.path, sizeBytes: 10, said: 'about a' });
  expect(made).toEqual(['a']);
  await files.close();
  expect(await readdir(parent)).toEqual([]);
});

test('two who want the same file at once have it made once', async () => {
  const files = new OptimizedFiles<string>({ parent });
  const { take, made } = maker(10);
  const [one, other] = await Promise.all([take(files, 'a'), take(files, 'a')]);
  expect(one.path).toBe(other.path);
  expect(made).toEqual(['a']);
  await files.close();
});

test('keeps so many bytes and files, and what is read beyond that until it is let go', async () => {
  const files = new OptimizedFiles<string>({ parent, maxBytes: 25 });
  const { take, made } = maker(10);
  const held = await take(files, 'held');
  for (const key of ['a', 'b', 'c']) await files.release(await take(files, key));
  expect(existsSync(held.path)).toBe(true);
  await files.release(await take(files, 'c'));
  expect(made).toEqual(['held', 'a', 'b', 'c']);
  await files.release(held);
  const small = new OptimizedFiles<string>({ parent });
  const many = maker(1);
  for (let i = 0; i < MAX_OPTIMIZED_FILES + 3; i++) await small.release(await many.take(small, `k${i}`));
  const folder = (await readdir(parent)).find((name) => !held.path.includes(name))!;
  expect(await readdir(join(parent, folder))).toHaveLength(MAX_OPTIMIZED_FILES);
  await Promise.all([files.close(), small.close()]);
});

test('makes again what others have removed or cut off, the folder as well', async () => {
  const files = new OptimizedFiles<string>({ parent });
  const { take, made } = maker(10);
  const first = await take(files, 'a');
  await files.release(first);
  await truncate(first.path, 3);
  await files.release(await take(files, 'a'));
  await rm(parent, { recursive: true });
  await expect(take(files, 'a')).rejects.toMatchObject({ code: 'unwritable_path' });
  await mkdir(parent);
  await files.release(await take(files, 'a'));
  expect(made).toEqual(['a', 'a', 'a']);
  await files.close();
});

test('a file that could not be made leaves nothing behind', async () => {
  const files = new OptimizedFiles<string>({ parent });
  const fail = async (path: string) => {
    await writeFile(path, 'half');
    throw new Error('no network');
  };
  await expect(files.take('a', 10, fail)).rejects.toThrow('no network');
  const [folder] = await readdir(parent);
  expect(await readdir(join(parent, folder!))).toEqual([]);
  // Where there is no room, that is the reason.
  await expect(files.take('a', Number.MAX_SAFE_INTEGER, fail)).rejects.toMatchObject({
    code: 'unwritable_path',
    message: expect.stringMatching(/MiB left\. Free some, or set TMPDIR/),
  });
  await files.close();
});

test('removes what killed processes left behind, and nothing else', async () => {
  const gone = join(parent, 'bonsai-optimized-999999999-abc');
  const living = join(parent, `bonsai-optimized-${process.ppid}-abc`);
  const other = join(parent, 'something-else');
  for (const folder of [gone, living, other]) await mkdir(folder);
  const files = new OptimizedFiles<string>({ parent });
  await files.release(await maker(1).take(files, 'a'));
  expect([gone, living, other].map((folder) => existsSync(folder))).toEqual([false, true, true]);
  await files.close();
});
