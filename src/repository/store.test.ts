import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOf } from './digest.ts';
import { DIGEST_FIELD } from './manifest.ts';
import { isTaskName } from './names.ts';
import { updateProfiles } from './profiles.ts';
import {
  listFolders,
  listTasks,
  modelPathOf,
  readManifest,
  readTask,
  verifyVariant,
  writeTask,
} from './store.ts';
import { MANIFEST_SCHEMA_VERSION, type Profile, type TaskManifest, type Variant } from './types.ts';

const networks = new Map([1, 2].map((version) => [version, Uint8Array.from([version, 2, 3])]));

function makeVariant(version: number): Variant {
  const bytes = networks.get(version)!;
  return {
    version,
    digest: digestOf(bytes),
    sizeBytes: bytes.byteLength,
    accuracy: { test: 0.9, testCount: 10 },
    macs: 10,
    parameters: 5,
    lineage: { seed: 3, pruning: { criterion: 'l1', scope: 'uniform', ratio: 0.5, align: 8 } },
    profiles: {},
  };
}

const manifest: TaskManifest = {
  schemaVersion: MANIFEST_SCHEMA_VERSION,
  task: 'digits',
  inputs: [{ name: 'image', dtype: 'float32', shape: [-1, 1, 28, 28] }],
  outputs: [{ name: 'logits', dtype: 'float32', shape: [-1, 10] }],
  classes: ['zero', 'one'],
  sloMs: 400,
  variants: [makeVariant(1), makeVariant(2)],
};

const measurement = { count: 3, mean: 1, median: 1, min: 1, max: 1 };
const profile: Profile = {
  target: {
    fingerprint: 'f',
    cpuModel: 'c',
    architecture: 'x64',
    cpus: 1,
    runtime: 'bonsai',
    runtimeVersion: '1',
  },
  measuredAt: '2026-01-01T00:00:00Z',
  latencyMs: measurement,
  throughputRps: measurement,
  concurrency: 4,
};

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'bonsai-store-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

