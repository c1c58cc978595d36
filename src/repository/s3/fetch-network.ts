import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { BonsaiError, systemCodeOf } from '../../base/errors.ts';
import { makeFolder } from '../../base/make-folder.ts';
import { digestOfFile } from '../digest.ts';
import { CorruptRepositoryError } from '../errors.ts';
import { storeErrorOf } from './aws-errors.ts';
import { networkKey } from './layout.ts';
import type { ObjectStore } from './object-store.ts';
import { s3Text } from './s3-url.ts';
import { StoreError } from './store-error.ts';

/** A network of a task, as its manifest describes it. */
export interface WantedNetwork {
  readonly task: string;
  readonly digest: string;
  readonly sizeBytes: number;
}

export interface FetchOptions {
  readonly signal?: AbortSignal;
  /** Told of bytes as they come in. */
  readonly onBytes?: (count: number) => void;
  /** Waits before the next try after tries that brought nothing; one more than waits, then it is given up. */
  readonly retriesMs?: readonly number[];
  /** How long the bytes may fail to come before the connection counts as dead. */
  readonly stallMs?: number;
}

export const fetchDefaults = {
  /** Patient enough for a router that starts anew, short enough for somebody who waits. */
  retriesMs: [250, 1_000, 4_000],
  stallMs: 20_000,
} as const;

/**
 * Brings a network to a path. What came of it before, in this process or an earlier one, is not fetched again: the rest
 * is asked for by a range. The file appears when it is whole and has its digest; an object that is not the one that the
 * manifest means is fetched once more as a whole, since lines err, and then refused.
 * @throws CorruptRepositoryError naming the object with the digest expected and that received; StoreError; the signal's reason
 */
export async function fetchNetwork(
  store: ObjectStore,
  wanted: WantedNetwork,
  path: string,
  options: FetchOptions = {},
): Promise<void> {
  const part = `${path}.part`;
  await makeFolder(dirname(path));
  let found = '';
  for (let tries = 0; tries < 2; tries++) {
    await complete(store, wanted, part, options);
    found = await digestOfFile(part);
    if (found === wanted.digest) {
      await rename(part, path).catch(async (thrown: unknown) => {
        // Another process that shares the folder was quicker with the same bytes.
        if (systemCodeOf(thrown) !== 'ENOENT' || (await sizeOf(path)) !== wanted.sizeBytes) throw thrown;
      });
      return;
    }
    await rm(part, { force: true });
  }
  throw new CorruptRepositoryError({
    file: s3Text(store.url, networkKey(wanted.task, wanted.digest)),
    problem: `has digest ${found}; the manifest says ${wanted.digest}. The object is damaged or was replaced: send it again from a good copy (bonsai repo push --all).`,
  });
}

/** Appends to the part until it is as long as it should be, over as many connections as that takes. */
async function complete(
  store: ObjectStore,
  wanted: WantedNetwork,
  part: string,
  { signal = new AbortController().signal, onBytes, ...options }: FetchOptions,
): Promise<void> {
  const { retriesMs = fetchDefaults.retriesMs, stallMs = fetchDefaults.stallMs } = options;
  // Positions are given with each write, so that two processes that fetch the same bytes do each other no harm.
  const handle = await open(part, 'a').then(async (created) => {
    await created.close();
    return open(part, 'r+');
  });
  try {
    let at = (await handle.stat()).size;
    if (at > wanted.sizeBytes) {
      await handle.truncate(0);
      at = 0;
    }
    for (let failures = 0; at < wanted.sizeBytes; ) {
      const before = at;
      try {
        at = await append(store, wanted, handle, at, { signal, onBytes, stallMs });
      } catch (thrown) {
        signal.throwIfAborted();
        if (!(thrown instanceof StoreError) || thrown.problem !== 'unreachable') throw thrown;
        at = (await handle.stat()).size;
        failures = at > before ? 0 : failures + 1;
        const waitMs = retriesMs[failures === 0 ? 0 : failures - 1];
        if (waitMs === undefined) throw thrown;
        await delay(waitMs, undefined, { signal }).catch(() => signal.throwIfAborted());
      }
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** @returns the position reached: the end of the object */
async function append(
  store: ObjectStore,
  { task, digest, sizeBytes }: WantedNetwork,
  handle: FileHandle,
  from: number,
  options: { signal: AbortSignal; onBytes?: (count: number) => void; stallMs: number },
): Promise<number> {
  const key = networkKey(task, digest);
  const stall = new AbortController();
  const signal = AbortSignal.any([options.signal, stall.signal]);
  const corrupt = (problem: string) => new CorruptRepositoryError({ file: s3Text(store.url, key), problem });
  const opened = await store.open(key, from, signal);
  if (opened === undefined)
    throw corrupt(`is missing, though the manifest names it. Push the task again from a good copy.`);
  const timer = setTimeout(() => stall.abort(), options.stallMs);
  try {
    if (opened.sizeBytes !== undefined && opened.sizeBytes !== sizeBytes)
      throw corrupt(
        `has ${opened.sizeBytes} bytes; the manifest says ${sizeBytes} (digest ${digest}). The object is damaged or was replaced: send it again from a good copy (bonsai repo push --all).`,
      );
    let at = opened.startsAt;
    for await (const chunk of opened.chunks) {
      timer.refresh();
      if (at + chunk.byteLength > sizeBytes)
        throw corrupt(`is longer than the ${sizeBytes} bytes of the manifest.`);
      await handle.write(chunk, 0, chunk.byteLength, at);
      at += chunk.byteLength;
      options.onBytes?.(chunk.byteLength);
    }
    if (at === sizeBytes) return at;
    throw new StoreError(
      'unreachable',
      `${s3Text(store.url, key)}: the connection ended after ${at} of ${sizeBytes} bytes.`,
    );
  } catch (thrown) {
    options.signal.throwIfAborted();
    if (thrown instanceof BonsaiError) throw thrown;
    throw storeErrorOf(thrown, {
      what: s3Text(store.url, key),
      bucket: store.url.bucket,
      endpoint: store.url.endpoint,
      region: store.url.region,
      ...(stall.signal.aborted && { timedOutAfterMs: options.stallMs }),
    });
  } finally {
    clearTimeout(timer);
    stall.abort(); // Lets the connection go where not all was read.
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(() => undefined))?.size;
}
