import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import S3rver from 's3rver';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readManifest, verifyVariant } from '../store.ts';
import { openObjectStore } from './aws-object-store.ts';
import { networkKey } from './layout.ts';
import type { ObjectStore } from './object-store.ts';
import { listRemoteTasks, pullTask, readRemoteManifest } from './pull-task.ts';
import { pushTask, UNUSED_GRACE_MS } from './push-task.ts';
import { parseS3Url } from './s3-url.ts';
import { DOUBLE_BUCKET, DOUBLE_CREDENTIALS, StoreDouble } from './store-double.fixture.ts';
import { writeRandomTask } from './tasks.fixture.ts';

const nowMs = Date.now();
const FAST = { retriesMs: [1, 1, 1], stallMs: 300 };
let folder: string;
let double: StoreDouble;
let store: ObjectStore;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-s3-'));
  double = new StoreDouble();
  await double.start();
  store = openDouble();
});

afterEach(async () => {
  store.close();
  await double.stop();
  await rm(folder, { recursive: true, force: true });
});

function openDouble(
  options: { url?: string; attempts?: number; answerMs?: number; secretAccessKey?: string } = {},
) {
  const {
    url = double.urlOf('fleet/models'),
    secretAccessKey = DOUBLE_CREDENTIALS.secretAccessKey,
    ...rest
  } = options;
  return openObjectStore(parseS3Url(url), {
    attempts: 1,
    ...rest,
    credentials: { ...DOUBLE_CREDENTIALS, secretAccessKey },
  });
}

const at = (name: string) => join(folder, name);

/** The whole family is there and sound. */
async function expectSound(root: string, task: string): Promise<void> {
  const { variants } = await readManifest(root, task);
  for (const variant of variants) await verifyVariant(root, task, variant);
}

const isNetworkRead = (method: string, key: string) => method === 'GET' && key.includes('/objects/');

