import { open, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BonsaiError, InvalidArgumentError, messageOf } from '../base/errors.ts';
import { makeFolder } from '../base/make-folder.ts';

/**
 * Makes sure that a file can be written before long work is done for it. The folder is made where it is missing.
 * @throws InvalidArgumentError if the path is a folder; BonsaiError `unwritable_path` with the system's reason
 */
export async function checkWritableFile(path: string): Promise<void> {
  const status = await stat(path).catch(() => undefined);
  if (status?.isDirectory()) {
    throw new InvalidArgumentError(
      `${path} is a folder; expected the file to write, such as ${join(path, 'network.onnx')}.`,
    );
  }
  await probe(dirname(path), path);
}

/** The same for a folder that files will be written into. @throws BonsaiError `unwritable_path` */
export async function checkWritableFolder(path: string): Promise<void> {
  await probe(path, path);
}

/** Writes an empty file and removes it: permissions alone say too little (read-only file systems, quotas). */
async function probe(folder: string, path: string): Promise<void> {
  const file = join(folder, `.bonsai-${process.pid}.tmp`);
  try {
    await makeFolder(folder);
    await (await open(file, 'w')).close();
  } catch (cause) {
    // The system's sentence without the call and the file that only this probe knows: "EROFS: read-only file system".
    const reason = messageOf(cause).replace(/, \w+ '.*$/, '');
    throw new BonsaiError(
      'unwritable_path',
      `Cannot write ${path}: ${reason} (folder ${folder}). Choose another path, or make the folder writable; nothing was done yet.`,
      { cause },
    );
  } finally {
    await rm(file, { force: true }).catch(() => undefined); // Where it could not be made, there is nothing to remove.
  }
}
