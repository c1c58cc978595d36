import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { createGunzip } from 'node:zlib';
import { Agent, interceptors, request } from 'undici';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import { makeFolder } from '../../base/make-folder.ts';

export interface FileToDownload {
  /** The same file at several places, tried in this order. */
  readonly urls: readonly string[];
  /** Where it is put, whole and checked, or not at all. What has come so far lies beside it, as `PATH.part`. */
  readonly path: string;
  /** Absent where nobody publishes one. */
  readonly digest?: FileDigest;
}

export interface FileDigest {
  readonly algorithm: 'md5' | 'sha256';
  readonly hex: string;
  /** Of the file itself (default), or of what it holds unzipped: compressors differ, contents do not. */
  readonly of?: 'file' | 'gunzipped';
}

export interface DownloadOptions {
  readonly signal?: AbortSignal;
  /** Bytes that are there, those of an earlier try included, and how many there will be where the server says. */
  readonly onProgress?: (bytes: number, total: number | undefined) => void;
  /** Sentences for the user: what was given up, and what is tried next. */
  readonly onNotice?: (message: string) => void;
  /** A server that sends nothing for so long is given up. Default `STALL_MS`. */
  readonly stallMs?: number;
  /** Before the next try at the same place. Default `RETRY_DELAY_MS`. */
  readonly retryDelayMs?: number;
}

/** Slow lines still send something in half a minute. */
export const STALL_MS = 30_000;
/** Long enough for a server to recover from a hiccup. */
export const RETRY_DELAY_MS = 2_000;
/** Tries at one place that bring no byte; one that brings some does not count. */
export const FRUITLESS_TRIES = 3;
const MAX_REDIRECTS = 5;

/**
 * Downloads a file: goes on where an earlier download ended (HTTP Range), retries, goes to the next place where one
 * fails, checks the digest, and moves the whole file into place at once. A file that is there and right is kept.
 * @returns whether it was there before, and the SHA-256 of the file
 * @throws BonsaiError `server_unreachable` telling what was wrong at each place, `corrupt_dataset` where the last of
 *   them gave another file, `unwritable_path`, or what the signal aborts with
 */
export async function downloadFile(
  file: FileToDownload,
  options: DownloadOptions = {},
): Promise<{ readonly wasThere: boolean; readonly sha256: string }> {
  const { path, digest } = file;
  if (await isFile(path)) {
    if (digest === undefined || (await digestOf(path, digest)) === digest.hex) {
      return { wasThere: true, sha256: await digestOf(path, { algorithm: 'sha256' }) };
    }
    options.onNotice?.(
      `${path} is there, but is not the file wanted (another ${digest.algorithm}); it is replaced.`,
    );
  }
  const part = `${path}.part`;
  const agent = new Agent({
    bodyTimeout: options.stallMs ?? STALL_MS,
    headersTimeout: options.stallMs ?? STALL_MS,
    connectTimeout: options.stallMs ?? STALL_MS,
  });
  const problems: Problem[] = [];
  try {
    await makeFolder(dirname(path)).catch((cause: unknown) => {
      throw unwritable(path, cause);
    });
    for (const url of file.urls) {
      const problem = await fetchChecked(url, part, digest, agent, options);
      if (problem === undefined) {
        const sha256 = await digestOf(part, { algorithm: 'sha256' });
        await rename(part, path).catch((cause: unknown) => {
          throw unwritable(path, cause);
        });
        return { wasThere: false, sha256 };
      }
      problems.push(problem);
      options.onNotice?.(`${url}: ${problem.message}.`);
    }
  } finally {
    await agent.close();
  }
  const told = file.urls.map((url, i) => `${url}: ${problems[i]!.message}`).join('; ');
  throw new BonsaiError(
    problems.at(-1)?.isWrongFile ? 'corrupt_dataset' : 'server_unreachable',
    `${path} could not be downloaded. ${told}. Run the same command again to go on, or give another place with --mirror.`,
  );
}

interface Problem {
  readonly message: string;
  readonly isWrongFile?: boolean;
}

/** Undefined when the part is whole and right. */
async function fetchChecked(
  url: string,
  part: string,
  digest: FileDigest | undefined,
  agent: Agent,
  options: DownloadOptions,
): Promise<Problem | undefined> {
  const before = await sizeOf(part);
  const problem = await fetchWhole(url, part, agent, options);
  if (problem !== undefined) return problem;
  if (digest === undefined) return undefined;
  const found = await digestOf(part, digest).catch((error: unknown) => messageOf(error));
  if (found === digest.hex) return undefined;
  await rm(part, { force: true });
  // What an earlier download left may have been of another file; without it this place gets a second chance.
  if (before > 0) return fetchChecked(url, part, digest, agent, options);
  const what = digest.of === 'gunzipped' ? `${digest.algorithm} of the content` : digest.algorithm;
  return { message: `the ${what} is ${found}, expected ${digest.hex}`, isWrongFile: true };
}

