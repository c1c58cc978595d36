import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32, deflateRawSync, gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { extractTarGz, extractZip } from './archive.ts';

let folder: string;
let archive: string;
let out: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'bonsai-archive-'));
  archive = join(folder, 'archive');
  out = join(folder, 'out');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

interface Entry {
  readonly name: string;
  readonly content?: string;
  readonly type?: string;
  readonly link?: string;
}

/** A ustar archive, written by hand so that it may hold what no program would write. */
function tar(entries: readonly Entry[]): Buffer {
  const blocks = entries.map(({ name, content = '', type = '0', link = '' }) => {
    const header = Buffer.alloc(512);
    header.write(name, 0);
    header.write('0000644\0', 100);
    header.write(`${Buffer.byteLength(content).toString(8).padStart(11, '0')}\0`, 124);
    header.write('        ', 148);
    header.write(type, 156);
    header.write(link, 157);
    header.write('ustar\x0000', 257, 'latin1');
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    const body = Buffer.alloc(Math.ceil(Buffer.byteLength(content) / 512) * 512);
    body.write(content);
    return Buffer.concat([header, body]);
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

interface Packed extends Entry {
  readonly mode?: number;
  readonly crc?: number;
  readonly flags?: number;
}

function zip(entries: readonly Packed[]): Buffer {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { name, content = '', mode = 0o100644, crc, flags = 0 } of entries) {
    const bytes = Buffer.from(content);
    const packed = deflateRawSync(bytes);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(flags, 2);
    common.writeUInt16LE(8, 4);
    common.writeUInt32LE(crc ?? crc32(bytes), 10);
    common.writeUInt32LE(packed.length, 14);
    common.writeUInt32LE(bytes.length, 18);
    common.writeUInt16LE(Buffer.byteLength(name), 22);
    const local = Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), common, Buffer.from(name), packed]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE((mode << 16) >>> 0, 6);
    tail.writeUInt32LE(offset, 10);
    directory.push(
      Buffer.from('PK\x01\x02\x14\x03', 'latin1'),
      common.subarray(0, 26),
      tail,
      Buffer.from(name),
    );
    locals.push(local);
    offset += local.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...locals, central, end]);
}

const formats = [
  {
    format: 'tar.gz',
    write: (entries: readonly Packed[]) => writeFileSync(archive, gzipSync(tar(entries))),
    extract: extractTarGz,
  },
  {
    format: 'zip',
    write: (entries: readonly Packed[]) => writeFileSync(archive, zip(entries)),
    extract: extractZip,
  },
] as const;

