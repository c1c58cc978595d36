import { createHash } from 'node:crypto';
import { open, readFile, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BonsaiError, messageOf, systemCodeOf } from '../base/errors.ts';
import { makeFolder } from '../base/make-folder.ts';

/**
 * Writes a header and raw bytes as one file that proves its own integrity: a reader sees all of it or nothing.
 * The content goes to a temporary file beside the target, is flushed to the disk, and is renamed into place.
 * Layout: 8 bytes magic, header length (uint32, little-endian), header (JSON, UTF-8), payload, SHA-256 of all before.
 * @throws BonsaiError `unwritable_path` naming the path and the system's reason
 */
export async function writeSealed(
  path: string,
  header: unknown,
  parts: readonly Uint8Array[],
): Promise<void> {
  const head = Buffer.from(JSON.stringify(header), 'utf8');
  const length = Buffer.alloc(4);
  length.writeUInt32LE(head.length);
  const chunks = [MAGIC, length, head, ...parts];
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  chunks.push(hash.digest());
  // One writer per path is the rule; the process id keeps two processes from mixing their halves all the same.
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    await makeFolder(dirname(path));
    const file = await open(temporary, 'w');
    try {
      for (const chunk of chunks) await file.writeFile(chunk);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => {});
    throw new BonsaiError('unwritable_path', `Cannot write ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** What a sealed file turned out to be. Whether a damaged one is an error is for the caller to say. */
export type SealedFile =
  | { readonly kind: 'missing' }
  | { readonly kind: 'damaged'; readonly reason: string }
  | { readonly kind: 'intact'; readonly header: unknown; readonly payload: Uint8Array };

/** Reads and verifies a sealed file. Only system errors other than "not found" are thrown. */
export async function readSealed(path: string): Promise<SealedFile> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    const code = systemCodeOf(cause);
    if (code === 'ENOENT' || code === 'ENOTDIR') return { kind: 'missing' };
    throw new BonsaiError('missing_file', `Cannot read ${path}: ${messageOf(cause)}`, { cause });
  }
  if (bytes.length < MAGIC.length + 4 + DIGEST_BYTES) {
    return { kind: 'damaged', reason: `${path} has only ${bytes.length} bytes` };
  }
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    return { kind: 'damaged', reason: `${path} does not start with Bonsai's magic bytes` };
  }
  const end = bytes.length - DIGEST_BYTES;
  const digest = createHash('sha256').update(bytes.subarray(0, end)).digest();
  if (!digest.equals(bytes.subarray(end))) {
    return { kind: 'damaged', reason: `the SHA-256 of ${path} does not match its content` };
  }
  const start = MAGIC.length + 4;
  const headEnd = start + bytes.readUInt32LE(MAGIC.length);
  const header: unknown = JSON.parse(bytes.subarray(start, headEnd).toString('utf8'));
  return {
    kind: 'intact',
    header,
    payload: new Uint8Array(bytes.buffer, bytes.byteOffset + headEnd, end - headEnd),
  };
}

const MAGIC = Buffer.from('BONSAI1\n', 'latin1');
const DIGEST_BYTES = 32;