describe('pushing and pulling', () => {
  it('bring a family from one machine to another, and no network twice', async () => {
    const { manifest } = await writeRandomTask(at('a'), 'digits', [50_000, 20_000, 7_000]);
    const first = await pushTask(store, at('a'), 'digits', { nowMs });
    expect(first).toMatchObject({ outcome: 'published', uploadedNetworks: 3, uploadedBytes: 77_000 });
    expect(await pushTask(store, at('a'), 'digits', { nowMs })).toMatchObject({
      outcome: 'unchanged',
      uploadedNetworks: 0,
    });
    expect(await listRemoteTasks(store)).toEqual(['digits']);
    expect(await readRemoteManifest(store, 'digits')).toEqual(manifest);
    expect(await pullTask(store, at('b'), 'digits')).toMatchObject({
      fetchedNetworks: 3,
      fetchedBytes: 77_000,
    });
    expect(await readManifest(at('b'), 'digits')).toEqual(manifest);
    await expectSound(at('b'), 'digits');
    expect(await pullTask(store, at('b'), 'digits')).toMatchObject({ fetchedNetworks: 0, fetchedBytes: 0 });
    expect(await readdir(at('b'))).toEqual(['digits']);
  });

  it('lists a bucket of more tasks than one page holds', async () => {
    double.pageSize = 2;
    for (const task of ['a', 'b', 'c', 'd', 'e']) {
      await writeRandomTask(at('a'), task, [10]);
      await pushTask(store, at('a'), task, { nowMs });
    }
    expect(await listRemoteTasks(store)).toEqual(['a', 'b', 'c', 'd', 'e']);
  });

  it('shows readers nothing of a push that was interrupted, which then goes on', async () => {
    await writeRandomTask(at('a'), 'digits', [5_000, 4_000, 3_000]);
    let writes = 0;
    double.fault = ({ method, key }) =>
      method === 'PUT' && key.includes('/objects/') && ++writes > 2
        ? { kind: 'error', status: 503, code: 'ServiceUnavailable' }
        : undefined;
    await expect(pushTask(store, at('a'), 'digits', { nowMs })).rejects.toMatchObject({
      code: 'store_unreachable',
    });
    expect(await listRemoteTasks(store)).toEqual([]);
    double.fault = () => undefined;
    expect(await pushTask(store, at('a'), 'digits', { nowMs })).toMatchObject({ uploadedNetworks: 1 });
    await pullTask(store, at('b'), 'digits');
    await expectSound(at('b'), 'digits');
  });

  it('sends again what was damaged in the store, where it is asked to', async () => {
    const { manifest } = await writeRandomTask(at('a'), 'digits', [5_000]);
    await pushTask(store, at('a'), 'digits', { nowMs });
    const key = networkKey('digits', manifest.variants[0]!.digest);
    await store.write(key, new Uint8Array(5_000), {});
    expect(await pushTask(store, at('a'), 'digits', { nowMs })).toMatchObject({ uploadedNetworks: 0 });
    await expect(pullTask(store, at('b'), 'digits')).rejects.toThrow(/bonsai repo push --all/);
    const again = await pushTask(store, at('a'), 'digits', { nowMs, sendsAll: true });
    expect(again).toMatchObject({ outcome: 'unchanged', uploadedNetworks: 1 });
    await pullTask(store, at('b'), 'digits');
    await expectSound(at('b'), 'digits');
  });

  it('go on to the byte where a pull was cut, even in another process', async () => {
    const { manifest } = await writeRandomTask(at('a'), 'digits', [900_000]);
    await pushTask(store, at('a'), 'digits', { nowMs });
    double.fault = ({ method, key }) =>
      isNetworkRead(method, key) ? { kind: 'cut', afterBytes: 200_000 } : undefined;
    // Each connection brings something, so it goes on; then the store is gone for good.
    await pullTask(store, at('b'), 'digits', FAST);
    const ranges = double.requests
      .filter(({ method, key }) => isNetworkRead(method, key))
      .map(({ range }) => range);
    expect(ranges.length).toBeGreaterThan(2);
    expect(new Set(ranges).size).toBe(ranges.length);
    await expectSound(at('b'), 'digits');

    let reads = 0;
    double.fault = ({ method, key }) => {
      if (!isNetworkRead(method, key)) return undefined;
      return ++reads === 1
        ? { kind: 'cut', afterBytes: 600_000 }
        : { kind: 'error', status: 500, code: 'InternalError' };
    };
    await expect(pullTask(store, at('c'), 'digits', FAST)).rejects.toMatchObject({
      code: 'store_unreachable',
    });
    expect(await readdir(at('c'))).toEqual(['.pull']);
    double.fault = () => undefined;
    const { fetchedBytes } = await pullTask(store, at('c'), 'digits', FAST);
    expect(fetchedBytes).toBeLessThan(900_000);
    expect(fetchedBytes).toBeGreaterThan(0);
    expect(await readManifest(at('c'), 'digits')).toEqual(manifest);
    await expectSound(at('c'), 'digits');
  });

  it('waits for a slow store, but not for one that falls silent', async () => {
    await writeRandomTask(at('a'), 'digits', [60_000]);
    await pushTask(store, at('a'), 'digits', { nowMs });
    double.fault = ({ method, key }) =>
      isNetworkRead(method, key) ? { kind: 'slow', pieceBytes: 6_000, everyMs: 50 } : undefined;
    await pullTask(store, at('b'), 'digits', FAST); // All of it takes longer than the stall that is allowed.
    await expectSound(at('b'), 'digits');
    double.fault = ({ method, key }) =>
      isNetworkRead(method, key) ? { kind: 'slow', pieceBytes: 6_000, everyMs: 60_000 } : undefined;
    await expect(
      pullTask(store, at('c'), 'digits', { ...FAST, retriesMs: [], stallMs: 100 }),
    ).rejects.toMatchObject({
      code: 'store_unreachable',
      message: expect.stringMatching(/no answer within 0\.1 s/),
    });
  });

  it('fetches anew what came damaged, and refuses by name what stays so', async () => {
    const { manifest } = await writeRandomTask(at('a'), 'digits', [3_000]);
    await pushTask(store, at('a'), 'digits', { nowMs });
    let reads = 0;
    double.fault = ({ method, key }) =>
      isNetworkRead(method, key) && ++reads === 1 ? { kind: 'corrupt' } : undefined;
    await pullTask(store, at('b'), 'digits', FAST);
    await expectSound(at('b'), 'digits');

    const { digest } = manifest.variants[0]!;
    double.fault = ({ method, key }) => (isNetworkRead(method, key) ? { kind: 'corrupt' } : undefined);
    await expect(pullTask(store, at('c'), 'digits', FAST)).rejects.toMatchObject({
      code: 'corrupt_repository',
      file: `s3://${DOUBLE_BUCKET}/fleet/models/digits/objects/${digest}.onnx`,
      message: expect.stringMatching(new RegExp(`has digest [0-9a-f]{64}; the manifest says ${digest}`)),
    });
    double.fault = () => undefined;
    double.put(`fleet/models/${networkKey('digits', digest)}`, new Uint8Array(10));
    await expect(pullTask(store, at('c'), 'digits', FAST)).rejects.toMatchObject({
      code: 'corrupt_repository',
      message: expect.stringMatching(/has 10 bytes; the manifest says 3000/),
    });
    expect((await readdir(at('c'))).filter((name) => !name.startsWith('.'))).toEqual([]);
  });

  it.each([true, false])(
    'lets one of two publishers win and tells the other (conditional writes: %s)',
    async (known) => {
      double.hasConditionalWrites = known;
      await writeRandomTask(at('a'), 'digits', [900], 1);
      await writeRandomTask(at('b'), 'digits', [800], 2);
      const other = openDouble();
      const outcomes = await Promise.allSettled([
        pushTask(store, at('a'), 'digits', { nowMs }),
        pushTask(other, at('b'), 'digits', { nowMs }),
      ]);
      other.close();
      const losers = outcomes.filter((outcome) => outcome.status === 'rejected');
      // Without conditional writes both may see the other's claim and give up.
      if (known) expect(losers).toHaveLength(1);
      else expect(losers.length).toBeGreaterThan(0);
      for (const { reason } of losers) expect(reason).toMatchObject({ code: 'store_conflict' });
      if (losers.length === 2) expect(await listRemoteTasks(store)).toEqual([]);
      else {
        const won = await readRemoteManifest(store, 'digits');
        const winner = outcomes[0]!.status === 'fulfilled' ? 'a' : 'b';
        expect(won).toEqual(await readManifest(at(winner), 'digits'));
      }
      expect([...double.objects.keys()].filter((key) => /publishing\/(?!probe)/.test(key))).toEqual([]);
    },
  );

  it('tells who published first what is there now', async () => {
    await writeRandomTask(at('a'), 'digits', [900], 1);
    await pushTask(store, at('a'), 'digits', { nowMs });
    await writeRandomTask(at('b'), 'digits', [800], 2);
    await writeRandomTask(at('c'), 'digits', [700], 3);
    let isRacing = true;
    double.fault = ({ method, key }) => {
      if (!isRacing || method !== 'PUT' || !key.endsWith('bonsai.json')) return undefined;
      isRacing = false;
      double.put(key, new TextEncoder().encode('{"manifestDigest":"theirs"}'));
      return undefined;
    };
    await expect(pushTask(store, at('b'), 'digits', { nowMs })).rejects.toMatchObject({
      code: 'store_conflict',
      message: expect.stringMatching(/published the family with digest theirs/),
    });
    expect(await pushTask(store, at('c'), 'digits', { nowMs })).toMatchObject({ outcome: 'published' });
  });

  it('takes a write whose answer was lost for what it is: done', async () => {
    const patient = openDouble({ attempts: 3 });
    await writeRandomTask(at('a'), 'digits', [900]);
    let lost = 0;
    double.fault = ({ method, key }) =>
      method === 'PUT' && key.endsWith('bonsai.json') && ++lost === 1 ? { kind: 'lost' } : undefined;
    expect(await pushTask(patient, at('a'), 'digits', { nowMs })).toMatchObject({ outcome: 'published' });
    expect(lost).toBeGreaterThan(1);
    patient.close();
  });

  it("puts copies into Triton's layout on demand", async () => {
    const { networks } = await writeRandomTask(at('a'), 'digits', [900, 500]);
    await pushTask(store, at('a'), 'digits', { nowMs, hasTritonLayout: true });
    const lying = [...double.objects.keys()].filter((key) => !/objects|publishing/.test(key)).sort();
    expect(lying).toEqual([
      'fleet/models/digits/1/model.onnx',
      'fleet/models/digits/2/model.onnx',
      'fleet/models/digits/bonsai.json',
      'fleet/models/digits/config.pbtxt',
      'fleet/models/digits/labels.txt',
    ]);
    expect(double.objects.get('fleet/models/digits/2/model.onnx')!.bytes).toEqual(
      Buffer.from(networks.get(2)!),
    );
  });

  it('removes what no family names any more, but nothing that a reader may be fetching', async () => {
    await writeRandomTask(at('a'), 'digits', [900, 500], 1);
    await pushTask(store, at('a'), 'digits', { nowMs });
    await writeRandomTask(at('a'), 'digits', [800], 2);
    const options = { removesUnused: true, nowMs: Date.now() };
    for (const step of ['evaluate-1.json', 'fine-tune-1.onnx'])
      await store.write(`digits/steps/${step}`, new Uint8Array(9));
    expect(await pushTask(store, at('a'), 'digits', options)).toMatchObject({
      removedNetworks: 0,
      removedSteps: 0,
    });
    const later = { ...options, nowMs: Date.now() + UNUSED_GRACE_MS + 1000 };
    expect(await pushTask(store, at('a'), 'digits', later)).toMatchObject({
      removedNetworks: 2,
      removedSteps: 2,
    });
    await pullTask(store, at('b'), 'digits');
    await expectSound(at('b'), 'digits');
  });

  it('refuses to publish a folder that is damaged', async () => {
    await writeRandomTask(at('a'), 'digits', [900]);
    await writeFile(join(at('a'), 'digits/1/model.onnx'), new Uint8Array(900));
    await expect(pushTask(store, at('a'), 'digits', { nowMs })).rejects.toMatchObject({
      code: 'corrupt_repository',
    });
    expect(double.objects.size).toBe(0);
  });
});

