import { createHash } from 'node:crypto';
import { CorruptRepositoryError } from './errors.ts';

/** SHA-256 of the bytes, lower-case hexadecimal: how a variant is known. */
export function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
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
