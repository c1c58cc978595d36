import { randomUUID } from 'node:crypto';
import { copyFile, type FileHandle, link, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BonsaiError, messageOf } from '../base/errors.ts';
import { makeFolder, removeMade } from '../base/make-folder.ts';

/** The file under another path as well: as a second name of it, or a copy where the file system has no such thing. */
export async function linkAtomically(from: string, path: string): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  let made: string[] = [];
  try {
    made = await makeFolder(dirname(path));
    await link(from, temporary).catch(() => copyFile(from, temporary));
    await rename(temporary, path);
    // Renaming one name of a file to another of the same file does nothing.
    await rm(temporary, { force: true });
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    await removeMade(made);
    throw unwritable(path, cause);
  }
}

/** Writes and syncs a sibling with a name of its own, then renames it over the path. */
export async function writeAtomically(path: string, content: Uint8Array | string): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  let made: string[] = [];
  try {
    made = await makeFolder(dirname(path));
    let handle: FileHandle | undefined;
    try {
      handle = await open(temporary, 'wx');
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle?.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    await removeMade(made);
    throw unwritable(path, cause);
  }
}

function unwritable(path: string, cause: unknown): BonsaiError {
  return new BonsaiError(
    'unwritable_path',
    `Cannot write ${path}: ${messageOf(cause)}. Check that the folder is writable and the disk has room.`,
    { cause },
  );
}
