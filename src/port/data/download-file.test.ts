import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { downloadFile } from './download-file.ts';

const random = seededRandom(1);
const content = Buffer.from(Uint8Array.from({ length: 300_000 }, () => random.integer(256)));
const md5 = (bytes: Uint8Array) => createHash('md5').update(bytes).digest('hex');
const digest = { algorithm: 'md5', hex: md5(content) } as const;

/** What the server does with each path; a test puts its own in. */
const routes = new Map<string, (request: IncomingMessage, response: ServerResponse) => void>();
/** `PATH RANGE` of every request. */
const seen: string[] = [];
let server: Server;
let base: string;
let folder: string;

beforeAll(async () => {
  server = createServer((request, response) => {
    seen.push(`${request.url} ${request.headers.range ?? '-'}`);
    const route = routes.get(request.url!);
    if (route !== undefined) return route(request, response);
    response.writeHead(404).end('nothing here');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'bonsai-download-'));
  routes.clear();
  seen.length = 0;
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const path = () => join(folder, 'deep/er/file.bin');
const part = () => `${path()}.part`;
const quick = { retryDelayMs: 1 };
const download = (urls: readonly string[], options = {}) =>
  downloadFile({ urls: urls.map((url) => base + url), path: path(), digest }, { ...quick, ...options });

/** A server as most are: with ranges. */
function serve(bytes: Buffer) {
  return (request: IncomingMessage, response: ServerResponse) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? Number.NaN);
    if (Number.isNaN(from)) return response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
    if (from >= bytes.length) {
      return response.writeHead(416, { 'content-range': `bytes */${bytes.length}` }).end();
    }
    const rest = bytes.subarray(from);
    const range = `bytes ${from}-${bytes.length - 1}/${bytes.length}`;
    response.writeHead(206, { 'content-length': rest.length, 'content-range': range }).end(rest);
  };
}

/** Called with the bytes that the client has. */
let onReceived: (bytes: number) => void = () => {};
const listening = { onProgress: (bytes: number) => onReceived(bytes) };

/** Announces all, sends up to `most` bytes of it, and hangs up once the client has them. */
function breaksOff(bytes: Buffer, most: number) {
  return (request: IncomingMessage, response: ServerResponse) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const rest = bytes.subarray(from);
    const range = `bytes ${from}-${bytes.length - 1}/${bytes.length}`;
    response.writeHead(from > 0 ? 206 : 200, { 'content-length': rest.length, 'content-range': range });
    if (rest.length <= most) return void response.end(rest);
    onReceived = (received) => received >= from + most && response.destroy();
    response.write(rest.subarray(0, most));
  };
}

it('downloads a file, tells how far it is, and keeps it the next time', async () => {
  routes.set('/file', serve(content));
  const heard: [number, number | undefined][] = [];
  const onProgress = (bytes: number, total?: number) => heard.push([bytes, total]);
  const sha256 = createHash('sha256').update(content).digest('hex');
  expect(await download(['/file'], { onProgress })).toEqual({ wasThere: false, sha256 });
  expect(readFileSync(path()).equals(content)).toBe(true);
  expect(existsSync(part())).toBe(false);
  expect(heard.at(-1)).toEqual([content.length, content.length]);
  expect(heard.map(([bytes]) => bytes)).toEqual(heard.map(([bytes]) => bytes).sort((a, b) => a - b));
  expect(await download(['/file'])).toEqual({ wasThere: true, sha256 });
  expect(seen).toHaveLength(1);
});

it('goes on where an interrupted download ended', async () => {
  routes.set('/file', serve(content));
  await download(['/file']);
  rmSync(path());
  writeFileSync(part(), content.subarray(0, 123_456));
  await download(['/file']);
  expect(seen.at(-1)).toBe('/file bytes=123456-');
  expect(readFileSync(path()).equals(content)).toBe(true);
});

it('takes a part that is already whole', async () => {
  routes.set('/file', serve(content));
  await download(['/file']);
  rmSync(path());
  writeFileSync(part(), content);
  await download(['/file']);
  expect(seen.at(-1)).toBe(`/file bytes=${content.length}-`);
  expect(readFileSync(path()).equals(content)).toBe(true);
});

it.each(['of other bytes', 'longer than the file'])('starts anew after a part %s', async (kind) => {
  routes.set('/file', serve(content));
  await download(['/file']);
  rmSync(path());
  writeFileSync(part(), Buffer.alloc(kind === 'of other bytes' ? 1000 : content.length + 1, 7));
  await download(['/file']);
  expect(seen.at(-1)).toBe('/file -');
  expect(readFileSync(path()).equals(content)).toBe(true);
});