describe('errors of a store', () => {
  const read = (opened: ObjectStore) => opened.read('digits/bonsai.json').finally(() => opened.close());

  it('say what is wrong and what to do', async () => {
    await expect(read(openDouble({ secretAccessKey: 'wrong' }))).rejects.toMatchObject({
      code: 'store_refused',
      problem: 'credentials',
      message: expect.stringMatching(/AWS_ACCESS_KEY_ID/),
    });
    await expect(
      read(openDouble({ url: double.urlOf('x').replace(DOUBLE_BUCKET, 'nobodys') })),
    ).rejects.toMatchObject({
      problem: 'bucket_missing',
      message: expect.stringMatching(/no bucket "nobodys"/),
    });
    await expect(
      read(openDouble({ url: double.urlOf('x').replace('eu-west-1', 'us-east-1') })),
    ).rejects.toMatchObject({
      problem: 'wrong_region',
      message: expect.stringMatching(/us-east-1 is not that of the bucket, which is in eu-west-1/),
    });
    double.fault = () => ({ kind: 'error', status: 403, code: 'AccessDenied' });
    await expect(read(openDouble())).rejects.toMatchObject({
      problem: 'denied',
      message: expect.stringMatching(/s3:GetObject/),
    });
    double.fault = () => ({ kind: 'error', status: 500, code: 'InternalError' });
    await expect(read(openDouble())).rejects.toMatchObject({ code: 'store_unreachable' });
    double.fault = () => ({ kind: 'hang' });
    await expect(read(openDouble({ answerMs: 100 }))).rejects.toMatchObject({
      code: 'store_unreachable',
      message: expect.stringMatching(/no answer within 0\.1 s/),
    });
    double.fault = () => undefined;
    double.clockOffsetMs = 3_600_000;
    await expect(read(openDouble())).rejects.toMatchObject({
      problem: 'clock_skew',
      message: expect.stringMatching(/clock .* differ too much/),
    });
    const nowhere = openDouble({ url: `s3://${DOUBLE_BUCKET}/x?endpoint=http://127.0.0.1:1` });
    await expect(read(nowhere)).rejects.toMatchObject({
      code: 'store_unreachable',
      message: expect.stringMatching(/http:\/\/127\.0\.0\.1:1/),
    });
  });
});

