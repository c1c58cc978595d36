import { InvalidRequestError } from '../errors.ts';

/** Longer versions are cut in messages; 64-bit integers have at most 19 digits. */
const MAX_SHOWN_LENGTH = 24;

/**
 * A version as messages name it; the empty string leaves the choice to the server.
 * @throws InvalidRequestError for anything but a number as numbers are written
 */
export function versionOf(text: string): number | undefined {
  if (text === '') return undefined;
  const version = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isSafeInteger(version) && String(version) === text) return version;
  const shown = text.length > MAX_SHOWN_LENGTH ? `${text.slice(0, MAX_SHOWN_LENGTH)}…` : text;
  throw new InvalidRequestError(
    `'${shown}' is not a model version: expected an integer from 1 to ${Number.MAX_SAFE_INTEGER}, without leading zeros`,
  );
}
