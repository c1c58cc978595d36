import { createHash } from 'node:crypto';
import { messageOf } from '../../base/errors.ts';
import { networkKey } from './layout.ts';
import type { ObjectStore } from './object-store.ts';
import { readRemoteManifest } from './pull-task.ts';
import { s3Text } from './s3-url.ts';

/** What verifying found of a task's description (no version) or of one of its networks. */
export interface VerifiedObject {
  readonly task: string;
  readonly version?: number;
  readonly ok: boolean;
  readonly problem?: string;
}

/** Reads the description and every network of a task in a bucket and compares them with their digests. Keeps nothing. */
export async function verifyRemoteTask(
  store: ObjectStore,
  task: string,
  signal: AbortSignal,
): Promise<VerifiedObject[]> {
  let variants: Awaited<ReturnType<typeof readRemoteManifest>>['variants'];
  try {
    ({ variants } = await readRemoteManifest(store, task, signal));
  } catch (thrown) {
    return [{ task, ok: false, problem: messageOf(thrown) }];
  }
  const rows: VerifiedObject[] = [];
  for (const { version, digest } of variants) {
    const problem = await problemOf(store, networkKey(task, digest), digest, signal).catch(messageOf);
    rows.push({ task, version, ok: problem === undefined, ...(problem !== undefined && { problem }) });
  }
  return rows;
}

async function problemOf(
  store: ObjectStore,
  key: string,
  expected: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const opened = await store.open(key, 0, signal);
  if (opened === undefined) return `${s3Text(store.url, key)} is missing.`;
  const hash = createHash('sha256');
  for await (const chunk of opened.chunks) hash.update(chunk);
  const found = hash.digest('hex');
  return found === expected
    ? undefined
    : `${s3Text(store.url, key)} has digest ${found}; the manifest says ${expected}.`;
}
