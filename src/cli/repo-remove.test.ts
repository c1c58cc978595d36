import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { digestOf } from '../repository/digest.ts';
import { readManifest, verifyVariant, writeTask } from '../repository/store.ts';
import { MANIFEST_SCHEMA_VERSION, type TaskManifest } from '../repository/types.ts';
import { removalOf, repoRemoveCommand } from './repo-remove.ts';

const networks = new Map(
  [1, 2, 3, 4].map((version) => [version, new Uint8Array(10 * version).fill(version)]),
);

/** Version 3 costs more than 2 and is less accurate; so does 4, which was derived from no other. */
const manifest: TaskManifest = {
  schemaVersion: MANIFEST_SCHEMA_VERSION,
  task: 'digits',
  inputs: [{ name: 'image', dtype: 'float32', shape: [-1, 1, 2, 2] }],
  outputs: [{ name: 'logits', dtype: 'float32', shape: [-1, 10] }],
  variants: [
    { test: 0.9, macs: 100, lineage: {} },
    { test: 0.8, macs: 50, lineage: { parent: digestOf(networks.get(1)!) } },
    { test: 0.7, macs: 60, lineage: { parent: digestOf(networks.get(1)!) } },
    { test: 0.6, macs: 70, lineage: {} },
  ].map(({ test, macs, lineage }, i) => ({
    version: i + 1,
    digest: digestOf(networks.get(i + 1)!),
    sizeBytes: networks.get(i + 1)!.byteLength,
    accuracy: { test, testCount: 100 },
    macs,
    parameters: 10 - i, // Not a price by itself.
    lineage,
    profiles: {},
  })),
};

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bonsai-repo-remove-'));
});
afterAll(() => rm(root, { recursive: true }));

it('removes what is named, or what is dominated and no base', () => {
  expect(removalOf(manifest, [2])).toEqual({ removed: [2], kept: [1, 3, 4], freedBytes: 20 });
  expect(removalOf(manifest, [], { dominated: true })).toEqual({
    removed: [3],
    kept: [1, 2, 4],
    freedBytes: 30,
  });
  expect(removalOf(manifest, [1], { dominated: true }).removed).toEqual([1, 3]);
});

it('refuses to remove nothing, all, or what is not there', () => {
  expect(() => removalOf(manifest, [])).toThrow('Name the versions');
  expect(() => removalOf(manifest, [1, 2, 3, 4])).toThrow('A family has one version at least');
  expect(() => removalOf(manifest, [7])).toThrow('7');
});

it('leaves the other networks under their numbers', async () => {
  await writeTask(root, manifest, networks);
  const run = (...args: string[]) =>
    repoRemoveCommand().parseAsync(['--json', ...args, root, 'digits'], { from: 'user' });
  await run('--dominated', '--dry-run');
  expect((await readManifest(root, 'digits')).variants).toHaveLength(4);
  await run('--dominated');
  const { variants } = await readManifest(root, 'digits');
  expect(variants.map(({ version }) => version)).toEqual([1, 2, 4]);
  for (const variant of variants)
    expect(Buffer.from(await verifyVariant(root, 'digits', variant))).toEqual(
      Buffer.from(networks.get(variant.version)!),
    );
  expect((await readdir(join(root, 'digits'))).filter((name) => /^\d/.test(name))).toEqual(['1', '2', '4']);
});
