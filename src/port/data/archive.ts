import { createReadStream } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { crc32, createGunzip, inflateRawSync } from 'node:zlib';
import { BonsaiError, messageOf, systemCodeOf } from '../../base/errors.ts';

/** What an archive may contain at most, so that a hostile one fills no disk. */
export interface ArchiveLimits {
  readonly bytes: number;
  readonly entries: number;
}

/** Ten times the largest data set that is downloaded, unpacked. */
export const ARCHIVE_LIMITS: ArchiveLimits = { bytes: 2 * 2 ** 30, entries: 100_000 };

export interface ExtractOptions {
  readonly limits?: ArchiveLimits;
  /** Entries to leave out, by their path within the archive. */
  readonly skip?: (path: string) => boolean;
  readonly signal?: AbortSignal;
}

/**
 * Unpacks a gzipped tar archive into a folder that is new and the caller's own. Only files and folders are taken:
 * links, devices, absolute paths and `..` are errors, so nothing is written outside the folder. Modes and owners are
 * ignored. Source of the format: POSIX.1-2001, pax, "ustar Interchange Format"; long names also in GNU's form.
 * @throws BonsaiError `corrupt_dataset` naming the archive, the entry and its problem; `unwritable_path`
 */
export async function extractTarGz(
  path: string,
  folder: string,
  options: ExtractOptions = {},
): Promise<void> {
  const file = createReadStream(path);
  const unzipped = file.pipe(createGunzip());
  file.on('error', (error) => unzipped.destroy(error));
  const reader = byteReader(unzipped, path);
  const sink = openSink(path, folder, options);
  try {
    let named: { path?: string; size?: number } = {};
    for (;;) {
      options.signal?.throwIfAborted();
      const header = tarHeader(await reader.take(TAR_BLOCK), path);
      if (header === undefined) break;
      const size = named.size ?? header.size;
      const padding = (TAR_BLOCK - (size % TAR_BLOCK)) % TAR_BLOCK;
      if (header.type === 'x' || header.type === 'g' || header.type === 'L') {
        if (size > MAX_TAR_TEXT) throw corrupt(path, `an extended header of ${size} bytes`);
        const text = (await reader.take(size)).toString('utf8');
        if (header.type === 'x') named = paxFields(text);
        if (header.type === 'L') named = { path: text.replace(/\0+$/, '') };
        await reader.take(padding);
        continue;
      }
      const name = named.path ?? header.path;
      named = {};
      if (header.type === '5') await sink.folder(name.replace(/\/+$/, ''));
      else if (header.type === '0' || header.type === '\0' || header.type === '7') {
        await sink.file(name, size, reader.upTo(size));
        await reader.take(padding);
      } else
        throw corrupt(
          path,
          `the entry "${name}" is of type "${header.type}"; only files and folders are taken`,
        );
    }
  } catch (thrown) {
    if (thrown instanceof BonsaiError || options.signal?.aborted) throw thrown;
    throw corrupt(path, `not readable as tar.gz: ${messageOf(thrown)}`, thrown);
  } finally {
    file.destroy();
    unzipped.destroy();
  }
}

const TAR_BLOCK = 512;
/** Long names and pax fields; real ones are a few hundred bytes. */
const MAX_TAR_TEXT = 2 ** 16;

interface TarHeader {
  readonly path: string;
  readonly size: number;
  readonly type: string;
}

/** Undefined for the block of zeros that ends an archive. */
function tarHeader(block: Buffer, archive: string): TarHeader | undefined {
  if (block.every((byte) => byte === 0)) return undefined;
  const text = (from: number, length: number) => {
    const field = block.subarray(from, from + length);
    const end = field.indexOf(0);
    return field.subarray(0, end < 0 ? length : end).toString('utf8');
  };
  const octal = (from: number, length: number) => {
    const digits = text(from, length).trim();
    return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number.NaN;
  };
  // The sum of all bytes, those of the sum itself taken as blanks.
  let sum = 0;
  block.forEach((byte, i) => {
    sum += i >= 148 && i < 156 ? 0x20 : byte;
  });
  const size = octal(124, 12);
  if (octal(148, 8) !== sum) throw corrupt(archive, 'a header with a wrong checksum');
  if (!Number.isSafeInteger(size)) throw corrupt(archive, `a header with the size "${text(124, 12)}"`);
  // Only POSIX archives have a prefix there; GNU's have times.
  const prefix = block.subarray(257, 263).toString('latin1') === 'ustar\0' ? text(345, 155) : '';
  const name = text(0, 100);
  return {
    path: prefix === '' ? name : `${prefix}/${name}`,
    size,
    type: String.fromCharCode(block[156]!),
  };
}

