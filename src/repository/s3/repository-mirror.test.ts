import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Clock } from '../../base/clock.ts';
import { seededRandom } from '../../base/random.ts';
import { digestOfFile } from '../digest.ts';
import { openObjectStore } from './aws-object-store.ts';
import { NetworkCache } from './network-cache.ts';
import { pushTask } from './push-task.ts';
import { RepositoryMirror } from './repository-mirror.ts';
import { parseS3Url } from './s3-url.ts';
import { DOUBLE_CREDENTIALS, StoreDouble } from './store-double.fixture.ts';
import { writeRandomTask } from './tasks.fixture.ts';

const FETCH = { retriesMs: [1, 1], stallMs: 300 };
let folder: string;
let double: StoreDouble;
let nowMs: number;
const clock: Clock = { nowMs: () => nowMs, epochMs: () => nowMs };
const opened: { close(): void }[] = [];

beforeEach(async () => {
  nowMs = 1_000_000;
  folder = await mkdtemp(join(tmpdir(), 'bonsai-mirror-'));
  double = new StoreDouble();
  await double.start();
});

afterEach(async () => {
  for (const store of opened.splice(0)) store.close();
  await double.stop();
  await rm(folder, { recursive: true, force: true });
});

function openStore() {
  const store = openObjectStore(parseS3Url(double.urlOf('zoo')), {
    attempts: 1,
    credentials: DOUBLE_CREDENTIALS,
  });
  opened.push(store);
  return store;
}

async function openMirror(limitBytes = 1e9) {
  const cache = await NetworkCache.open({ folder: join(folder, 'cache'), limitBytes });
  return RepositoryMirror.open({
    store: openStore(),
    folder: join(folder, 'mirror'),
    cache,
    clock,
    fetch: FETCH,
  });
}

async function publish(task: string, sizes: readonly number[], seed = 1) {
  const written = await writeRandomTask(join(folder, 'source'), task, sizes, seed);
  await pushTask(openStore(), join(folder, 'source'), task, { nowMs: Date.now() });
  return written.manifest;
}

describe('the mirror of a bucket', () => {
  it('shows all versions, and fetches the networks that are held', async () => {
    const manifest = await publish('digits', [3000, 2000]);
    const mirror = await openMirror();
    expect(await mirror.listTasks()).toEqual(['digits']);
    const task = await mirror.readTask('digits');
    expect(task.manifest).toEqual(manifest);
    expect(task.problems).toEqual([]);
    const isFetched = () =>
      double.requests.some(({ method, key }) => method === 'GET' && key.includes('/objects/'));
    expect(isFetched()).toBe(false);
    const [, second] = task.versions;
    const release = await second!.hold!();
    expect(await digestOfFile(second!.modelPath)).toBe(manifest.variants[1]!.digest);
    expect(mirror.metricsText()).toMatch(/^bonsai_repository_fetched_bytes_total 2000$/m);
    release();
  });

  it('asks whether anything has changed, and reads only what has', async () => {
    await publish('digits', [300]);
    const mirror = await openMirror();
    const reads = () =>
      double.requests.filter(({ method, key }) => method === 'GET' && key.endsWith('bonsai.json')).length;
    const manifestPath = join(mirror.folder, 'digits/bonsai.json');
    const before = await readFile(manifestPath, 'utf8');
    await mirror.refresh();
    expect(reads()).toBeGreaterThan(1);
    expect(await readFile(manifestPath, 'utf8')).toBe(before);
    const next = await publish('digits', [200], 2);
    await publish('letters', [100]);
    await mirror.refresh();
    expect((await mirror.readTask('digits')).manifest).toEqual(next);
    expect(await mirror.listTasks()).toEqual(['digits', 'letters']);
    double.objects.delete('zoo/letters/bonsai.json');
    await mirror.refresh();
    expect(await mirror.listTasks()).toEqual(['digits']);
  });

  it('serves what is here while the store is away, and says since when', async () => {
    await publish('digits', [3000, 2000]);
    const mirror = await openMirror();
    const { versions } = await mirror.readTask('digits');
    (await versions[0]!.hold!())();
    await double.stop();
    nowMs += 1_000;
    await expect(mirror.refresh()).rejects.toMatchObject({ code: 'store_unreachable' });
    nowMs += 300_000;
    await expect(mirror.refresh()).rejects.toMatchObject({ code: 'store_unreachable' });
    expect(mirror.status).toMatchObject({ isReachable: false, sinceMs: 1_001_000, seenMs: 1_000_000 });
    expect(mirror.metricsText()).toMatch(/^bonsai_repository_up 0$/m);
    expect(await mirror.listTasks()).toEqual(['digits']);
    (await versions[0]!.hold!())();
    await expect(versions[1]!.hold!()).rejects.toMatchObject({
      code: 'store_unreachable',
      message: expect.stringMatching(
        /not in the cache of this machine, and s3:\S+ cannot be read since 1970-01-01T00:16:41/,
      ),
    });
    // A server that starts anew in that time has what was there before.
    const restarted = await openMirror();
    expect(restarted.status.isReachable).toBe(false);
    (await (await restarted.readTask('digits')).versions[0]!.hold!())();

    await double.start();
    nowMs += 1_000;
    await mirror.refresh();
    expect(mirror.status).toMatchObject({ isReachable: true, sinceMs: 1_302_000 });
    (await versions[1]!.hold!())();
  });

  it('says so where the bucket was never seen', async () => {
    await double.stop();
    await expect(openMirror()).rejects.toMatchObject({ code: 'store_unreachable' });
    await double.start();
  });

  it('keeps the description of before where that in the bucket is damaged', async () => {
    const manifest = await publish('digits', [300]);
    const mirror = await openMirror();
    const { bytes } = double.objects.get('zoo/digits/bonsai.json')!;
    double.put('zoo/digits/bonsai.json', bytes.subarray(0, 100));
    await mirror.refresh();
    expect(mirror.status.damaged.get('digits')).toMatch(/zoo\/digits\/bonsai\.json: is not JSON/);
    expect((await mirror.readTask('digits')).manifest).toEqual(manifest);
    double.put('zoo/digits/bonsai.json', bytes);
    await mirror.refresh();
    expect(mirror.status.damaged.size).toBe(0);
  });

  it('gives out nothing of an object that is damaged', async () => {
    const manifest = await publish('digits', [300]);
    const mirror = await openMirror();
    double.fault = ({ method, key }) =>
      method === 'GET' && key.includes('/objects/') ? { kind: 'corrupt' } : undefined;
    const [version] = (await mirror.readTask('digits')).versions;
    await expect(version!.hold!()).rejects.toMatchObject({
      code: 'corrupt_repository',
      message: expect.stringMatching(new RegExp(`the manifest says ${manifest.variants[0]!.digest}`)),
    });
    expect(mirror.metricsText()).toMatch(/^bonsai_repository_corrupt_fetches_total 1$/m);
  });

  it('watches the bucket, with less haste while it is away', async () => {
    await publish('digits', [300]);
    const mirror = await openMirror();
    const controller = new AbortController();
    const looks: boolean[] = [];
    const watching = mirror.watch(
      5,
      seededRandom(1),
      (failure) => {
        looks.push(failure === undefined);
        if (looks.length === 2) double.fault = () => ({ kind: 'error', status: 500, code: 'InternalError' });
        if (looks.length === 4) double.fault = () => undefined;
        if (looks.length === 6) controller.abort();
      },
      controller.signal,
    );
    await watching;
    expect(looks).toEqual([true, true, false, false, true, true]);
  });
});
