import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import type { MeasuredProfile } from '../profiles.ts';
import { readManifest, writeTask } from '../store.ts';
import type { Profile, TaskManifest } from '../types.ts';
import { amendPublishedProfiles } from './amend-profiles.ts';
import { openObjectStore } from './aws-object-store.ts';
import { manifestKey } from './layout.ts';
import type { ObjectStore } from './object-store.ts';
import { readRemoteManifest } from './pull-task.ts';
import { pushTask } from './push-task.ts';
import { parseS3Url } from './s3-url.ts';
import { DOUBLE_CREDENTIALS, StoreDouble } from './store-double.fixture.ts';
import { writeRandomTask } from './tasks.fixture.ts';

let folder: string;
let double: StoreDouble;
let store: ObjectStore;
let manifest: TaskManifest;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-amend-'));
  double = new StoreDouble();
  await double.start();
  store = open();
  ({ manifest } = await writeRandomTask(folder, 'digits', [300, 200]));
  await pushTask(store, folder, 'digits', { nowMs: Date.now() });
});
afterEach(async () => {
  store.close();
  await double.stop();
  await rm(folder, { recursive: true, force: true });
});

const open = () =>
  openObjectStore(parseS3Url(double.urlOf('fleet')), { attempts: 1, credentials: DOUBLE_CREDENTIALS });
const patience = (seed: number) => ({ random: seededRandom(seed), limitMs: 60_000 });

function profileOn(fingerprint: string, measuredAt = '2026-01-01'): Profile {
  const [profile] = Object.values(manifest.variants[0]!.profiles);
  return { ...profile!, measuredAt, target: { ...profile!.target, fingerprint } };
}

const measured = (version: number, fingerprint: string): MeasuredProfile => ({
  digest: manifest.variants.find((variant) => variant.version === version)!.digest,
  fingerprint,
  merge: () => profileOn(fingerprint),
});

const isManifestWrite = ({ method, key }: { method: string; key: string }) =>
  method === 'PUT' && key.endsWith('digits/bonsai.json');

describe.each([true, false])('profiles in a bucket (conditional writes: %s)', (hasConditionalWrites) => {
  it('are kept, whoever brings them at the same moment', { timeout: 60_000 }, async () => {
    double.hasConditionalWrites = hasConditionalWrites;
    const targets = ['a', 'b', 'c'];
    // Each reads before anybody writes: without a condition or a claim, the last one would be alone.
    const readers = new Set<() => void>();
    await Promise.all(
      targets.flatMap((target, i) =>
        [1, 2].map(async (version) => {
          const own = open();
          let isFirst = true;
          const slow: ObjectStore = {
            ...own,
            read: async (key, options) => {
              const read = await own.read(key, options);
              if (!isFirst || key !== manifestKey('digits')) return read;
              isFirst = false;
              await new Promise<void>((resolve) => {
                readers.add(resolve);
                if (readers.size === 2 * targets.length) for (const go of readers) go();
              });
              return read;
            },
          };
          try {
            await amendPublishedProfiles(
              slow,
              'digits',
              [measured(version, target)],
              patience(10 * i + version),
            );
          } finally {
            own.close();
          }
        }),
      ),
    );
    for (const { profiles } of (await readRemoteManifest(store, 'digits')).variants)
      expect(Object.keys(profiles)).toEqual(expect.arrayContaining(targets));
    // Claims do not stay.
    expect([...double.objects.keys()].filter((key) => /publishing\/(?!probe)/.test(key))).toEqual([]);
  });
});

it('are written once, however often they are brought, and though the answer was lost', async () => {
  let losses = 1;
  double.fault = (request) => (isManifestWrite(request) && losses-- > 0 ? { kind: 'lost' } : undefined);
  const first = await amendPublishedProfiles(store, 'digits', [measured(1, 'a')], patience(1));
  const writes = () => double.requests.filter(isManifestWrite).length;
  const before = writes();
  expect(await amendPublishedProfiles(store, 'digits', [measured(1, 'a')], patience(1))).toEqual(first);
  expect(writes()).toBe(before);
});

it('wait for a store that is away, say so once, and end with what is wrong for good', async () => {
  let outages = 3;
  double.fault = (request) =>
    isManifestWrite(request) && outages-- > 0
      ? { kind: 'error', status: 503, code: 'ServiceUnavailable' }
      : undefined;
  const said: string[] = [];
  const onWait = (reason: string) => void said.push(reason);
  await amendPublishedProfiles(store, 'digits', [measured(1, 'a')], { ...patience(1), onWait });
  expect(said).toEqual([expect.stringMatching(/^Trying again: s3:.*cannot be reached or fails/)]);
  const amend = (task: string, limitMs: number) =>
    amendPublishedProfiles(store, task, [], { ...patience(1), limitMs });
  await expect(amend('bees', 60_000)).rejects.toMatchObject({ code: 'model_not_found' });
  double.fault = () => ({ kind: 'error', status: 403, code: 'AccessDenied' });
  await expect(amend('digits', 60_000)).rejects.toMatchObject({ code: 'store_refused' });
  double.fault = () => ({ kind: 'error', status: 503, code: 'ServiceUnavailable' });
  await expect(amend('digits', 100)).rejects.toMatchObject({ code: 'store_unreachable' });
});

describe('a family that is published by who keeps profiles', () => {
  const push = () => pushTask(store, folder, 'digits', { nowMs: Date.now(), keepsProfiles: patience(3) });

  it('has those that came meanwhile, also between its look and its write', async () => {
    await amendPublishedProfiles(store, 'digits', [measured(1, 'early')], patience(1));
    const own = { ...manifest, sloMs: 70 };
    await writeTask(folder, own, new Map());
    let late: Promise<unknown> | undefined;
    const other = open();
    double.fault = (request) => {
      if (isManifestWrite(request) && late === undefined)
        late = amendPublishedProfiles(other, 'digits', [measured(2, 'late')], patience(2));
      return undefined;
    };
    expect((await push()).outcome).toBe('published');
    await late;
    other.close();
    const { variants, sloMs } = await readRemoteManifest(store, 'digits');
    expect(sloMs).toBe(70);
    expect(Object.keys(variants[0]!.profiles)).toContain('early');
    expect(Object.keys(variants[1]!.profiles)).toContain('late');
    expect((await push()).outcome).toBe('unchanged');
    expect((await readManifest(folder, 'digits')).variants).toEqual(manifest.variants);
  });

  it('does not replace another family that somebody published meanwhile', async () => {
    const rival = join(folder, 'rival');
    await writeRandomTask(rival, 'digits', [100], 7);
    await writeTask(folder, { ...manifest, sloMs: 70 }, new Map());
    const other = open();
    const put = store.write.bind(store);
    let isFirst = true;
    const late: ObjectStore = {
      ...store,
      write: async (key, bytes, options) => {
        if (isFirst && key === manifestKey('digits')) {
          isFirst = false;
          await pushTask(other, rival, 'digits', { nowMs: Date.now() });
        }
        return put(key, bytes, options);
      },
    };
    await expect(
      pushTask(late, folder, 'digits', { nowMs: Date.now(), keepsProfiles: patience(3) }),
    ).rejects.toMatchObject({ code: 'store_conflict' });
    other.close();
    expect((await readRemoteManifest(store, 'digits')).variants).toHaveLength(1);
  });
});
