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
 * the names of the classes in `batches.meta.txt`. Files may hold fewer records than the official ones, and the
 * last of the training batches may be left out; one that is missing before another is an error.
 * The validation split is drawn from the training files by the seed, with their class shares.
 * Source of the format: A. Krizhevsky, "The CIFAR-10 dataset", section "Binary version".
 */
export function cifarBinary(folder: string, options: CifarBinaryOptions = {}): DataModule {
  return cifarModule(CIFAR_10, folder, options);
}

export interface Cifar100Options extends CifarBinaryOptions {
  /** `fine`: the 100 classes; `coarse`: the 20 superclasses of five each. */
  readonly labels?: 'fine' | 'coarse';
}

/**
 * CIFAR-100 from the official binary files in a folder: `train.bin`, `test.bin`, and the names of the classes in
 * `fine_label_names.txt` and `coarse_label_names.txt`. Everything else as for CIFAR-10.
 */
export function cifar100(folder: string, options: Cifar100Options = {}): DataModule {
  return cifarModule(options.labels === 'coarse' ? CIFAR_100_COARSE : CIFAR_100, folder, options);
}

function cifarModule(layout: Layout, folder: string, options: CifarBinaryOptions): DataModule {
  const { name, trainingFiles, testFile } = layout;
  return {
    name,
    async load({ seed, signal }) {
      const classes = await readClasses(folder, layout);
      const parts: Split[] = [];
      let missing: string | undefined;
      for (const file of trainingFiles) {
        signal?.throwIfAborted();
        const part = await readRecords(join(folder, file), layout, classes.length);
        if (part !== undefined && missing !== undefined) {
          throw new BonsaiError(
            'missing_dataset',
            `${missing} is not in ${folder}, but ${file} is: the folder is not complete. Unpack ${layout.title} again.`,
          );
        }
        if (part === undefined) missing ??= file;
        else parts.push(part);
      }
      if (parts.length === 0) {
        const [first, last] = [trainingFiles[0], trainingFiles.at(-1)];
        throw new BonsaiError(
          'missing_dataset',
          `${first === last ? `${first} is not` : `None of ${first} to ${last} is`} in ${folder}. Give the folder ` +
            `of the unpacked binary version of ${layout.title}.`,
        );
      }
      signal?.throwIfAborted();
      const test = await readRecords(join(folder, testFile), layout, classes.length);
      if (test === undefined) throw new BonsaiError('missing_dataset', `${testFile} is not in ${folder}.`);
      const official = joined(parts);
      const held = Math.round(official.count * (options.validationShare ?? CIFAR_VALIDATION_SHARE));
      const [trainIndices, validationIndices] = stratifiedSubsets(
        official.labels,
        [official.count - held, held],
        seededRandom(seed).fork('cifar split'),
      );
      const train = takeExamples(official, trainIndices!, PIXEL_BYTES);
      return {
        name,
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

interface Layout {
  readonly name: string;
  readonly title: string;
  readonly trainingFiles: readonly string[];
  readonly testFile: string;
  readonly classesFile: string;
  /** Bytes in front of a record's pixels, and which of them is the label. */
  readonly labelBytes: number;
  readonly labelAt: number;
  /** Names of the classes where the file that names them is missing; undefined: it must be there. */
  readonly officialClasses?: readonly string[];
}

const CIFAR_10: Layout = {
  name: 'cifar10',
  title: 'CIFAR-10',
  trainingFiles: [1, 2, 3, 4, 5].map((part) => `data_batch_${part}.bin`),
  testFile: 'test_batch.bin',
  classesFile: 'batches.meta.txt',
  labelBytes: 1,
  labelAt: 0,
  officialClasses: [
    ...['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'],
  ],
};

const CIFAR_100: Layout = {
  name: 'cifar100',
  title: 'CIFAR-100',
  trainingFiles: ['train.bin'],
  testFile: 'test.bin',
  classesFile: 'fine_label_names.txt',
  labelBytes: 2,
  labelAt: 1,
};

const CIFAR_100_COARSE: Layout = {
  ...CIFAR_100,
  name: 'cifar100-coarse',
  classesFile: 'coarse_label_names.txt',
  labelAt: 0,
};

const SHAPE = [3, 32, 32] as const;
/** Red, green and blue plane of one image. */
const PIXEL_BYTES = 3 * 32 * 32;

async function readClasses(
  folder: string,
  { classesFile, officialClasses, title }: Layout,
): Promise<readonly string[]> {
  const bytes = await readIfThere(join(folder, classesFile));
  if (bytes === undefined) {
    if (officialClasses !== undefined) return officialClasses;
    throw new BonsaiError(
      'missing_dataset',
      `${classesFile}, which names the classes, is not in ${folder}. Give the folder of the unpacked binary ` +
        `version of ${title}.`,
    );
  }
  const names = bytes
    .toString('utf8')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
  if (names.length >= 2 && names.length <= 256) return names;
  throw new BonsaiError(
    'corrupt_dataset',
    `${join(folder, classesFile)} should name a class in each line, it has ${names.length} of them.`,
  );
}

/** Undefined where the file is not there. @throws BonsaiError `corrupt_dataset` naming it and what is wrong */
async function readRecords(
  path: string,
  { labelBytes, labelAt }: Layout,
  classes: number,
): Promise<Split | undefined> {
  const bytes = await readIfThere(path);
  if (bytes === undefined) return undefined;
  const recordBytes = labelBytes + PIXEL_BYTES;
  const count = bytes.length / recordBytes;
  if (count === 0 || !Number.isInteger(count)) {
    throw new BonsaiError(
      'corrupt_dataset',
      `${path} has ${bytes.length} bytes, which is no whole number of records of ${recordBytes}. ` +
        'It may be truncated, or compressed: unpack it again.',
    );
  }
  const images = new Uint8Array(count * PIXEL_BYTES);
  const labels = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const from = i * recordBytes;
    const label = bytes[from + labelAt]!;
    if (label >= classes) {
      throw new BonsaiError(
        'corrupt_dataset',
        `${path}: record ${i} has the label ${label}, expected 0 to ${classes - 1}.`,
      );
    }
    labels[i] = label;
    images.set(bytes.subarray(from + labelBytes, from + recordBytes), i * PIXEL_BYTES);
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