describe('a store that others made (s3rver)', () => {
  it('takes a family, gives it back, and tells of two publishers though it knows no conditional writes', async () => {
    const server = new S3rver({
      address: '127.0.0.1',
      port: 0,
      silent: true,
      directory: at('s3rver'),
      configureBuckets: [{ name: 'models', configs: [] }],
    });
    const { port } = await server.run();
    const keys = { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' };
    const open = () =>
      openObjectStore(parseS3Url(`s3://http://127.0.0.1:${port}/models/zoo`), { credentials: keys });
    const [one, two] = [open(), open()];
    try {
      const { manifest } = await writeRandomTask(at('a'), 'digits', [300_000, 2_000], 1);
      await pushTask(one, at('a'), 'digits', { nowMs, hasTritonLayout: true });
      expect(await listRemoteTasks(one)).toEqual(['digits']);
      await pullTask(one, at('b'), 'digits');
      expect(await readManifest(at('b'), 'digits')).toEqual(manifest);
      await expectSound(at('b'), 'digits');
      await writeRandomTask(at('c'), 'digits', [900], 2);
      await writeRandomTask(at('d'), 'digits', [800], 3);
      const outcomes = await Promise.allSettled([
        pushTask(one, at('c'), 'digits', { nowMs }),
        pushTask(two, at('d'), 'digits', { nowMs }),
      ]);
      expect(outcomes.filter(({ status }) => status === 'fulfilled').length).toBeLessThan(2);
      for (const outcome of outcomes)
        if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'store_conflict' });
      // Whoever won, it is a whole family.
      await pullTask(two, at('e'), 'digits');
      await expectSound(at('e'), 'digits');
      const got = await one.read('digits/bonsai.json');
      const knownEtag = got === undefined || got === 'unchanged' ? '' : got.etag;
      expect(await one.read('digits/bonsai.json', { knownEtag })).toBe('unchanged');
    } finally {
      one.close();
      two.close();
      await server.close();
    }
  });
});
