import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../src/base/clock.ts';
import { openObjectStore } from '../src/repository/s3/aws-object-store.ts';
import { NetworkCache } from '../src/repository/s3/network-cache.ts';
import { pushTask } from '../src/repository/s3/push-task.ts';
import { RepositoryMirror } from '../src/repository/s3/repository-mirror.ts';
import { parseS3Url } from '../src/repository/s3/s3-url.ts';
import { DOUBLE_CREDENTIALS, StoreDouble } from '../src/repository/s3/store-double.fixture.ts';
import { call, start } from '../src/serve/server.fixture.ts';
import type { RunningServer } from '../src/serve/server.ts';
import { writeConstantFamily } from './constant-family.fixture.ts';

const FAMILY = [
  [0.9, 10],
  [0.8, 20],
  [0.7, 40],
] as const;

/** For a thread to boot on a busy machine. */
const PATIENT = { timeout: 30_000 };

let folder: string;
let double: StoreDouble;
let server: RunningServer | undefined;
const closing: (() => void)[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-serve-bucket-'));
  double = new StoreDouble();
  await double.start();
  await writeConstantFamily(join(folder, 'source'), 'digits', FAMILY);
  await publish();
});

afterEach(async () => {
  await server?.close();
  server = undefined;
  for (const close of closing.splice(0)) close();
  await double.stop();
  await rm(folder, { recursive: true, force: true });
});

function openStore() {
  const url = parseS3Url(double.urlOf('zoo'));
  const store = openObjectStore(url, { attempts: 1, credentials: DOUBLE_CREDENTIALS });
  closing.push(() => store.close());
  return store;
}

async function publish(): Promise<void> {
  await pushTask(openStore(), join(folder, 'source'), 'digits', { nowMs: Date.now() });
}

async function openMirror(limitBytes: number) {
  const cache = await NetworkCache.open({ folder: join(folder, 'cache'), limitBytes });
  const mirror = await RepositoryMirror.open({
    store: openStore(),
    folder: join(folder, 'mirror'),
    cache,
    clock: systemClock,
    fetch: { retriesMs: [1], stallMs: 500 },
  });
  return { mirror, cache };
}

/** The version that answers, which is also what its network computes. */
async function answering(): Promise<string> {
  const inputs = [{ name: 'image', datatype: 'FP32', shape: [1, 1], data: [0.5] }];
  const { status, json } = await call(server!, 'POST', '/v2/models/digits/infer', { inputs });
  expect(status).toBe(200);
  expect(json.outputs[0].data).toEqual([Number(json.model_version)]);
  return json.model_version;
}

async function load(version: number) {
  const parameters = { config: JSON.stringify({ version_policy: { specific: { versions: [version] } } }) };
  return call(server!, 'POST', '/v2/repository/models/digits/load', { parameters });
}

test('a server of a bucket fetches what it serves, and goes on while the bucket is away', async () => {
  // Room for less than one network: whatever does not serve goes.
  const { mirror, cache } = await openMirror(1);
  server = await start('', { repository: mirror });
  expect(await answering()).toBe('1');
  const cached = async () => (await readdir(join(folder, 'cache/networks'))).length;
  expect(await cached()).toBe(1);
  expect((await load(2)).status).toBe(200);
  expect(await answering()).toBe('2');

  await double.stop();
  const refused = await load(3);
  expect(refused.status).toBe(400);
  expect(refused.json.error).toMatch(
    /not in the cache of this machine, and s3:\/\/edge-models\/zoo cannot be read since/,
  );
  expect(await answering()).toBe('2');
  // Threads that are lost are replaced from the file that the version holds.
  await server.models.get('digits').current!.crashLane(0);
  await expect.poll(() => server!.models.get('digits').current?.lane(0) !== undefined, PATIENT).toBe(true);
  expect(await answering()).toBe('2');
  await server.close();

  // A machine that starts in that time serves what it has kept.
  await cache.settled();
  const restarted = await openMirror(1e9);
  expect(restarted.mirror.status.isReachable).toBe(false);
  server = await start('', { repository: restarted.mirror });
  await double.start();
  await expect.poll(async () => (await load(3)).status, PATIENT).toBe(200);
  expect(await answering()).toBe('3');
  expect(restarted.mirror.status.isReachable).toBe(true);
});

test('a server of a bucket takes over what is published, and nothing that is damaged', async () => {
  const { mirror } = await openMirror(1e9);
  server = await start('', { repository: mirror, modelControl: 'poll', pollIntervalMs: 1e9 });
  expect(await answering()).toBe('1');

  await rm(join(folder, 'source'), { recursive: true });
  await writeConstantFamily(join(folder, 'source'), 'digits', FAMILY.slice(1));
  double.fault = ({ method, key }) =>
    method === 'GET' && key.includes('/objects/') ? { kind: 'corrupt' } : undefined;
  await writeConstantFamily(join(folder, 'source'), 'letters', FAMILY);
  const store = openStore();
  await pushTask(store, join(folder, 'source'), 'letters', { nowMs: Date.now() });
  await mirror.refresh();
  await server.models.poll('largest');
  const { json } = await call(server, 'POST', '/v2/repository/index');
  // Networks of the two tasks are the same: what is here and sound is used, whatever the bucket has become.
  expect(json).toContainEqual(expect.objectContaining({ name: 'digits', state: 'READY' }));
  expect(await answering()).toBe('1');
});