it('starts anew where a server knows no ranges', async () => {
  routes.set('/file', (_, response) => response.end(content));
  await download(['/file']);
  rmSync(path());
  writeFileSync(part(), content.subarray(0, 1000));
  await download(['/file']);
  expect(readFileSync(path()).equals(content)).toBe(true);
});

it('outlasts a server that stops half-way again and again', async () => {
  routes.set('/file', breaksOff(content, 70_000));
  await download(['/file'], listening);
  expect(readFileSync(path()).equals(content)).toBe(true);
  const starts = [70_000, 140_000, 210_000, 280_000].map((start) => `/file bytes=${start}-`);
  expect(seen).toEqual(['/file -', ...starts]);
});

it('gives up a server that never sends a thing, and keeps what it has for the next time', async () => {
  routes.set('/file', (request, response) => {
    if (request.headers.range === undefined) return breaksOff(content, 50_000)(request, response);
    return void response.writeHead(503).end();
  });
  await expect(download(['/file'], listening)).rejects.toMatchObject({
    code: 'server_unreachable',
    message: expect.stringMatching(/\/file: HTTP 503.*go on/),
  });
  expect(readFileSync(part()).equals(content.subarray(0, 50_000))).toBe(true);
  expect(existsSync(path())).toBe(false);
  routes.set('/file', serve(content));
  await download(['/file']);
  expect(seen.at(-1)).toBe('/file bytes=50000-');
});

it('goes to the next place after 404, a wrong file, and no connection, and says why', async () => {
  routes.set('/wrong', serve(Buffer.from('an error page')));
  routes.set('/file', serve(content));
  const notices: string[] = [];
  const urls = ['http://127.0.0.1:1/none', `${base}/missing`, `${base}/wrong`, `${base}/file`];
  await downloadFile(
    { urls, path: path(), digest },
    { ...quick, onNotice: (notice) => notices.push(notice) },
  );
  expect(readFileSync(path()).equals(content)).toBe(true);
  expect(notices[1]).toMatch(/missing: HTTP 404/);
  expect(notices[2]).toMatch(/wrong: the md5 is [0-9a-f]{32}, expected/);
});

it('leaves nothing under the name of the file where all places give another one', async () => {
  routes.set('/wrong', serve(Buffer.from('an error page')));
  await expect(download(['/missing', '/wrong'])).rejects.toMatchObject({
    code: 'corrupt_dataset',
    message: expect.stringMatching(/HTTP 404.*the md5 is .* expected/),
  });
  expect(existsSync(path())).toBe(false);
  expect(existsSync(part())).toBe(false);
});

it('replaces a file that is there but is another one', async () => {
  routes.set('/file', serve(content));
  await download(['/file']);
  writeFileSync(path(), 'damaged');
  expect(await download(['/file'])).toMatchObject({ wasThere: false });
  expect(readFileSync(path()).equals(content)).toBe(true);
});

it('follows redirects', async () => {
  routes.set('/moved', (_, response) => response.writeHead(302, { location: '/file' }).end());
  routes.set('/file', serve(content));
  await download(['/moved']);
  expect(readFileSync(path()).equals(content)).toBe(true);
});

it('compares the content of gzipped files, whoever compressed them', async () => {
  routes.set('/file', serve(gzipSync(content, { level: 1 })));
  await downloadFile({ urls: [`${base}/file`], path: path(), digest: { ...digest, of: 'gunzipped' } }, quick);
  routes.set('/plain', serve(content));
  const plain = {
    urls: [`${base}/plain`],
    path: `${path()}2`,
    digest: { ...digest, of: 'gunzipped' },
  } as const;
  await expect(downloadFile(plain, quick)).rejects.toMatchObject({ code: 'corrupt_dataset' });
});

it('stops on request with what has come so far, and gives up a server that falls silent', async () => {
  const open: ServerResponse[] = [];
  routes.set('/silent', (_, response) => {
    open.push(response);
    response.writeHead(200, { 'content-length': content.length });
    response.write(content.subarray(0, 40_000));
  });
  const controller = new AbortController();
  const reason = new Error('enough');
  const onProgress = (bytes: number) => bytes >= 40_000 && controller.abort(reason);
  await expect(download(['/silent'], { signal: controller.signal, onProgress })).rejects.toBe(reason);
  expect(readFileSync(part()).equals(content.subarray(0, 40_000))).toBe(true);
  rmSync(part());
  routes.set('/file', serve(content));
  await download(['/silent', '/file'], { stallMs: 50 });
  expect(readFileSync(path()).equals(content)).toBe(true);
  for (const response of open) response.destroy();
});

it('names a folder that cannot be written', async () => {
  routes.set('/file', serve(content));
  writeFileSync(join(folder, 'deep'), 'a file in the way');
  await expect(download(['/file'])).rejects.toMatchObject({ code: 'unwritable_path' });
});
