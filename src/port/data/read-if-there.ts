import { readFile } from 'node:fs/promises';
import { BonsaiError, messageOf, systemCodeOf } from '../../base/errors.ts';

/** A file of a dataset, undefined where it is not there. @throws BonsaiError `missing_dataset` where it cannot be read */
export async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (cause) {
    const code = systemCodeOf(cause);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new BonsaiError('missing_dataset', `Cannot read ${path}: ${messageOf(cause)}`, { cause });
  }
}
