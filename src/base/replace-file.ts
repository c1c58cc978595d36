import { chmod, lstat, open, readlink, realpath, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { systemCodeOf } from './errors.ts';

/**
 * Writes a file that a person named. A regular file is replaced as a whole, by way of a temporary file beside it, so
 * that the path holds either what it held before or all of the bytes; its permissions stay. Symbolic links are
 * followed, to a file that is not there yet as well. Devices and pipes are written into.
 * @throws the system's error
 */
export async function replaceFile(path: string, bytes: Uint8Array): Promise<void> {
  const target = await targetOf(path);
  if (target.kind === 'special') {
    const handle = await open(target.path, 'w');
    try {
      await handle.writeFile(bytes);
    } finally {
      await handle.close();
    }
    return;
  }
  temporaryFiles += 1;
  const temporary = `${target.path}.${process.pid}-${temporaryFiles}.tmp`;
  try {
    const handle = await open(temporary, 'wx');
    try {
      await handle.writeFile(bytes);
    } finally {
      await handle.close();
    }
    if (target.mode !== undefined) await chmod(temporary, target.mode);
    await rename(temporary, target.path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined); // The first failure is the one to report.
    throw cause;
  }
}

/** Distinguishes the temporary files of one process. */
let temporaryFiles = 0;

/** What lies, or would be made, at the end of a path. */
export interface FileTarget {
  /** Without symbolic links at its end; of devices and pipes as it was given, for those of `/proc` have no other. */
  readonly path: string;
  /** 'special': a device, a pipe or a socket. */
  readonly kind: 'missing' | 'file' | 'folder' | 'special';
  /** Permissions of a file. */
  readonly mode?: number;
}

/** @throws the system's error where the path leads nowhere: a folder is missing, or no folder, or links go in circles */
export async function targetOf(path: string): Promise<FileTarget> {
  try {
    const status = await stat(path);
    if (status.isDirectory()) return { path: await realpath(path), kind: 'folder' };
    if (!status.isFile()) return { path, kind: 'special' };
    return { path: await realpath(path), kind: 'file', mode: status.mode & PERMISSIONS };
  } catch (error) {
    if (systemCodeOf(error) !== 'ENOENT') throw error;
  }
  // Nothing is there: the place that the last link points to. Links in circles were refused above.
  let last = resolve(path);
  for (;;) {
    last = join(await realpath(dirname(last)), basename(last));
    const status = await lstat(last).catch(() => undefined);
    if (!status?.isSymbolicLink()) return { path: last, kind: 'missing' };
    last = resolve(dirname(last), await readlink(last));
  }
}

const PERMISSIONS = 0o7777;

/** Whether two paths lead to one regular file, be it by links or by two names. */
export async function isSameFile(a: string, b: string): Promise<boolean> {
  const [left, right] = await Promise.all(
    [a, b].map((path) => stat(path, { bigint: true }).catch(() => undefined)),
  );
  return (
    left !== undefined &&
    right !== undefined &&
    left.isFile() &&
    left.dev === right.dev &&
    left.ino === right.ino
  );
}
