import { join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import type { DataModule, Split } from './data-module.ts';
import { readIfThere } from './read-if-there.ts';
import { measureNormalization, stratifiedSubsets, takeExamples } from './split.ts';

/** Share of the official training digits set aside for validation: 5,000 of 60,000, a binomial error below 0.2 %. */
export const MNIST_VALIDATION_SHARE = 1 / 12;

export interface MnistIdxOptions {
  /** Share of the training files that becomes the validation split, in [0, 1). */
  readonly validationShare?: number;
}

/**
 * MNIST (or a set in its format, such as Fashion-MNIST) from the four official IDX files in a folder, gzipped or plain.
 * The validation split is drawn from the training files by the seed, with their class shares.
 * Source of the format: Y. LeCun, "The MNIST database", section "File formats".
 */
export function mnistIdx(folder: string, options: MnistIdxOptions = {}): DataModule {
  return {
    name: 'mnist',
    async load({ seed, signal }) {
      const official = await readPair(folder, 'train');
      signal?.throwIfAborted();
      const test = await readPair(folder, 't10k');
      signal?.throwIfAborted();
      if (official.height !== test.height || official.width !== test.width) {
        throw new BonsaiError(
          'corrupt_dataset',
          `${folder}: training images are ${official.height}×${official.width}, test images ${test.height}×${test.width}.`,
        );
      }
      const shape = [1, official.height, official.width] as const;
      const pixels = official.height * official.width;
      const held = Math.round(official.count * (options.validationShare ?? MNIST_VALIDATION_SHARE));
      const [trainIndices, validationIndices] = stratifiedSubsets(
        official.labels,
        [official.count - held, held],
        seededRandom(seed).fork('mnist split'),
      );
      const train = takeExamples(official, trainIndices!, pixels);
      const classes = Math.max(maximum(official.labels), maximum(test.labels)) + 1;
      return {
        name: 'mnist',
        classes: Array.from({ length: classes }, (_, i) => String(i)),
        shape,
        train,
        validation: takeExamples(official, validationIndices!, pixels),
        test: { count: test.count, images: test.images, labels: test.labels },
        normalization: measureNormalization(train, shape),
      };
    },
  };
}

/** Magic numbers: two zero bytes, element type 8 (unsigned byte), number of dimensions. */
const IMAGES_MAGIC = 0x0803;
const LABELS_MAGIC = 0x0801;
/** Class indices travel as bytes and MNIST-like sets have ten classes; more is a sign of a damaged file. */
const MOST_CLASSES = 10;

async function readPair(
  folder: string,
  part: 'train' | 't10k',
): Promise<Split & { height: number; width: number }> {
  const images = await readIdx(folder, `${part}-images-idx3-ubyte`, IMAGES_MAGIC, 3);
  const labels = await readIdx(folder, `${part}-labels-idx1-ubyte`, LABELS_MAGIC, 1);
  const [count, height, width] = images.sizes as [number, number, number]; // readIdx returns as many as asked for.
  if (labels.sizes[0] !== count) {
    throw new BonsaiError(
      'corrupt_dataset',
      `${labels.path} has ${labels.sizes[0]} labels, ${images.path} has ${count} images.`,
    );
  }
  const wrong = labels.data.findIndex((label) => label >= MOST_CLASSES);
  if (wrong >= 0) {
    throw new BonsaiError(
      'corrupt_dataset',
      `${labels.path}: label ${wrong} is ${labels.data[wrong]}, expected 0 to ${MOST_CLASSES - 1}.`,
    );
  }
  return { count, height, width, images: images.data, labels: labels.data };
}

interface IdxFile {
  readonly path: string;
  readonly sizes: readonly number[];
  readonly data: Uint8Array;
}

async function readIdx(folder: string, name: string, magic: number, rank: number): Promise<IdxFile> {
  const { path, bytes } = await readPlainOrGzip(folder, name);
  const corrupt = (found: string) => new BonsaiError('corrupt_dataset', `${path}: ${found}.`);
  const headerBytes = 4 + 4 * rank;
  if (bytes.length < headerBytes) {
    throw corrupt(`expected a header of ${headerBytes} bytes, the file has ${bytes.length}`);
  }
  const found = bytes.readUInt32BE(0);
  if (found !== magic) {
    throw corrupt(
      `expected the magic number 0x${magic.toString(16).padStart(8, '0')}, found 0x${found.toString(16).padStart(8, '0')}`,
    );
  }
  const sizes = Array.from({ length: rank }, (_, i) => bytes.readUInt32BE(4 + 4 * i));
  if (sizes.some((size) => size === 0)) throw corrupt(`the header gives the sizes ${sizes.join(' × ')}`);
  const expected = sizes.reduce((product, size) => product * size, 1);
  const actual = bytes.length - headerBytes;
  if (actual !== expected) {
    throw corrupt(
      `the header gives ${sizes.join(' × ')} = ${expected} bytes of data, the file has ${actual}`,
    );
  }
  return { path, sizes, data: bytes.subarray(headerBytes) };
}

async function readPlainOrGzip(folder: string, name: string): Promise<{ path: string; bytes: Buffer }> {
  const plain = join(folder, name);
  const bytes = await readIfThere(plain);
  if (bytes !== undefined) return { path: plain, bytes };
  const zipped = `${plain}.gz`;
  const compressed = await readIfThere(zipped);
  if (compressed === undefined) {
    throw new BonsaiError('missing_dataset', `Neither ${name} nor ${name}.gz is in ${folder}.`);
  }
  try {
    return { path: zipped, bytes: await promisify(gunzip)(compressed) };
  } catch (cause) {
    throw new BonsaiError('corrupt_dataset', `${zipped} is not readable as gzip: ${messageOf(cause)}.`, {
      cause,
    });
  }
}

function maximum(values: Uint8Array): number {
  let highest = 0;
  for (const value of values) if (value > highest) highest = value;
  return highest;
}
