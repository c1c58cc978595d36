import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { systemClock } from '../base/clock.ts';
import { DOUBLE_CREDENTIALS, StoreDouble } from '../repository/s3/store-double.fixture.ts';
import { writeRandomTask } from '../repository/s3/tasks.fixture.ts';
import { listTasks, readManifest } from '../repository/store.ts';
import type { Context } from './context.ts';
import { openPortTarget } from './port-target.ts';
import { silentProgress } from './progress.ts';

const context: Context = {
  clock: systemClock,
  progress: silentProgress,
  signal: new AbortController().signal,
  json: false,
  result: () => undefined,
};

let folder: string;
let double: StoreDouble;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-port-target-'));
  double = new StoreDouble();
  await double.start();
  vi.stubEnv('AWS_ACCESS_KEY_ID', DOUBLE_CREDENTIALS.accessKeyId);
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', DOUBLE_CREDENTIALS.secretAccessKey);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await double.stop();
  await rm(folder, { recursive: true, force: true });
});

it('a family that is ported into a bucket begins with what is there, and is published in the end', async () => {
  const url = double.urlOf('zoo');
  const first = await openPortTarget(url, 'digits', join(folder, 'a'), context);
  const { manifest } = await writeRandomTask(first.folder, 'digits', [300, 200]);
  expect([...double.objects.keys()]).toEqual([]);
  await first.publish();

  const second = await openPortTarget(url, 'digits', join(folder, 'b'), context);
  expect(await listTasks(second.folder)).toEqual(['digits']);
  expect(await readManifest(second.folder, 'digits')).toEqual(manifest);
  await writeRandomTask(second.folder, 'digits', [100], 2);
  // Somebody else is quicker.
  double.fault = ({ method, key }) => {
    if (method === 'PUT' && key.endsWith('bonsai.json')) double.put(key, new TextEncoder().encode('{}'));
    return undefined;
  };
  await expect(second.publish()).rejects.toMatchObject({ code: 'store_conflict' });
  expect((await readManifest(second.folder, 'digits')).variants).toHaveLength(1);
});

it('a folder is its own target', async () => {
  const target = await openPortTarget('models', 'digits', folder, context);
  expect(target.folder).toBe('models');
  await target.publish();
});