describe('the store', () => {
  it('gives back what was written, in Triton’s layout, and leaves no temporary files', async () => {
    await writeTask(root, manifest, networks);
    expect(await readManifest(root, 'digits')).toEqual(manifest);
    expect(await listTasks(root)).toEqual(['digits']);
    const task = await readTask(root, 'digits');
    expect(task.versions.map(({ version, identity }) => [version, identity])).toEqual(
      manifest.variants.map(({ version, digest }) => [version, digest]),
    );
    expect((await readdir(root, { recursive: true })).sort()).toEqual([
      'digits',
      'digits/1',
      'digits/1/model.onnx',
      'digits/2',
      'digits/2/model.onnx',
      'digits/bonsai.json',
      'digits/config.pbtxt',
      'digits/labels.txt',
    ]);
    expect(await readFile(join(root, 'digits', 'labels.txt'), 'utf8')).toBe('zero\none\n');
    expect(await readFile(join(root, 'digits', 'config.pbtxt'), 'utf8')).toMatchInlineSnapshot(`
      "name: "digits"
      backend: "onnxruntime"
      max_batch_size: 0
      input [ { name: "image" data_type: TYPE_FP32 dims: [ -1, 1, 28, 28 ] } ]
      output [ { name: "logits" data_type: TYPE_FP32 dims: [ -1, 10 ] label_filename: "labels.txt" } ]
      instance_group [ { count: 1 kind: KIND_CPU } ]
      version_policy { specific { versions: [ 1 ] } }
      parameters { key: "intra_op_thread_count" value { string_value: "1" } }
      "
    `);
  });

  it('needs no network again that lies there already, and copies from a path', async () => {
    await writeTask(root, manifest, networks);
    await writeTask(root, { ...manifest, sloMs: 300 }, new Map([[2, modelPathOf(root, 'digits', 2)]]));
    expect((await readManifest(root, 'digits')).sloMs).toBe(300);
  });

  it('renumbers a family that grew in the middle, and removes the networks that left it', async () => {
    const bytes = (n: number) => Uint8Array.from({ length: 3 + n }, () => n);
    const as = (version: number, n: number): Variant => ({
      ...makeVariant(1),
      version,
      digest: digestOf(bytes(n)),
      sizeBytes: 3 + n,
    });
    const family = (...numbers: number[]): TaskManifest => ({
      ...manifest,
      variants: numbers.map((n, i) => as(i + 1, n)),
    });
    await writeTask(root, family(1, 3), new Map([1, 3].map((n, i) => [i + 1, bytes(n)])));
    await writeFile(join(root, 'digits', '2', 'notes.txt'), 'mine');
    // Version 2 becomes another network; version 3 is the one that was 2 and needs not be given again.
    await writeTask(root, family(1, 2, 3), new Map([[2, bytes(2)]]));
    const contents = async () => {
      const { variants } = await readManifest(root, 'digits');
      return Promise.all(variants.map(async (variant) => (await verifyVariant(root, 'digits', variant))[0]));
    };
    expect(await contents()).toEqual([1, 2, 3]);
    await writeTask(root, family(3), new Map());
    expect(await contents()).toEqual([3]);
    expect((await readdir(join(root, 'digits'), { recursive: true })).sort()).toEqual([
      '1',
      '1/model.onnx',
      '2',
      '2/notes.txt',
      'bonsai.json',
      'config.pbtxt',
      'labels.txt',
    ]);
  });

  it('shows a reader one family or the other at every moment', async () => {
    const orders = [
      [1, 2, 3],
      [3, 1, 2],
      [2, 3],
    ];
    const bytes = (n: number) => new Uint8Array(1000 * n).fill(n);
    const write = (numbers: readonly number[]) =>
      writeTask(
        root,
        {
          ...manifest,
          variants: numbers.map((n, i) => ({
            ...makeVariant(1),
            version: i + 1,
            digest: digestOf(bytes(n)),
            sizeBytes: 1000 * n,
          })),
        },
        new Map(numbers.map((n, i) => [i + 1, bytes(n)])),
      );
    await write(orders[0]!);
    let isWriting = true;
    const reader = async () => {
      let reads = 0;
      while (isWriting) {
        const seen = await readManifest(root, 'digits');
        for (const variant of seen.variants) {
          const thrown = await verifyVariant(root, 'digits', variant).then(
            () => undefined,
            (error: Error) => error,
          );
          // Only a family that was replaced between the two reads may not be found as it was.
          if (thrown !== undefined) expect(await readManifest(root, 'digits')).not.toEqual(seen);
          else reads++;
        }
      }
      return reads;
    };
    const reading = reader();
    for (let round = 1; round <= 30; round++) await write(orders[round % orders.length]!);
    isWriting = false;
    expect(await reading).toBeGreaterThan(30);
  });

  it('refuses a network that is not the one described, before it writes the manifest', async () => {
    const swapped = new Map([...networks, [2, Uint8Array.from([9])]]);
    await expect(writeTask(root, manifest, swapped)).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(readManifest(root, 'digits')).rejects.toMatchObject({ code: 'model_not_found' });
    await expect(writeTask(root, manifest, new Map())).rejects.toMatchObject({ code: 'missing_file' });
  });

  it('adds profiles and leaves the rest', async () => {
    await writeTask(root, manifest, networks);
    await updateProfiles(root, 'digits', new Map([[2, profile]]));
    const read = await readManifest(root, 'digits');
    expect(read.variants[1]?.profiles).toEqual({ f: profile });
    expect({ ...read, variants: [] }).toEqual({ ...manifest, variants: [] });
    await expect(updateProfiles(root, 'digits', new Map([[9, profile]]))).rejects.toMatchObject({
      code: 'version_not_found',
    });
  });

  it('finds a changed network by its digest, a short one by its size, a missing one by name', async () => {
    await writeTask(root, manifest, networks);
    await writeFile(modelPathOf(root, 'digits', 1), Uint8Array.from([1, 2, 4]));
    await expect(verifyVariant(root, 'digits', manifest.variants[0]!)).rejects.toMatchObject({
      code: 'corrupt_repository',
    });
    expect(await verifyVariant(root, 'digits', manifest.variants[1]!)).toEqual(Buffer.from(networks.get(2)!));
    await writeFile(modelPathOf(root, 'digits', 1), Uint8Array.from([1]));
    await rm(modelPathOf(root, 'digits', 2));
    const task = await readTask(root, 'digits');
    expect(task.versions).toEqual([]);
    expect(task.problems.map(({ version, error }) => [version, error.message])).toEqual([
      [1, expect.stringContaining('has 1 bytes; the manifest says 3')],
      [2, expect.stringContaining('is missing')],
    ]);
  });

  it.each([
    ['half a file', '{"schemaVersion": 1,', undefined, /not JSON/],
    ['a newer schema', JSON.stringify({ ...manifest, schemaVersion: 99 }), 'schemaVersion', /reads up to 1/],
    ['another task', JSON.stringify({ ...manifest, task: 'letters' }), 'task', /the folder is "digits"/],
    ['a wrong type', JSON.stringify({ ...manifest, sloMs: 'soon' }), 'sloMs', /sloMs/],
    [
      'a wrong digest',
      JSON.stringify({ ...manifest, variants: [{ ...makeVariant(1), digest: 'x' }] }),
      'variants.0.digest',
      /64/,
    ],
    [
      'versions out of order',
      JSON.stringify({ ...manifest, variants: [makeVariant(2), makeVariant(1)] }),
      'variants',
      /ascend/,
    ],
  ])('refuses %s, naming file and field', async (_, text, field, message) => {
    await mkdir(join(root, 'digits'));
    await writeFile(join(root, 'digits', 'bonsai.json'), text);
    const file = join(root, 'digits', 'bonsai.json');
    await expect(readTask(root, 'digits')).rejects.toMatchObject({
      code: 'corrupt_repository',
      file,
      field,
      message: expect.stringMatching(message),
    });
  });

  it('notices any change of the manifest by its digest, takes one without, and seals it when it writes', async () => {
    await writeTask(root, manifest, networks);
    expect((await readTask(root, 'digits')).hasManifestDigest).toBe(true);
    const file = join(root, 'digits', 'bonsai.json');
    const text = await readFile(file, 'utf8');

    await writeFile(file, text.replace('"test": 0.9', '"test": 0.8'));
    await expect(readTask(root, 'digits')).rejects.toMatchObject({
      code: 'corrupt_repository',
      file,
      field: DIGEST_FIELD,
      message: expect.stringMatching(/damaged, or changed by hand/),
    });

    // Order and spacing are no content.
    const { schemaVersion, ...rest } = JSON.parse(text);
    await writeFile(file, JSON.stringify({ ...rest, schemaVersion }));
    expect((await readTask(root, 'digits')).hasManifestDigest).toBe(true);

    // As before digests: read, and not told apart by anything but the flag.
    await writeFile(file, JSON.stringify(manifest));
    expect(await readTask(root, 'digits')).toMatchObject({ manifest, hasManifestDigest: false });
    await updateProfiles(root, 'digits', new Map([[2, profile]]));
    expect((await readTask(root, 'digits')).hasManifestDigest).toBe(true);
  });

  it('covers fields of the manifest that it does not know, and keeps them', async () => {
    const extended = { ...manifest, colour: 'green' };
    await writeTask(root, extended, networks);
    expect(await readManifest(root, 'digits')).toEqual(extended);
    const file = join(root, 'digits', 'bonsai.json');
    await writeFile(file, (await readFile(file, 'utf8')).replace('green', 'greeN'));
    await expect(readManifest(root, 'digits')).rejects.toMatchObject({ field: DIGEST_FIELD });
  });

  it('speaks of the whole document where no field is to blame', async () => {
    await mkdir(join(root, 'digits'));
    await writeFile(join(root, 'digits', 'bonsai.json'), '[]');
    await expect(readTask(root, 'digits')).rejects.toMatchObject({
      field: undefined,
      message: expect.stringMatching(/bonsai\.json: the whole document is no manifest/),
    });
  });

  it('lists every folder, and tells one that cannot be read from one that is not there', async () => {
    await writeTask(root, manifest, networks);
    await mkdir(join(root, 'notes'));
    await mkdir(join(root, '.hidden'));
    await writeFile(join(root, 'README'), '');
    await symlink('loop', join(root, 'loop'));
    expect(await listFolders(root)).toEqual(['digits', 'loop', 'notes']);
    expect(await listTasks(root)).toEqual(['digits']);
    await expect(readTask(root, 'README')).rejects.toMatchObject({ code: 'model_not_found' });
    await expect(readTask(root, 'loop')).rejects.toMatchObject({
      code: 'corrupt_repository',
      message: expect.stringMatching(/cannot be read \(ELOOP/),
    });
  });

  it('reads a folder in Triton’s layout without a manifest', async () => {
    for (const folder of ['1', '10', '2', 'x']) {
      await mkdir(join(root, 'foreign', folder), { recursive: true });
      await writeFile(join(root, 'foreign', folder, 'model.onnx'), 'x');
    }
    const task = await readTask(root, 'foreign');
    expect(task.manifest).toBeUndefined();
    expect(task.versions.map(({ version }) => version)).toEqual([1, 2, 10]);
  });

  it.each(['', '.', '..', '../x', 'a/b', 'a\\b', '.git', '-x', 'a\0', 'a b', 'x'.repeat(129)])(
    'takes no task name %j',
    async (name) => {
      expect(isTaskName(name)).toBe(false);
      await expect(readTask(root, name)).rejects.toMatchObject({ code: 'model_not_found' });
      expect(() => modelPathOf(root, name, 1)).toThrow(expect.objectContaining({ code: 'invalid_argument' }));
    },
  );

  it.each([0, -1, 1.5, Number.NaN, 1e12])('takes no version %j', (version) => {
    expect(() => modelPathOf(root, 'digits', version)).toThrow(
      expect.objectContaining({ code: 'invalid_argument' }),
    );
  });

  it('says so when the folder is not there or cannot be written', async () => {
    await expect(listTasks(join(root, 'nowhere'))).rejects.toMatchObject({ code: 'missing_file' });
    await writeFile(join(root, 'file'), '');
    await expect(writeTask(join(root, 'file'), manifest, networks)).rejects.toMatchObject({
      code: 'unwritable_path',
    });
  });
});