describe.each(formats)('$format', ({ write, extract }) => {
  it('unpacks files and folders, but for those to be left out', async () => {
    write([
      { name: 'set/a.txt', content: 'first' },
      { name: 'set/deep/b.txt', content: 'x'.repeat(70_000) },
      { name: 'set/.DS_Store', content: 'left out' },
      { name: 'set/empty', content: '' },
    ]);
    await extract(archive, out, { skip: (name) => name.endsWith('.DS_Store') });
    expect(readFileSync(join(out, 'set/a.txt'), 'utf8')).toBe('first');
    expect(readFileSync(join(out, 'set/deep/b.txt'), 'utf8')).toBe('x'.repeat(70_000));
    expect(readFileSync(join(out, 'set/empty'), 'utf8')).toBe('');
    expect(existsSync(join(out, 'set/.DS_Store'))).toBe(false);
  });

  it.each(['../evil', 'set/../../evil', '/tmp/evil', 'C:evil', '..\\evil', 'set//evil', 'set/./evil'])(
    'takes nothing to %s',
    async (name) => {
      write([{ name, content: 'evil' }]);
      await expect(extract(archive, out)).rejects.toMatchObject({
        code: 'corrupt_dataset',
        message: expect.stringContaining('might lead outside'),
      });
      expect(existsSync(join(folder, 'evil'))).toBe(false);
    },
  );

  it('refuses an entry that is there twice, and more bytes or files than allowed', async () => {
    write([
      { name: 'a', content: '1' },
      { name: 'a', content: '2' },
    ]);
    await expect(extract(archive, out)).rejects.toMatchObject({ code: 'unwritable_path' });
    rmSync(out, { recursive: true, force: true });
    const limits = (bytes: number, entries: number) => ({ limits: { bytes, entries } });
    write([
      { name: 'a', content: '12' },
      { name: 'b', content: '34' },
    ]);
    await expect(extract(archive, out, limits(3, 9))).rejects.toThrow(/more than 9 files or 3 bytes/);
    rmSync(out, { recursive: true, force: true });
    await expect(extract(archive, out, limits(9, 1))).rejects.toThrow(/more than 1 files/);
    rmSync(out, { recursive: true, force: true });
    await extract(archive, out, limits(4, 2));
  });

  it('names an archive cut short anywhere, and one that is none', async () => {
    write([{ name: 'set/a.txt', content: 'some text '.repeat(3000) }]);
    const whole = readFileSync(archive);
    for (const share of [0, 0.3, 0.6, 0.99]) {
      writeFileSync(archive, whole.subarray(0, Math.floor(whole.length * share)));
      await expect(extract(archive, out), `${share}`).rejects.toMatchObject({
        code: 'corrupt_dataset',
        message: expect.stringContaining(archive),
      });
      rmSync(out, { recursive: true, force: true });
    }
    writeFileSync(archive, 'no archive at all '.repeat(100));
    await expect(extract(archive, out)).rejects.toMatchObject({ code: 'corrupt_dataset' });
  });
});

it.each([
  ['a symbolic link', { name: 'link', type: '2', link: '/etc/passwd' }],
  ['a hard link', { name: 'link', type: '1', link: '/etc/passwd' }],
  ['a device', { name: 'null', type: '3' }],
])('a tar archive with %s is refused', async (_, entry) => {
  writeFileSync(archive, gzipSync(tar([entry])));
  await expect(extractTarGz(archive, out)).rejects.toThrow(/only files and folders are taken/);
  expect(existsSync(out)).toBe(false);
});

it('a tar header that was changed is noticed', async () => {
  const bytes = tar([{ name: 'a', content: 'text' }]);
  bytes[0] = 'b'.charCodeAt(0);
  writeFileSync(archive, gzipSync(bytes));
  await expect(extractTarGz(archive, out)).rejects.toThrow(/header with a wrong checksum/);
});

it.each([
  ['a link', { mode: 0o120777 }, /a link, encrypted, or packed/],
  ['an encrypted file', { flags: 1 }, /a link, encrypted, or packed/],
  ['another CRC-32', { crc: 1 }, /another CRC-32/],
])('a ZIP archive with %s is refused', async (_, change, message) => {
  writeFileSync(archive, zip([{ name: 'a', content: 'text', ...change }]));
  await expect(extractZip(archive, out)).rejects.toThrow(message);
});

// Programs that people pack with, where this machine has them.
const has = (program: string) => {
  try {
    execFileSync(program, ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};

describe.skipIf(!has('tar'))('archives of the program tar', () => {
  it.each(['gnu', 'pax', 'ustar'])('are read in the format %s, long names included', async (format) => {
    const long = `${'deep-folder-name-/'.repeat(7)}${'n'.repeat(70)}.txt`;
    mkdirSync(join(folder, 'set', long, '..'), { recursive: true });
    writeFileSync(join(folder, 'set', long), 'long');
    writeFileSync(join(folder, 'set/a.bin'), Buffer.alloc(100_000, 5));
    execFileSync('tar', [`--format=${format}`, '-czf', archive, 'set'], { cwd: folder });
    await extractTarGz(archive, out);
    expect(readFileSync(join(out, 'set', long), 'utf8')).toBe('long');
    expect(readFileSync(join(out, 'set/a.bin')).equals(Buffer.alloc(100_000, 5))).toBe(true);
  });
});
