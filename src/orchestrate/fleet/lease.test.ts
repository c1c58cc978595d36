import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../base/clock.ts';
import { acquireLease, type Lease, type LeaseRecord, readLease } from './lease.ts';

let folder: string;
let path: string;
let held: Lease[];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-lease-'));
  path = join(folder, 'state.lock');
  held = [];
});
afterEach(async () => {
  for (const lease of held) await lease.release();
  await rm(folder, { recursive: true, force: true });
});

const never = new AbortController().signal;

async function acquire(options: Partial<Parameters<typeof acquireLease>[1]> = {}): Promise<Lease> {
  const lease = await acquireLease(path, { clock: systemClock, signal: never, periodMs: 20, ...options });
  held.push(lease);
  return lease;
}

async function write(record: Partial<LeaseRecord>): Promise<void> {
  const whole = { owner: 'other', pid: process.pid, host: 'elsewhere', term: 7, durationMs: 60_000 };
  await writeFile(path, JSON.stringify({ ...whole, renewedMs: systemClock.epochMs(), ...record }));
}

test('of many who want a lease, one has it; the next gets it when that one lets go', async () => {
  const winners: number[] = [];
  const all = Array.from({ length: 8 }, async (_, i) => {
    const lease = await acquire();
    winners.push(i);
    return lease;
  });
  const first = await Promise.race(all);
  expect(winners).toHaveLength(1);
  expect(first.term).toBe(1);
  for (let i = 1; i < all.length; i++) {
    await held.at(-1)!.release();
    await vi.waitFor(() => expect(winners).toHaveLength(i + 1));
  }
});

test('who waits is told who has it, and can be stopped', async () => {
  await write({});
  const controller = new AbortController();
  const holder = await new Promise<LeaseRecord>((resolve, reject) => {
    acquire({
      signal: controller.signal,
      onWait: (record) => {
        resolve(record);
        controller.abort();
      },
    }).catch(reject);
  });
  expect(holder).toMatchObject({ owner: 'other', host: 'elsewhere' });
});

test('a lease that was not renewed is taken over with the next term, by one of many', async () => {
  await write({ renewedMs: systemClock.epochMs() - 60_001 });
  const stop = new AbortController();
  const waiting = Array.from({ length: 5 }, () => acquire({ signal: stop.signal }).catch(() => undefined));
  const first = await Promise.race(waiting);
  expect(first!.term).toBe(8);
  stop.abort();
  expect((await Promise.all(waiting)).filter((lease) => lease !== undefined)).toEqual([first]);
});

test('a lease whose process has ended on this machine is taken over at once', async () => {
  const own = await acquire();
  const { host } = (await readLease(path))!;
  await own.release();
  await write({ host, pid: 2 ** 22 + 1 });
  expect((await acquire()).term).toBe(8);
});

test('a file that is no lease is no lease', async () => {
  await writeFile(path, '{"owner":');
  expect((await acquire()).term).toBe(1);
});

test('who finds that another has the lease stops', async () => {
  const lease = await acquire();
  await write({ pid: 42 });
  await vi.waitFor(() => expect(lease.lost.aborted).toBe(true));
  expect(String(lease.lost.reason)).toContain('process 42 on elsewhere took it');
  await lease.release();
  expect(JSON.parse(await readFile(path, 'utf8')).owner).toBe('other');
});

test('a lease that ran out while its owner slept is lost, whoever has it now', async () => {
  let sleptMs = 0;
  const clock = {
    nowMs: () => systemClock.nowMs() + sleptMs,
    epochMs: () => systemClock.epochMs() + sleptMs,
  };
  const lease = await acquire({ clock });
  sleptMs = 60_000;
  await vi.waitFor(() => expect(lease.lost.aborted).toBe(true));
  expect(String(lease.lost.reason)).toContain('not renewed in time');
});

test('who led before waits on while the lease cannot be written, and says so once', async () => {
  await rm(folder, { recursive: true });
  await expect(acquire()).rejects.toMatchObject({ code: 'unwritable_path' });
  const troubles: string[] = [];
  const waiting = acquire({ onTrouble: ({ code }) => troubles.push(code) });
  await vi.waitFor(() => expect(troubles).toEqual(['unwritable_path']));
  await new Promise((done) => setTimeout(done, 100));
  await mkdir(folder);
  expect((await waiting).term).toBe(1);
  expect(troubles).toHaveLength(1);
});
