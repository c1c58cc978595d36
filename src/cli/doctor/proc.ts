import { readFileSync } from 'node:fs';

/** A file of Linux' /proc or /sys; undefined where it is not there. */
export function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
