import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { CorruptRepositoryError } from './errors.ts';

/** SHA-256 of the bytes, lower-case hexadecimal: how a variant is known. */
export function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** The same of a file, read in pieces: networks may be larger than what one wants in memory. */
export async function digestOfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer); // Without encoding they are.
  return hash.digest('hex');
}

/**
 * JSON whose keys are sorted at every level: two documents of the same content give the same text, however they were
 * written. What JSON cannot say (undefined) is left out, as `JSON.stringify` does.
 */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}

/** @throws CorruptRepositoryError if the bytes of the file are not those that the digest names */
export function checkDigest(bytes: Uint8Array, expected: string, file: string): void {
  const digest = digestOf(bytes);
  if (digest === expected) return;
  throw new CorruptRepositoryError({
    file,
    problem: `has digest ${digest}; the manifest says ${expected}. The file is damaged or was replaced.`,
  });
}
