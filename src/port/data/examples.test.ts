import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import type { Dataset } from './data-module.ts';
import {
  type ExampleRequest,
  type Examples,
  isOnDemand,
  loadDrawn,
  loadExamples,
  openExamples,
} from './examples.ts';
import { imageFolder } from './image-folder.ts';

const root = mkdtempSync(join(tmpdir(), 'bonsai-examples-'));
const SIZE = 8;
const BYTES = 3 * SIZE * SIZE;
let inMemory: Dataset;
let onDemand: Dataset;

beforeAll(async () => {
  const random = seededRandom(3);
  for (let i = 0; i < 40; i++) {
    const pixels = Buffer.from(Uint8Array.from({ length: 3 * 20 * 16 }, () => random.integer(256)));
    const folder = join(root, 'all', i % 2 === 0 ? 'even' : 'odd');
    mkdirSync(folder, { recursive: true });
    const png = await sharp(pixels, { raw: { width: 20, height: 16, channels: 3 } })
      .png()
      .toBuffer();
    writeFileSync(join(folder, `${i}.png`), png);
  }
  const load = (memoryBytes: number) =>
    imageFolder(join(root, 'all'), { size: SIZE, memoryBytes }).load({ seed: 1 });
  inMemory = await load(2 ** 20);
  onDemand = await load(0);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const requests: readonly ExampleRequest[] = [
  { indices: [3, 1, 4, 1] },
  { indices: [5, 9, 2] },
  { indices: [0] },
  { indices: [31, 30] },
];
/** The pixels and labels of each request. */
async function readAll(dataset: Dataset, wanted: readonly ExampleRequest[]) {
  const stream = openExamples(dataset.train, dataset.shape, wanted);
  try {
    const found: { images: number[]; labels: number[]; isCropped: boolean }[] = [];
    for (const _ of wanted) found.push(plainOf(await stream.next()));
    await expect(stream.next()).rejects.toThrow(/no more examples/);
    return found;
  } finally {
    await stream.close();
  }
}
const plainOf = ({ split, indices, isCropped }: Examples) => ({
  images: Array.from(indices).flatMap((i) => [...split.images.subarray(i * BYTES, (i + 1) * BYTES)]),
  labels: Array.from(indices, (i) => split.labels[i]!),
  isCropped,
});

describe('a stream of examples', () => {
  it('gives the same from files as from memory, in the order of the requests', async () => {
    expect(isOnDemand(onDemand.train)).toBe(true);
    const expected = await readAll(inMemory, requests);
    expect(await readAll(onDemand, requests)).toEqual(expected);
    expect(expected[0]!.images.length).toBe(4 * BYTES);
    expect(expected[0]!.labels).toEqual([3, 1, 4, 1].map((i) => inMemory.train.labels[i]));
  });

  it('crops files, of images in memory as well, by nothing but the request and its seed', async () => {
    const cropped = (seed: number) =>
      requests.map(({ indices }, i) => ({ indices, crop: { minAreaRatio: 0.3, seed: seed + i } }));
    const first = await readAll(onDemand, cropped(1));
    expect(first.every(({ isCropped }) => isCropped)).toBe(true);
    expect(await readAll(inMemory, cropped(1))).toEqual(first);
    // Any one of them alone, whatever came before it.
    expect(await readAll(onDemand, [cropped(1)[2]!])).toEqual([first[2]]);
    expect(await readAll(onDemand, cropped(7))).not.toEqual(first);
    // The same image twice in a request is cropped in two ways.
    const [a, b] = [1, 3].map((i) => first[0]!.images.slice(i * BYTES, (i + 1) * BYTES));
    expect(a).not.toEqual(b);
  });

  it('asks for no more than two requests ahead', async () => {
    let asked = 0;
    function* counted(): Generator<ExampleRequest> {
      for (;;) {
        asked++;
        yield { indices: [asked % 10] };
      }
    }
    const stream = openExamples(onDemand.train, onDemand.shape, counted());
    for (let i = 1; i <= 20; i++) {
      await stream.next();
      expect(asked).toBeLessThanOrEqual(i + 2);
    }
    await stream.close();
  });

  it('names the file that does not decode', async () => {
    const path = join(root, 'broken.png');
    writeFileSync(path, 'no image');
    const files = { ...onDemand.train.files!, paths: onDemand.train.files!.paths.with(5, path) };
    const broken = { ...onDemand.train, files };
    const stream = openExamples(broken, onDemand.shape, requests);
    await stream.next();
    await expect(stream.next()).rejects.toMatchObject({
      code: 'corrupt_dataset',
      message: expect.stringContaining(path),
    });
    await stream.close();
    await expect(loadExamples(broken, Uint32Array.of(5), onDemand.shape)).rejects.toThrow(path);
  });

  it('refuses a network of another size', () => {
    expect(() => openExamples(onDemand.train, [3, 9, 9], [])).toThrow(/takes images of 3×9×9.* are 3×8×8/);
    expect(() => openExamples(inMemory.train, [3, 9, 9], [])).toThrow(/takes images of 3×9×9/);
  });
});

it('loads chosen and drawn examples, from files as from memory', async () => {
  const indices = Uint32Array.of(7, 0, 7);
  const expected = await loadExamples(inMemory.train, indices, inMemory.shape);
  expect(await loadExamples(onDemand.train, indices, onDemand.shape)).toEqual(expected);
  expect(expected.count).toBe(3);
  const drawn = await loadDrawn(inMemory.train, 5, seededRandom(2));
  expect(await loadDrawn(onDemand.train, 5, seededRandom(2))).toEqual(drawn);
});
