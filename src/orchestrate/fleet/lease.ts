import { randomUUID } from 'node:crypto';
import { link, open, readFile, rm, stat, unlink, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../base/clock.ts';
import { BonsaiError, messageOf, systemCodeOf, systemReason } from '../../base/errors.ts';
import { isAlive } from '../../base/is-alive.ts';
import { replaceFile } from '../../base/replace-file.ts';

/** What the file of a lease says. */
export interface LeaseRecord {
  /** A name that nobody else has. */
  readonly owner: string;
  readonly pid: number;
  readonly host: string;
  /** Counts owners: of two, the higher one is the later. */
  readonly term: number;
  /** Since the Unix epoch. */
  readonly renewedMs: number;
  readonly durationMs: number;
  /** When its owner got it, since the Unix epoch; absent in files of earlier versions. */
  readonly sinceMs?: number;
}

export const leaseDefaults = {
  /** Without a renewal for so long, another orchestrator may take over. */
  durationMs: 4_000,
  /** Renewals, and looks of those who wait. */
  periodMs: 1_000,
  /** After taking a lease over, its file is looked at again: of two who took it in the same moment, one finds the other's. */
  settleMs: 100,
  /** Who takes over holds a second lock for milliseconds; one that is older was left by a crash. */
  staleTakeoverMs: 10_000,
} as const;

export interface Lease {
  readonly term: number;
  /** Aborts when the lease is lost: somebody else has it, or it could not be renewed in time. */
  readonly lost: AbortSignal;
  /** Lets others have it at once. */
  release(): Promise<void>;
}

/** One that is a file. */
export interface FileLease extends Lease {
  /** What the file says. */
  readonly record: LeaseRecord;
}

/**
 * The right to orchestrate a fleet: a file that its owner renews. One that was not renewed for its duration, or whose
 * process has ended on this machine, is taken over. Clocks of machines that share the file may differ by a second or two, not by
 * more.
 * @param onWait told who has it, if somebody has, and again when that is another one
 * @throws BonsaiError `aborted` when the signal came before the lease, `unwritable_path`
 */
export async function acquireLease(
  path: string,
  options: {
    readonly clock: Clock;
    readonly signal: AbortSignal;
    readonly onWait?: (holder: LeaseRecord) => void;
    /** Told once that the lease cannot be written; it is tried on. By default that is an error: who starts should know. */
    readonly onTrouble?: (error: BonsaiError) => void;
    readonly durationMs?: number;
    readonly periodMs?: number;
  },
): Promise<FileLease> {
  const {
    clock,
    signal,
    onWait,
    onTrouble,
    durationMs = leaseDefaults.durationMs,
    periodMs = leaseDefaults.periodMs,
  } = options;
  const me = { owner: randomUUID(), pid: process.pid, host: hostname(), durationMs };
  let told: string | undefined;
  let isInTrouble = false;
  for (;;) {
    if (signal.aborted) throw new BonsaiError('aborted', 'Stopped before the lease of the fleet was free.');
    const taken = await tryTake(path, me, clock).catch((error) => {
      if (onTrouble === undefined || !(error instanceof BonsaiError)) throw error;
      if (!isInTrouble) onTrouble(error);
      isInTrouble = true;
      return undefined;
    });
    if (taken !== undefined && 'term' in taken && taken.owner === me.owner) {
      return held(path, taken, clock, periodMs);
    }
    if (taken !== undefined && told !== taken.owner) {
      told = taken.owner;
      onWait?.(taken);
    }
    await delay(periodMs, undefined, { signal }).catch(() => {});
  }
}

/** @returns my record if I have the lease now, the holder's if not, undefined if that is not clear */
async function tryTake(
  path: string,
  me: Pick<LeaseRecord, 'owner' | 'pid' | 'host' | 'durationMs'>,
  clock: Clock,
): Promise<LeaseRecord | undefined> {
  const before = await readLease(path);
  if (before !== undefined && isHeld(before, clock)) return before;
  const mine: LeaseRecord = {
    ...me,
    term: (before?.term ?? 0) + 1,
    renewedMs: clock.epochMs(),
    sinceMs: clock.epochMs(),
  };
  try {
    if (before === undefined) {
      // A file that is no lease (cut off by a full disk) is treated as one that ended.
      if (!(await isMissing(path))) await rm(path, { force: true });
      await createWhole(path, mine);
    } else if (!(await takeOver(path, before, mine, clock))) return undefined;
  } catch (cause) {
    if (systemCodeOf(cause) === 'EEXIST') return undefined;
    throw new BonsaiError(
      'unwritable_path',
      `The lease ${path} cannot be written: ${systemReason(cause)}. Choose a state file in a folder that can.`,
      { cause },
    );
  }
  await delay(leaseDefaults.settleMs);
  return readLease(path);
}

/** The file appears with all of its content or not at all. @throws the system's EEXIST where there is one */
async function createWhole(path: string, record: LeaseRecord): Promise<void> {
  const temporary = `${path}.${record.owner}.tmp`;
  await writeFile(temporary, JSON.stringify(record));
  try {
    await link(temporary, path);
  } finally {
    await unlink(temporary);
  }
}

/** One at a time replaces a lease that ended. @returns false if another did, or does */
async function takeOver(path: string, ended: LeaseRecord, mine: LeaseRecord, clock: Clock): Promise<boolean> {
  const lock = `${path}.takeover`;
  const age = clock.epochMs() - ((await stat(lock).catch(() => undefined))?.mtimeMs ?? clock.epochMs());
  if (age > leaseDefaults.staleTakeoverMs) await rm(lock, { force: true });
  const handle = await open(lock, 'wx');
  try {
    const now = await readLease(path);
    if (now !== undefined && (now.owner !== ended.owner || isHeld(now, clock))) return false;
    await replaceFile(path, Buffer.from(JSON.stringify(mine)));
    return true;
  } finally {
    await handle.close();
    await rm(lock, { force: true });
  }
}

function held(path: string, record: LeaseRecord, clock: Clock, periodMs: number): FileLease {
  const controller = new AbortController();
  let renewedMs = clock.nowMs();
  let renewing: Promise<void> = Promise.resolve();
  const lose = (why: string) => {
    clearInterval(timer);
    controller.abort(new BonsaiError('aborted', `The lease of the fleet was lost: ${why}.`));
  };
  const renew = async () => {
    if (controller.signal.aborted) return;
    try {
      const now = await readLease(path);
      if (now?.owner !== record.owner) {
        lose(now === undefined ? `${path} is gone` : `process ${now.pid} on ${now.host} took it`);
        return;
      }
      await replaceFile(path, Buffer.from(JSON.stringify({ ...record, renewedMs: clock.epochMs() })));
      renewedMs = clock.nowMs();
    } catch (error) {
      if (clock.nowMs() - renewedMs > record.durationMs) lose(`it cannot be renewed: ${messageOf(error)}`);
    }
  };
  const timer = setInterval(() => {
    // One that was stopped for long (a laptop that slept) must not act before it has looked.
    if (clock.nowMs() - renewedMs > record.durationMs) lose('it was not renewed in time');
    else renewing = renewing.then(renew);
  }, periodMs);
  return {
    term: record.term,
    record,
    lost: controller.signal,
    async release() {
      clearInterval(timer);
      await renewing;
      if (controller.signal.aborted) return;
      if ((await readLease(path))?.owner === record.owner) await rm(path, { force: true });
    },
  };
}

/** Whether its owner still has it. */
export function isHeld(record: LeaseRecord, clock: Clock): boolean {
  if (clock.epochMs() - record.renewedMs > record.durationMs) return false;
  return record.host !== hostname() || isAlive(record.pid);
}

/** Undefined where there is none, or none that can be understood. */
export async function readLease(path: string): Promise<LeaseRecord | undefined> {
  try {
    const value = JSON.parse(await readFile(path, 'utf8'));
    const isWhole =
      typeof value?.owner === 'string' && Number.isFinite(value.renewedMs) && Number.isInteger(value.pid);
    return isWhole ? (value as LeaseRecord) : undefined; // Written by our own.
  } catch {
    return undefined;
  }
}

async function isMissing(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) === undefined;
}
