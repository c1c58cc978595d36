import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DOWNLOADS, type DownloadableSet, downloadSet } from './downloads.ts';

const folder = mkdtempSync(join(tmpdir(), 'bonsai-downloads-'));
const files = new Map<string, Buffer>();
let server: Server;
let mirror: string;
let requests = 0;

beforeAll(async () => {
  server = createServer((request, response) => {
    requests++;
    const bytes = files.get(request.url!);
    if (bytes === undefined) response.writeHead(404).end();
    else response.end(bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  mirror = `http://127.0.0.1:${(server.address() as AddressInfo).port}/sets`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

/** A tar archive of one file. */
function tarOf(name: string, content: Buffer): Buffer {
  const header = Buffer.alloc(512);
  header.write(name, 0);
  header.write(`${content.length.toString(8).padStart(11, '0')}\0`, 124);
  header.write('        0', 148);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0`, 148, 'latin1');
  const body = Buffer.alloc(Math.ceil(content.length / 512) * 512);
  content.copy(body);
  return Buffer.concat([header, body, Buffer.alloc(1024)]);
}

function setOf(bytes: Buffer, over: Partial<DownloadableSet> = {}): DownloadableSet {
  files.set('/sets/set.tar.gz', bytes);
  const hex = createHash('md5').update(bytes).digest('hex');
  return {
    title: 'a set',
    // No place but the mirror: tests have no network.
    files: [{ name: 'set.tar.gz', places: [], digest: { algorithm: 'md5', hex } }],
    archive: { kind: 'tar.gz', folder: 'set' },
    spec: 'cifar10',
    ...over,
  };
}

it('unpacks an archive at once, removes it, and downloads nothing the next time', async () => {
  const out = join(folder, 'whole');
  const set = setOf(gzipSync(tarOf('set/data.bin', Buffer.alloc(5000, 3))));
  const heard: string[] = [];
  const done = await downloadSet(set, out, { mirrors: [mirror], onProgress: (file) => heard.push(file) });
  expect(done).toMatchObject({ data: `cifar10:${join(out, 'set')}`, folder: join(out, 'set') });
  expect(done.sha256['set.tar.gz']).toMatch(/^[0-9a-f]{64}$/);
  expect(heard).toContain('set.tar.gz');
  expect(readFileSync(join(out, 'set/data.bin')).equals(Buffer.alloc(5000, 3))).toBe(true);
  expect(readdirSync(out)).toEqual(['set']);
  const before = requests;
  await downloadSet(set, out, { mirrors: [mirror] });
  expect(requests).toBe(before);
});

it('leaves no folder of an archive that is damaged, or that holds another one', async () => {
  const out = join(folder, 'damaged');
  const whole = gzipSync(tarOf('set/data.bin', Buffer.alloc(5000, 3)));
  await expect(downloadSet(setOf(whole.subarray(0, -20)), out, { mirrors: [mirror] })).rejects.toMatchObject({
    code: 'corrupt_dataset',
  });
  expect(readdirSync(out)).toEqual(['set.tar.gz']);
  const other = setOf(gzipSync(tarOf('other/data.bin', Buffer.alloc(5))));
  await expect(downloadSet(other, out, { mirrors: [mirror] })).rejects.toThrow(/holds no folder set/);
  expect(existsSync(join(out, 'set'))).toBe(false);
  expect(existsSync(join(out, 'other'))).toBe(false);
});

it('downloads a set of single files', async () => {
  const names = ['one.gz', 'two.gz'];
  for (const name of names) files.set(`/sets/${name}`, gzipSync(Buffer.from(name)));
  const set: DownloadableSet = {
    title: 'two files',
    files: names.map((name) => ({
      name,
      places: [],
      digest: { algorithm: 'md5', hex: createHash('md5').update(name).digest('hex'), of: 'gunzipped' },
    })),
    spec: 'mnist',
  };
  const out = join(folder, 'files');
  expect(await downloadSet(set, out, { mirrors: [mirror] })).toMatchObject({ data: `mnist:${out}` });
  expect(readdirSync(out).sort()).toEqual(names);
});

const shared = join(process.env.BONSAI_SHARED ?? '../shared', 'data/mnist');

it.skipIf(!existsSync(shared))('knows the digests of the official MNIST files', async () => {
  const out = join(folder, 'mnist');
  mkdirSync(out);
  for (const { name } of DOWNLOADS.mnist.files)
    writeFileSync(join(out, name), readFileSync(join(shared, name)));
  // Files that are right are kept; a wrong one would be downloaded, from nowhere.
  const set: DownloadableSet = {
    ...DOWNLOADS.mnist,
    files: DOWNLOADS.mnist.files.map((file) => ({ ...file, places: [] })),
  };
  await downloadSet(set, out);
  expect(readdirSync(out)).toHaveLength(4);
});
