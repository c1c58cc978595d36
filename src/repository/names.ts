import { InvalidArgumentError } from '../base/errors.ts';

/** Longest task name: leaves room for a temporary file's suffix within the 255 bytes of common file systems. */
export const MAX_TASK_NAME_LENGTH = 128;

/** Versions are folder names and travel as int64; nine digits are plenty and stay exact everywhere. */
const VERSION_PATTERN = /^[1-9][0-9]{0,8}$/;
export const TASK_PATTERN = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/;

/**
 * Whether a name may become a folder. Letters, digits, `_`, `-` and `.`, not starting with a dot or a dash: so no
 * separators, no `..`, no hidden files, no option-like names, whatever a request says.
 */
export function isTaskName(name: string): boolean {
  return name.length <= MAX_TASK_NAME_LENGTH && TASK_PATTERN.test(name);
}

/** @throws InvalidArgumentError if the name cannot be a task's */
export function checkTaskName(name: string): string {
  if (isTaskName(name)) return name;
  throw new InvalidArgumentError(
    `${JSON.stringify(name.slice(0, MAX_TASK_NAME_LENGTH))} cannot name a task: use at most ${MAX_TASK_NAME_LENGTH} letters, digits, "_", "-" and ".", beginning with a letter, a digit or "_".`,
  );
}

/** The version that a folder's name or a URL says, or undefined where it says none. */
export function parseVersion(text: string): number | undefined {
  return VERSION_PATTERN.test(text) ? Number(text) : undefined;
}

/** @throws InvalidArgumentError if the number cannot be a version */
export function checkVersion(version: number): number {
  if (parseVersion(String(version)) !== undefined) return version;
  throw new InvalidArgumentError(`${version} cannot be a version: expected an integer from 1 to 999999999.`);
}