/** Tries until the part is whole. */
async function fetchWhole(
  url: string,
  part: string,
  agent: Agent,
  options: DownloadOptions,
): Promise<Problem | undefined> {
  for (let fruitless = 0; ; ) {
    options.signal?.throwIfAborted();
    const before = await sizeOf(part);
    const end = await fetchOnce(url, part, before, agent, options);
    if (end.kind === 'whole') return undefined;
    if (end.kind === 'refused') return { message: end.message };
    fruitless = (await sizeOf(part)) > before ? 0 : fruitless + 1;
    if (fruitless >= FRUITLESS_TRIES) return { message: end.message };
    await wait(options.retryDelayMs ?? RETRY_DELAY_MS, undefined, { signal: options.signal }).catch(() => {});
  }
}

type End =
  | { readonly kind: 'whole' }
  /** Another try may help. */
  | { readonly kind: 'broken'; readonly message: string }
  | { readonly kind: 'refused'; readonly message: string };

async function fetchOnce(
  url: string,
  part: string,
  have: number,
  agent: Agent,
  { signal, onProgress }: DownloadOptions,
): Promise<End> {
  let response: Awaited<ReturnType<typeof request>>;
  try {
    response = await request(url, {
      dispatcher: agent.compose(interceptors.redirect({ maxRedirections: MAX_REDIRECTS })),
      headers: have > 0 ? { range: `bytes=${have}-` } : {},
      signal,
    });
  } catch (thrown) {
    signal?.throwIfAborted();
    return { kind: 'broken', message: messageOf(thrown) || 'no connection' };
  }
  const { statusCode, headers, body } = response;
  const range = /^bytes (?:(\d+)-\d+|\*)\/(\d+)$/.exec(String(headers['content-range']));
  const isRest = statusCode === 206 && range !== null && Number(range[1]) === have;
  if (statusCode !== 200 && !isRest) {
    await body.dump().catch(() => {});
    // 416: nothing is left to send. That is the whole file if the server's is as long as ours.
    if (statusCode === 416 && range !== null && Number(range[2]) === have) return { kind: 'whole' };
    if (statusCode === 416 || statusCode === 206) {
      await rm(part, { force: true });
      return { kind: 'broken', message: `it cannot go on after ${have} bytes (HTTP ${statusCode})` };
    }
    const isLasting = statusCode < 500 && statusCode !== 408 && statusCode !== 429;
    return { kind: isLasting ? 'refused' : 'broken', message: `HTTP ${statusCode}` };
  }
  const length = headers['content-length'];
  const announced = length === undefined ? undefined : Number(length);
  const total = isRest ? Number(range[2]) : announced;
  const target = await open(part, isRest ? 'a' : 'w').catch((cause: unknown) => {
    throw unwritable(part, cause);
  });
  try {
    const start = isRest ? have : 0;
    const came = await receive(body, target, part, (bytes) => onProgress?.(start + bytes, total));
    signal?.throwIfAborted();
    const size = start + came.bytes;
    if (came.error === undefined && (total === undefined || size === total)) return { kind: 'whole' };
    const reason = came.error ?? 'the connection ended';
    return { kind: 'broken', message: `${reason} after ${size} of ${total ?? 'unknown'} bytes` };
  } finally {
    await target.close();
  }
}

/** Writes what comes until the body ends, well or not. @throws BonsaiError `unwritable_path` */
async function receive(
  body: AsyncIterable<Buffer>,
  target: FileHandle,
  path: string,
  onBytes: (bytes: number) => void,
): Promise<{ readonly bytes: number; readonly error?: string }> {
  let bytes = 0;
  let failure: unknown;
  try {
    for await (const chunk of body) {
      await target.writeFile(chunk).catch((cause: unknown) => {
        failure = unwritable(path, cause);
        throw failure;
      });
      bytes += chunk.length;
      onBytes(bytes);
    }
    await target.sync();
    return { bytes };
  } catch (thrown) {
    if (failure !== undefined) throw failure;
    return { bytes, error: messageOf(thrown) };
  }
}

async function digestOf(path: string, { algorithm, of }: Omit<FileDigest, 'hex'>): Promise<string> {
  const hash = createHash(algorithm);
  if (of === 'gunzipped') await pipeline(createReadStream(path), createGunzip(), hash);
  else await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0;
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() ?? false;
}

function unwritable(path: string, cause: unknown): BonsaiError {
  return new BonsaiError('unwritable_path', `Cannot write ${path}: ${messageOf(cause)}`, { cause });
}
