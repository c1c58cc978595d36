import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Of more than that only names and sizes are looked at: to read it all would take longer than anybody waits for. */
const MAX_READ_BYTES = 2 ** 30;

/** A digest of files and of all that lies in folders; undefined where one of them is not there. */
export async function digestOfFiles(paths: readonly string[]): Promise<string | undefined> {
  const files: { readonly name: string; readonly path: string; readonly sizeBytes: number }[] = [];
  for (const path of paths) {
    const status = await stat(path).catch(() => undefined);
    if (status === undefined) return undefined;
    const names = status.isDirectory()
      ? (await readdir(path, { recursive: true })).toSorted().map((name) => [name, join(path, name)] as const)
      : [['', path] as const];
    for (const [name, file] of names) {
      const each = await stat(file);
      if (each.isFile()) files.push({ name, path: file, sizeBytes: each.size });
    }
  }
  const isRead = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) <= MAX_READ_BYTES;
  const hash = createHash('sha256');
  for (const { name, path, sizeBytes } of files) {
    hash.update(`${name}\0${sizeBytes}\0`);
    if (isRead) await addContent(hash, path);
  }
  return hash.digest('hex').slice(0, 16);
}

async function addContent(hash: Hash, path: string): Promise<void> {
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
}