/** `27 path=some/long/name\n` …, each with its own length in front. */
function paxFields(text: string): { path?: string; size?: number } {
  const fields: { path?: string; size?: number } = {};
  for (const line of text.split('\n')) {
    const found = /^\d+ (path|size)=(.*)$/.exec(line);
    if (found?.[1] === 'path') fields.path = found[2]!;
    if (found?.[1] === 'size') fields.size = Number(found[2]);
  }
  return fields;
}

interface ByteReader {
  /** Exactly so many bytes. */
  take(count: number): Promise<Buffer>;
  /** So many bytes in pieces as they come; to be read to its end. */
  upTo(count: number): AsyncGenerator<Buffer>;
}

function byteReader(source: AsyncIterable<Buffer>, archive: string): ByteReader {
  const iterator = source[Symbol.asyncIterator]();
  let held: Buffer = Buffer.alloc(0);
  async function* upTo(count: number): AsyncGenerator<Buffer> {
    let left = count;
    while (left > 0) {
      if (held.length === 0) {
        const { done, value } = await iterator.next();
        if (done) throw corrupt(archive, 'it ends in the middle of an entry');
        held = value;
      }
      const piece = held.subarray(0, left);
      held = held.subarray(piece.length);
      left -= piece.length;
      yield piece;
    }
  }
  return {
    upTo,
    async take(count) {
      const pieces: Buffer[] = [];
      for await (const piece of upTo(count)) pieces.push(piece);
      return Buffer.concat(pieces);
    },
  };
}

/**
 * Unpacks a ZIP archive, like `extractTarGz`. The CRC-32 of every file is checked. Encrypted, split and 64-bit archives
 * are not read. Source of the format: PKWARE, APPNOTE 6.3.10, sections 4.3 and 4.4.
 * @throws BonsaiError as `extractTarGz`
 */
export async function extractZip(path: string, folder: string, options: ExtractOptions = {}): Promise<void> {
  const sink = openSink(path, folder, options);
  const file = await open(path, 'r');
  try {
    const read = async (from: number, length: number): Promise<Buffer> => {
      const bytes = Buffer.alloc(length);
      const { bytesRead } = await file.read(bytes, 0, length, from);
      if (bytesRead < length) throw corrupt(path, 'it ends in the middle of an entry');
      return bytes;
    };
    const { size } = await file.stat();
    for (const entry of await zipDirectory(size, read, path)) {
      options.signal?.throwIfAborted();
      const { name } = entry;
      if (name.endsWith('/')) {
        await sink.folder(name.slice(0, -1));
        continue;
      }
      if (entry.isLink || entry.isEncrypted || (entry.method !== 0 && entry.method !== 8)) {
        throw corrupt(path, `the entry "${name}" is a link, encrypted, or packed by method ${entry.method}`);
      }
      sink.check(name, entry.size);
      const local = await read(entry.offset, 30);
      if (local.readUInt32LE(0) !== 0x04034b50) throw corrupt(path, `no local header of "${name}"`);
      const start = entry.offset + 30 + local.readUInt16LE(26) + local.readUInt16LE(28);
      const packed = await read(start, entry.packedSize);
      const bytes = entry.method === 0 ? packed : inflate(packed, entry.size, name, path);
      if (bytes.length !== entry.size || crc32(bytes) !== entry.crc) {
        throw corrupt(path, `the entry "${name}" has another CRC-32 or size than the archive says`);
      }
      await sink.file(name, bytes.length, [bytes]);
    }
  } finally {
    await file.close();
  }
}

function inflate(packed: Buffer, size: number, name: string, archive: string): Buffer {
  try {
    return inflateRawSync(packed, { maxOutputLength: Math.max(1, size) });
  } catch (cause) {
    throw corrupt(archive, `the entry "${name}" does not unpack: ${messageOf(cause)}`, cause);
  }
}

interface ZipEntry {
  readonly name: string;
  readonly method: number;
  readonly crc: number;
  readonly packedSize: number;
  readonly size: number;
  readonly offset: number;
  readonly isEncrypted: boolean;
  readonly isLink: boolean;
}

/** The end record is 22 bytes and a comment of up to 65,535. */
const ZIP_END = 22;
const MAX_ZIP_COMMENT = 0xffff;

