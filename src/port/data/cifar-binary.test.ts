import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, it } from 'vitest';
import { cifarBinary } from './cifar-binary.ts';

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
