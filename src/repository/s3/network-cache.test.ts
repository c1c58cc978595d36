import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOf } from '../digest.ts';
import { NetworkCache } from './network-cache.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-cache-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** A network of so many bytes, each of that value. */
function network(value: number, size = 100) {
  const bytes = new Uint8Array(size).fill(value);
  const digest = digestOf(bytes);
  let fetches = 0;
  return {
    digest,
    size,
    bytes,
    fetches: () => fetches,
    fetch: async (path: string) => {
      fetches++;
      await writeFile(path, bytes);
    },
  };
}

const lying = async () => (await readdir(join(folder, 'networks'))).map((name) => name.split('.')[0]).sort();
const hold = (cache: NetworkCache, n: ReturnType<typeof network>) => cache.hold(n.digest, n.size, n.fetch);

/** Used so many seconds ago. */
async function age(cache: NetworkCache, digest: string, seconds: number): Promise<void> {
  const then = new Date(Date.now() - 1000 * seconds);
  await utimes(cache.pathOf(digest), then, then);
}

describe('the cache of networks', () => {
  it('fetches a network once, for all who ask for it at once or later', async () => {
    const cache = await NetworkCache.open({ folder, limitBytes: 1e6 });
    const a = network(1);
    const releases = await Promise.all([hold(cache, a), hold(cache, a)]);
    releases.push(await hold(cache, a));
    expect(a.fetches()).toBe(1);
    const again = await NetworkCache.open({ folder, limitBytes: 1e6 });
    releases.push(await hold(again, a));
    expect(a.fetches()).toBe(1);
    for (const release of releases) release();
  });

  it('removes those not used for longest, never one that is held, be the limit as it may', async () => {
    const cache = await NetworkCache.open({ folder, limitBytes: 250 });
    const [a, b, c, d] = [network(1), network(2), network(3), network(4)] as const;
    const releaseA = await hold(cache, a);
    (await hold(cache, b))();
    await cache.settled();
    await age(cache, a.digest, 300);
    await age(cache, b.digest, 200);
    (await hold(cache, c))();
    await cache.settled();
    expect(await lying()).toEqual([a.digest, c.digest].sort());
    expect(cache.evictions).toBe(1);
    const releaseC = await hold(cache, c);
    const releaseD = await hold(cache, d);
    await cache.settled();
    expect(await lying()).toEqual([a.digest, c.digest, d.digest].sort());
    expect(cache.bytes).toBe(300);
    for (const release of [releaseA, releaseC, releaseD]) release();
  });

  it('leaves alone what another living process holds, but not what a dead one held', async () => {
    // Process 1 is always there; the highest id that a kernel gives is not.
    const theirs = await NetworkCache.open({ folder, limitBytes: 1e6, holder: 1 });
    const dead = await NetworkCache.open({ folder, limitBytes: 1e6, holder: 4_194_304 });
    const [a, b, c] = [network(1), network(2), network(3)] as const;
    await hold(theirs, a);
    await hold(dead, b);
    const cache = await NetworkCache.open({ folder, limitBytes: 50 });
    (await hold(cache, c))();
    await cache.settled();
    expect(await lying()).not.toContain(b.digest);
    expect(await lying()).toContain(a.digest);
  });

  it('fetches anew what the disk has spoilt', async () => {
    const a = network(1);
    const before = await NetworkCache.open({ folder, limitBytes: 1e6 });
    (await hold(before, a))();
    await writeFile(before.pathOf(a.digest), new Uint8Array(a.size));
    const cache = await NetworkCache.open({ folder, limitBytes: 1e6 });
    (await hold(cache, a))();
    expect(a.fetches()).toBe(2);
  });

  it('holds nothing that could not be fetched', async () => {
    const cache = await NetworkCache.open({ folder, limitBytes: 1e6 });
    const a = network(1);
    await expect(cache.hold(a.digest, a.size, async () => Promise.reject(new Error('no')))).rejects.toThrow(
      'no',
    );
    (await hold(cache, a))();
    expect(a.fetches()).toBe(1);
  });
});
