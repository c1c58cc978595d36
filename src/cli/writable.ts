import { constants, fstatSync, statSync } from 'node:fs';
import { access, open, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { isatty } from 'node:tty';
import { Option } from 'commander';
import {
  BonsaiError,
  InvalidArgumentError,
  systemCodeOf,
  systemPathOf,
  systemReason,
} from '../base/errors.ts';
import { makeFolder } from '../base/make-folder.ts';
import { isSameFile, targetOf } from '../base/replace-file.ts';

/**
 * Makes sure that a file can be written before long work is done for it. Its folder has to be there: one that is made
 * for a misspelt path would only be found later.
 * @param reads files that the command reads, none of which is replaced unless `force` is given
 * @throws InvalidArgumentError if the path is empty, a folder, or one of the files that are read
 * @throws BonsaiError `unwritable_path` with the system's reason
 */
export async function checkWritableFile(
  path: string,
  { reads = [], force = false }: { readonly reads?: readonly string[]; readonly force?: boolean } = {},
): Promise<void> {
  if (path.trim() === '') {
    throw new InvalidArgumentError('--out is empty; expected the file to write, such as network.onnx.');
  }
  const target = await targetOf(path).catch(async (cause) => {
    const folder = missingFolder(path, cause);
    if (systemCodeOf(cause) === 'ENOENT' && !/[\\/]$/.test(path)) {
      const where = folder === dirname(path) ? 'there' : 'it is a link to where there';
      throw new BonsaiError(
        'unwritable_path',
        `Cannot write ${path}: ${where} is no folder ${folder}. Make it (mkdir -p ${folder}), or choose another path; nothing was done yet.`,
        { cause },
      );
    }
    throw unwritable(path, folder, cause);
  });
  if (target.kind === 'folder' || (target.kind === 'missing' && /[\\/]$/.test(path))) {
    throw new InvalidArgumentError(
      `${path} is a folder; expected the file to write, such as ${join(path, 'network.onnx')}.`,
    );
  }
  if (target.kind === 'special') return; // A device or a pipe: opening it may already tell somebody that bytes come.
  if (target.kind === 'file') {
    for (const file of force ? [] : reads) {
      if (!(await isSameFile(file, path))) continue;
      throw new InvalidArgumentError(
        `--out is ${path}, which is the file that is read${file === path ? '' : ` (${file})`}. Choose another path, or say --force to replace it.`,
      );
    }
    await access(target.path, constants.W_OK).catch((cause) => {
      throw unwritable(path, dirname(target.path), cause);
    });
  }
  await probeFolder(dirname(target.path), path);
}

/** The folder that is not there: that of the path as it was given, or the one that its last symbolic link points into. */
function missingFolder(path: string, cause: unknown): string {
  const own = dirname(path);
  const found = systemPathOf(cause);
  return found === undefined || found === resolve(own) || found === path ? own : found;
}

/** Whether a path leads to this process' standard output (`/dev/stdout`): what is printed there would end up in the file. */
export function isStandardOutput(path: string): boolean {
  try {
    const [file, output] = [statSync(path, { bigint: true }), fstatSync(STANDARD_OUTPUT, { bigint: true })];
    // Devices that swallow everything, such as /dev/null, are no place where two things could meet.
    const isSink = file.isCharacterDevice() && !isatty(STANDARD_OUTPUT);
    return file.dev === output.dev && file.ino === output.ino && !isSink;
  } catch {
    return false; // It is not there, or standard output is closed.
  }
}

const STANDARD_OUTPUT = 1;

/** `--force` of commands that read one network and write another. */
export function forceOption(): Option {
  return new Option('--force', 'let --out replace a file that the command reads');
}

/** The same for a folder that files will be written into, which is made where it is missing. @throws BonsaiError `unwritable_path` */
export async function checkWritableFolder(path: string): Promise<void> {
  await makeFolder(path).catch((cause) => {
    throw unwritable(path, path, cause);
  });
  await probeFolder(path, path);
}

/**
 * Writes an empty file and removes it: permissions alone say too little (read-only file systems, quotas).
 * @param path what the complaint is about
 * @throws BonsaiError `unwritable_path`
 */
export async function probeFolder(folder: string, path: string): Promise<void> {
  const file = join(folder, `.bonsai-${process.pid}.tmp`);
  try {
    await (await open(file, 'w')).close();
  } catch (cause) {
    throw unwritable(path, folder, cause);
  } finally {
    await rm(file, { force: true }).catch(() => undefined); // Where it could not be made, there is nothing to remove.
  }
}

function unwritable(path: string, folder: string, cause: unknown): BonsaiError {
  return new BonsaiError(
    'unwritable_path',
    `Cannot write ${path}: ${systemReason(cause)} (folder ${folder}). Choose another path, or make the folder writable; nothing was done yet.`,
    { cause },
  );
}
