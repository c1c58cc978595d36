import { stat, statfs } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { messageOf } from '../../base/errors.ts';
import { probeFolder } from '../writable.ts';
import { bytesText, type Finding } from './finding.ts';

/** A family of a middle-sized network with its checkpoints takes some hundred MB. */
export const LEAST_SPACE_BYTES = 1 * 2 ** 30;

export interface WantedFolder {
  readonly path: string;
  /** What is written there. */
  readonly use: string;
  /** How to choose another one. */
  readonly option: string;
  /** Most do without it. */
  readonly isOptional?: boolean;
}

/** Whether the folder can be written, or made where it is missing, and what space is left. Leaves nothing behind. */
export async function checkFolder({ path, use, option, isOptional }: WantedFolder): Promise<Finding> {
  const name = `folder ${path}`;
  const folder = await nearestExisting(path);
  try {
    await probeFolder(folder, path);
  } catch (thrown) {
    return {
      name,
      status: isOptional ? 'warn' : 'fail',
      found: messageOf(thrown).split('. ')[0]!,
      advice: `${use} are kept there: make it writable (who runs this: ${whoami()}), or choose another one with ${option}.`,
    };
  }
  const { bavail, bsize } = await statfs(folder);
  const freeBytes = bavail * bsize;
  const found = `${folder === resolve(path) ? 'writable' : `can be made in ${folder}`}, ${bytesText(freeBytes)} free, for ${use}`;
  if (freeBytes >= LEAST_SPACE_BYTES) return { name, status: 'ok', found };
  const advice = `Make room (${bytesText(LEAST_SPACE_BYTES)} are enough for most), or choose another folder with ${option}.`;
  return { name, status: 'warn', found, advice };
}

/** The folder itself, or the closest above it that is there. */
async function nearestExisting(path: string): Promise<string> {
  let folder = resolve(path);
  while (!(await stat(folder).catch(() => undefined)) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}

function whoami(): string {
  return process.getuid === undefined ? 'this user' : `user ${process.getuid()}`;
}
