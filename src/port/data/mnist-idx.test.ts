import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { mnistIdx } from './mnist-idx.ts';

const folder = mkdtempSync(join(tmpdir(), 'bonsai-idx-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** An IDX file of unsigned bytes. */
function idx(sizes: readonly number[], data: readonly number[]): Buffer {
  const header = Buffer.alloc(4 + 4 * sizes.length);
  header.writeUInt32BE(0x0800 + sizes.length);
  sizes.forEach((size, i) => {
    header.writeUInt32BE(size, 4 + 4 * i);
  });
  return Buffer.concat([header, Buffer.from(data)]);
}

const put = (name: string, bytes: Buffer) => writeFileSync(join(folder, name), bytes);
const load = (validationShare = 1 / 3) => mnistIdx(folder, { validationShare }).load({ seed: 5 });

describe('IDX files', () => {
  // Six training images of 1×2 whose pixels tell their index and class; two test images.
  beforeEach(() => {
    for (const name of ['train-images-idx3-ubyte', 'train-labels-idx1-ubyte']) {
      rmSync(join(folder, `${name}.gz`), { force: true });
    }
    put('train-images-idx3-ubyte', idx([6, 1, 2], [0, 0, 1, 1, 2, 0, 3, 1, 4, 0, 5, 1]));
    put('train-labels-idx1-ubyte', idx([6], [0, 1, 0, 1, 0, 1]));
    put('t10k-images-idx3-ubyte.gz', gzipSync(idx([2, 1, 2], [9, 0, 8, 1])));
    put('t10k-labels-idx1-ubyte.gz', gzipSync(idx([2], [0, 1])));
  });

  it('are read plain and gzipped, validation held out of training with its class shares', async () => {
    const { train, validation, test, shape, classes } = await load();
    expect(shape).toEqual([1, 1, 2]);
    expect(classes).toEqual(['0', '1']);
    expect([...test.images]).toEqual([9, 0, 8, 1]);
    expect([...validation.labels].sort()).toEqual([0, 1]);
    expect(train.count + validation.count).toBe(6);
    for (const part of [train, validation]) {
      for (let i = 0; i < part.count; i++) expect(part.images[2 * i + 1]).toBe(part.labels[i]);
    }
    expect(await load()).toEqual(await load());
  });

  it.each([
    ['train-images-idx3-ubyte', Buffer.alloc(3), /header of 16 bytes, the file has 3/],
    [
      'train-images-idx3-ubyte',
      idx([6, 2], new Array(12).fill(0)),
      /magic number 0x00000803, found 0x00000802/,
    ],
    ['train-images-idx3-ubyte', idx([6, 1, 2], [1, 2, 3]), /6 × 1 × 2 = 12 bytes of data, the file has 3/],
    ['train-images-idx3-ubyte', idx([0, 1, 2], []), /sizes 0 × 1 × 2/],
    ['train-labels-idx1-ubyte', idx([5], [0, 1, 0, 1, 0]), /5 labels, .* 6 images/],
    ['train-labels-idx1-ubyte', idx([6], [0, 1, 0, 10, 0, 1]), /label 3 is 10/],
    ['t10k-images-idx3-ubyte.gz', Buffer.from('no gzip'), /not readable as gzip/],
    [
      't10k-images-idx3-ubyte.gz',
      gzipSync(idx([2, 2, 1], [9, 0, 8, 1])),
      /training images are 1×2, test images 2×1/,
    ],
  ])('refuse a damaged %s by name and finding (%#)', async (name, bytes, message) => {
    put(name, bytes);
    const error = await load().catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'corrupt_dataset', message: expect.stringMatching(message) });
  });

  it('are missing by name', async () => {
    rmSync(join(folder, 'train-labels-idx1-ubyte'));
    await expect(load()).rejects.toMatchObject({
      code: 'missing_dataset',
      message: expect.stringContaining('train-labels-idx1-ubyte'),
    });
  });
});
