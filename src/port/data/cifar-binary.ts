import { join } from 'node:path';
import { BonsaiError } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import type { DataModule, Split } from './data-module.ts';
import { readIfThere } from './read-if-there.ts';
import { measureNormalization, stratifiedSubsets, takeExamples } from './split.ts';

/** Share of the training images set aside for validation: 5,000 of the official 50,000 (He et al. 2016, section 4.2). */
export const CIFAR_VALIDATION_SHARE = 0.1;

export interface CifarBinaryOptions {
  /** Share of the training files that becomes the validation split, in [0, 1). */
  readonly validationShare?: number;
}

/**
 * CIFAR-10 from the official binary files in a folder: `data_batch_1.bin` … `data_batch_5.bin`, `test_batch.bin`, and
 * the names of the classes in `batches.meta.txt`. Files may hold fewer records than the official ones; those of a
 * training batch that is not there are missed without harm as long as one is.
 * The validation split is drawn from the training files by the seed, with their class shares.
 * Source of the format: A. Krizhevsky, "The CIFAR-10 dataset", section "Binary version".
 */
export function cifarBinary(folder: string, options: CifarBinaryOptions = {}): DataModule {
  return {
    name: 'cifar10',
    async load({ seed, signal }) {
      const classes = await readClasses(folder);
      const parts: Split[] = [];
      for (const name of TRAINING_FILES) {
        signal?.throwIfAborted();
        const part = await readRecords(join(folder, name), classes.length);
        if (part !== undefined) parts.push(part);
      }
      if (parts.length === 0) {
        throw new BonsaiError(
          'missing_dataset',
          `None of ${TRAINING_FILES[0]} to ${TRAINING_FILES.at(-1)} is in ${folder}. Give the folder of the ` +
            'unpacked binary version of CIFAR-10.',
        );
      }
      signal?.throwIfAborted();
      const test = await readRecords(join(folder, TEST_FILE), classes.length);
      if (test === undefined) throw new BonsaiError('missing_dataset', `${TEST_FILE} is not in ${folder}.`);
      const official = joined(parts);
      const held = Math.round(official.count * (options.validationShare ?? CIFAR_VALIDATION_SHARE));
      const [trainIndices, validationIndices] = stratifiedSubsets(
        official.labels,
        [official.count - held, held],
        seededRandom(seed).fork('cifar split'),
      );
      const train = takeExamples(official, trainIndices!, PIXEL_BYTES);
      return {
        name: 'cifar10',
        classes,
        shape: SHAPE,
        train,
        validation: takeExamples(official, validationIndices!, PIXEL_BYTES),
        test,
        normalization: measureNormalization(train, SHAPE),
      };
    },
  };
}

const TRAINING_FILES = [1, 2, 3, 4, 5].map((part) => `data_batch_${part}.bin`);
const TEST_FILE = 'test_batch.bin';
const CLASSES_FILE = 'batches.meta.txt';
/** Of the official files, where the one that names them is missing. */
const OFFICIAL_CLASSES = [
  'airplane',
  'automobile',
  'bird',
  'cat',
  'deer',
  'dog',
  'frog',
  'horse',
  'ship',
  'truck',
];

const SHAPE = [3, 32, 32] as const;
/** Red, green and blue plane of one image. */
const PIXEL_BYTES = 3 * 32 * 32;
/** The label's byte, then the pixels. */
const RECORD_BYTES = 1 + PIXEL_BYTES;

async function readClasses(folder: string): Promise<string[]> {
  const bytes = await readIfThere(join(folder, CLASSES_FILE));
  if (bytes === undefined) return OFFICIAL_CLASSES;
  const names = bytes
    .toString('utf8')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
  if (names.length >= 2 && names.length <= 256) return names;
  throw new BonsaiError(
    'corrupt_dataset',
    `${join(folder, CLASSES_FILE)} should name a class in each line, it has ${names.length} of them.`,
  );
}

/** Undefined where the file is not there. @throws BonsaiError `corrupt_dataset` naming it and what is wrong */
async function readRecords(path: string, classes: number): Promise<Split | undefined> {
  const bytes = await readIfThere(path);
  if (bytes === undefined) return undefined;
  const count = bytes.length / RECORD_BYTES;
  if (count === 0 || !Number.isInteger(count)) {
    throw new BonsaiError(
      'corrupt_dataset',
      `${path} has ${bytes.length} bytes, which is no whole number of records of ${RECORD_BYTES}. ` +
        'It may be truncated, or compressed: unpack it again.',
    );
  }
  const images = new Uint8Array(count * PIXEL_BYTES);
  const labels = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const from = i * RECORD_BYTES;
    const label = bytes[from]!;
    if (label >= classes) {
      throw new BonsaiError(
        'corrupt_dataset',
        `${path}: record ${i} has the label ${label}, expected 0 to ${classes - 1}.`,
      );
    }
    labels[i] = label;
    images.set(bytes.subarray(from + 1, from + RECORD_BYTES), i * PIXEL_BYTES);
  }
  return { count, images, labels };
}

function joined(parts: readonly Split[]): Split {
  const count = parts.reduce((sum, part) => sum + part.count, 0);
  const images = new Uint8Array(count * PIXEL_BYTES);
  const labels = new Uint8Array(count);
  let at = 0;
  for (const part of parts) {
    images.set(part.images, at * PIXEL_BYTES);
    labels.set(part.labels, at);
    at += part.count;
  }
  return { count, images, labels };
}
