import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { cifar100, cifarBinary } from './cifar-binary.ts';

const folder = mkdtempSync(join(tmpdir(), 'bonsai-cifar-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const PIXELS = 3072;
const put = (name: string, bytes: Uint8Array | string) => writeFileSync(join(folder, name), bytes);
/** Records whose every pixel is `first + i`. */
const records = (labels: readonly number[], first = 0) =>
  Buffer.concat(labels.map((label, i) => Buffer.concat([Buffer.of(label), Buffer.alloc(PIXELS, first + i)])));
const load = (seed = 3) => cifarBinary(folder, { validationShare: 0.25 }).load({ seed });

beforeEach(() => {
  put('batches.meta.txt', 'cat\ndog\n\n');
  put('data_batch_1.bin', records([0, 1, 0, 1]));
  put('data_batch_2.bin', records([0, 1, 1, 0], 4));
  put('test_batch.bin', records([1, 0], 100));
});

it('reads the official files; validation is held out of training with its class shares', async () => {
  const dataset = await load();
  const { train, validation, test } = dataset;
  expect(dataset).toMatchObject({ name: 'cifar10', classes: ['cat', 'dog'], shape: [3, 32, 32] });
  expect([...test.labels]).toEqual([1, 0]);
  expect([test.images[0], test.images.at(-1)]).toEqual([100, 101]);
  expect([train.count, validation.count]).toEqual([6, 2]);
  expect([...validation.labels].sort()).toEqual([0, 1]);
  const labels = [0, 1, 0, 1, 0, 1, 1, 0];
  const seen = new Set<number>();
  for (const part of [train, validation]) {
    for (let i = 0; i < part.count; i++) {
      const image = part.images[i * PIXELS]!;
      expect(part.labels[i]).toBe(labels[image]);
      seen.add(image);
    }
  }
  expect(seen.size).toBe(8);
  expect(await load()).toEqual(dataset);
});

it.each([
  ['data_batch_2.bin', records([0]).subarray(1), /data_batch_2\.bin has 3072 bytes.*truncated/],
  ['data_batch_1.bin', Buffer.alloc(0), /data_batch_1\.bin has 0 bytes/],
  ['test_batch.bin', records([0, 2]), /test_batch\.bin: record 1 has the label 2, expected 0 to 1/],
  ['batches.meta.txt', 'only', /batches\.meta\.txt should name a class in each line/],
])('names a damaged %s', async (name, bytes, message) => {
  put(name, bytes);
  await expect(load()).rejects.toMatchObject({
    code: 'corrupt_dataset',
    message: expect.stringMatching(message),
  });
});

it('says which files are missing', async () => {
  rmSync(join(folder, 'test_batch.bin'));
  await expect(load()).rejects.toMatchObject({
    code: 'missing_dataset',
    message: expect.stringContaining('test_batch.bin'),
  });
  await expect(cifarBinary('/no/such').load({ seed: 1 })).rejects.toMatchObject({
    code: 'missing_dataset',
    message: expect.stringContaining('/no/such'),
  });
});

it('refuses a gap between the training batches', async () => {
  put('data_batch_4.bin', records([1, 0]));
  await expect(load()).rejects.toMatchObject({
    code: 'missing_dataset',
    message: expect.stringMatching(
      /data_batch_3\.bin is not in .*, but data_batch_4\.bin is: .* not complete/,
    ),
  });
});

describe('CIFAR-100', () => {
  /** Records of a coarse and a fine label. */
  const pairs = (labels: readonly (readonly [coarse: number, fine: number])[]) =>
    Buffer.concat(labels.map((pair, i) => Buffer.concat([Buffer.from(pair), Buffer.alloc(PIXELS, i)])));
  const read = (labels: 'fine' | 'coarse') =>
    cifar100(folder, { labels, validationShare: 0 }).load({ seed: 3 });

  beforeEach(() => {
    put('fine_label_names.txt', 'apple\nbee\nbear\n');
    put('coarse_label_names.txt', 'fruit\nanimals\n');
    put('train.bin', pairs([[0, 0], [1, 1], [1, 2]])); // biome-ignore format: pairs
    put('test.bin', pairs([[1, 2]]));
  });

  it('has the labels that are asked for', async () => {
    const [fine, coarse] = [await read('fine'), await read('coarse')];
    expect(fine).toMatchObject({ name: 'cifar100', classes: ['apple', 'bee', 'bear'] });
    expect(coarse).toMatchObject({ name: 'cifar100-coarse', classes: ['fruit', 'animals'] });
    expect([[...fine.test.labels], [...coarse.test.labels]]).toEqual([[2], [1]]);
    const labelOf = ({ train }: typeof fine, image: number) =>
      train.labels[[...train.labels].findIndex((_, i) => train.images[i * PIXELS] === image)];
    expect([0, 1, 2].map((image) => labelOf(fine, image))).toEqual([0, 1, 2]);
    expect([0, 1, 2].map((image) => labelOf(coarse, image))).toEqual([0, 1, 1]);
    expect(fine.train.images.at(-1)).toBe(fine.train.images.at(-PIXELS));
  });

  it('names what is damaged or missing', async () => {
    put('train.bin', pairs([[0, 3]]));
    await expect(read('fine')).rejects.toThrow(/train\.bin: record 0 has the label 3, expected 0 to 2/);
    await expect(read('coarse')).resolves.toMatchObject({ train: { count: 1 } });
    put('train.bin', Buffer.alloc(PIXELS + 1));
    await expect(read('fine')).rejects.toThrow(/no whole number of records of 3074/);
    rmSync(join(folder, 'train.bin'));
    await expect(read('fine')).rejects.toThrow(/train\.bin is not in .*CIFAR-100/);
    rmSync(join(folder, 'fine_label_names.txt'));
    await expect(read('fine')).rejects.toMatchObject({
      code: 'missing_dataset',
      message: expect.stringContaining('fine_label_names.txt'),
    });
  });

  const packed = join(process.env.BONSAI_SHARED ?? '../shared', 'data/cifar100');
  it.skipIf(!existsSync(packed) || !has('xz'))('has 100 classes in 20 superclasses of five', async () => {
    const test = execFileSync('xz', ['-dc', join(packed, 'test.bin.xz')], { maxBuffer: 2 ** 26 });
    for (const name of ['train.bin', 'test.bin']) put(name, test);
    for (const kind of ['fine', 'coarse']) {
      const file = `${kind}_label_names.txt`;
      put(file, readFileSync(join(packed, file)));
    }
    const [fine, coarse] = [await read('fine'), await read('coarse')];
    expect(fine.classes.slice(0, 2)).toEqual(['apple', 'aquarium_fish']);
    const fineOf = new Map<number, Set<number>>();
    fine.test.labels.forEach((label, i) => {
      const superclass = coarse.test.labels[i]!;
      fineOf.set(superclass, (fineOf.get(superclass) ?? new Set()).add(label));
    });
    expect(fineOf.size).toBe(20);
    expect([...fineOf.values()].every((labels) => labels.size === 5)).toBe(true);
  });
});

function has(program: string): boolean {
  try {
    execFileSync(program, ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