async function zipDirectory(
  fileSize: number,
  read: (from: number, length: number) => Promise<Buffer>,
  archive: string,
): Promise<ZipEntry[]> {
  const tailSize = Math.min(fileSize, ZIP_END + MAX_ZIP_COMMENT);
  const tail = await read(fileSize - tailSize, tailSize);
  const end = tail.lastIndexOf(Buffer.from('PK\x05\x06', 'latin1'));
  if (end < 0 || end + ZIP_END > tail.length)
    throw corrupt(archive, 'it has no directory: cut short or no ZIP');
  const count = tail.readUInt16LE(end + 10);
  const length = tail.readUInt32LE(end + 12);
  const from = tail.readUInt32LE(end + 16);
  if (from + length > fileSize) throw corrupt(archive, 'its directory lies outside it (ZIP64 is not read)');
  const bytes = await read(from, length);
  const entries: ZipEntry[] = [];
  for (let at = 0; entries.length < count; ) {
    if (at + 46 > length || bytes.readUInt32LE(at) !== 0x02014b50) {
      throw corrupt(archive, `its directory has ${entries.length} of ${count} entries`);
    }
    const nameLength = bytes.readUInt16LE(at + 28);
    entries.push({
      name: bytes.subarray(at + 46, at + 46 + nameLength).toString('utf8'),
      method: bytes.readUInt16LE(at + 10),
      crc: bytes.readUInt32LE(at + 16),
      packedSize: bytes.readUInt32LE(at + 20),
      size: bytes.readUInt32LE(at + 24),
      offset: bytes.readUInt32LE(at + 42),
      isEncrypted: (bytes.readUInt16LE(at + 8) & 1) !== 0,
      // The upper half holds Unix's mode where the archive was made there: 0o120000 is a link.
      isLink: ((bytes.readUInt32LE(at + 38) >>> 16) & 0o170000) === 0o120000,
    });
    at += 46 + nameLength + bytes.readUInt16LE(at + 30) + bytes.readUInt16LE(at + 32);
  }
  return entries;
}

interface Sink {
  /** @throws BonsaiError for a path or size that is not taken */
  check(name: string, size: number): void;
  folder(name: string): Promise<void>;
  file(name: string, size: number, content: AsyncIterable<Buffer> | Iterable<Buffer>): Promise<void>;
}

/** Where entries go; nothing leaves the folder, or exceeds the limits. */
function openSink(archive: string, folder: string, options: ExtractOptions): Sink {
  const limits = options.limits ?? ARCHIVE_LIMITS;
  let bytes = 0;
  let entries = 0;
  const check = (name: string, size: number) => {
    checkEntryPath(name, archive);
    if (bytes + size > limits.bytes || entries >= limits.entries) {
      throw corrupt(archive, `it holds more than ${limits.entries} files or ${limits.bytes} bytes`);
    }
  };
  return {
    check,
    async folder(name) {
      if (name === '.' || name === '') return;
      check(name, 0);
      entries++;
      if (!options.skip?.(name))
        await written(join(folder, name), (path) => mkdir(path, { recursive: true }));
    },
    async file(name, size, content) {
      check(name, size);
      bytes += size;
      entries++;
      if (options.skip?.(name)) {
        for await (const _ of content); // What is left out is read all the same.
        return;
      }
      await written(join(folder, name), async (path) => {
        await mkdir(dirname(path), { recursive: true });
        // "wx": an entry that is there twice is an error rather than a way to write through what came before.
        const target = await open(path, 'wx');
        try {
          for await (const piece of content) await target.writeFile(piece);
        } finally {
          await target.close();
        }
      });
    },
  };
}

async function written(path: string, write: (path: string) => Promise<unknown>): Promise<void> {
  try {
    await write(path);
  } catch (cause) {
    // Errors of reading, such as a damaged archive, have no system call that failed on this path.
    if (systemCodeOf(cause) === undefined || !messageOf(cause).includes(path)) throw cause;
    throw new BonsaiError('unwritable_path', `Cannot write ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** Relative, with no step upwards and no characters that some system takes for a separator or a drive. */
function checkEntryPath(name: string, archive: string): void {
  const steps = (name.startsWith('./') ? name.slice(2) : name).split('/');
  if (!/[\\:\0]/.test(name) && steps.every((step) => step !== '' && step !== '.' && step !== '..')) return;
  throw corrupt(archive, `the entry "${name}" has a path that might lead outside the folder`);
}

function corrupt(archive: string, problem: string, cause?: unknown): BonsaiError {
  return new BonsaiError('corrupt_dataset', `${archive}: ${problem}. Remove it and download it again.`, {
    cause,
  });
}
