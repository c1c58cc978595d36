import { stat } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { BonsaiError, InvalidArgumentError, messageOf } from '../../base/errors.ts';
import { elementCount } from '../../base/tensor.ts';
import type { DataModule, Dataset, Split } from './data-module.ts';
import { measureNormalization } from './split.ts';

const COMPILED = ['.mjs', '.js'];
const TYPED = ['.ts', '.mts'];

/** Whether a data spec is the path of a module: it begins as a path does and ends as a module does. */
export function isModulePath(spec: string): boolean {
  return /^(\.{0,2}[/\\]|[A-Za-z]:[/\\])/.test(spec) && [...COMPILED, ...TYPED].includes(extname(spec));
}

/**
 * A data module of the user's own: an ES module that exports `name` and `load` (see `DataModule`), each by itself or
 * as the default export. What it loads is checked before anything uses it; `normalization` may be left out and is
 * then measured on the training split.
 * @throws InvalidArgumentError from `load` for a file that is no such module or gives no such data; BonsaiError
 *   `missing_dataset` where there is no such file, `corrupt_dataset` where its `load` throws, `unsupported` for TypeScript where Node.js cannot run it
 */
export function userModule(path: string): DataModule {
  const file = resolve(path);
  return {
    name: path,
    async load(options) {
      const { name, load } = await importModule(file);
      let given: unknown;
      try {
        given = await load(options);
      } catch (cause) {
        options.signal?.throwIfAborted(); // Then it gave up because it was asked to.
        if (cause instanceof BonsaiError) throw cause;
        throw new BonsaiError(
          'corrupt_dataset',
          `The data module ${file}: load failed: ${messageOf(cause)}. Repair the module, or what it reads.`,
          { cause },
        );
      }
      return checkedDataset(given, name, file);
    },
  };
}

async function importModule(file: string): Promise<DataModule> {
  if (!(await stat(file).catch(() => undefined))?.isFile()) {
    throw new BonsaiError('missing_dataset', `There is no data module ${file}.`);
  }
  if (TYPED.includes(extname(file)) && !stripsTypes()) {
    throw new BonsaiError(
      'unsupported',
      `Node.js ${process.versions.node} cannot run TypeScript (${file}). Compile it, for example with ` +
        `\`npx tsc --module nodenext --target es2023 ${file}\`, and give the .js or .mjs file; or use Node.js 22.18 or later.`,
    );
  }
  let exported: Record<string, unknown>;
  try {
    exported = (await import(pathToFileURL(file).href)) as Record<string, unknown>; // A module is an object.
  } catch (cause) {
    throw new InvalidArgumentError(`The data module ${file} does not load: ${messageOf(cause)}`, { cause });
  }
  const found = (exported.default ?? exported) as Partial<Record<string, unknown>>; // Read with care below.
  if (typeof found !== 'object' || typeof found.name !== 'string' || typeof found.load !== 'function') {
    throw new InvalidArgumentError(
      `The data module ${file} exports ${Object.keys(exported).join(', ') || 'nothing'}; expected a string ` +
        '`name` and a function `load({ seed, signal })`.',
    );
  }
  return found as unknown as DataModule; // As far as a value can tell; the dataset itself is checked when it is there.
}

/** Node.js 22.18 and later take the types off by themselves. */
function stripsTypes(): boolean {
  // Absent from the types of Node.js 20: false, 'strip' or 'transform'.
  const features = process.features as unknown as { readonly typescript?: unknown };
  return Boolean(features.typescript);
}

type Loose<T> = { readonly [K in keyof T]?: unknown };

/** @throws InvalidArgumentError naming the field, what it is and what it should be */
function checkedDataset(given: unknown, moduleName: string, file: string): Dataset {
  const need = (isRight: boolean, field: string, found: unknown, expected: string) => {
    if (isRight) return;
    throw new InvalidArgumentError(
      `The data module ${file}: ${field} is ${String(found)}, expected ${expected}.`,
    );
  };
  need(typeof given === 'object' && given !== null, 'what load gives', given, 'a dataset');
  const dataset = given as Loose<Dataset>;
  const { name = moduleName, classes, shape } = dataset;
  need(typeof name === 'string' && name !== '', 'name', name, 'a string');
  const areNames = Array.isArray(classes) && classes.every((each) => typeof each === 'string');
  need(areNames && classes.length >= 2 && classes.length <= 256, 'classes', classes, '2 to 256 names');
  const areSizes = Array.isArray(shape) && shape.every((size) => Number.isInteger(size) && size > 0);
  need(areSizes && shape.length === 3, 'shape', shape, 'three positive integers: channels, height, width');
  const known = { classes: classes as string[], shape: shape as unknown as Dataset['shape'] };
  const bytes = elementCount(known.shape);
  const split = (field: 'train' | 'validation' | 'test'): Split => {
    const { count, images, labels } = (dataset[field] ?? {}) as Loose<Split>;
    need(Number.isInteger(count) && Number(count) > 0, `${field}.count`, count, 'a positive integer');
    const imagesAre = images instanceof Uint8Array ? `${images.length} bytes` : typeof images;
    const isWhole = images instanceof Uint8Array && images.length === Number(count) * bytes;
    need(isWhole, `${field}.images`, imagesAre, `a Uint8Array of ${count} × ${bytes} bytes`);
    const labelsAre = labels instanceof Uint8Array ? `${labels.length} bytes` : typeof labels;
    const areLabels = labels instanceof Uint8Array && labels.length === count;
    need(areLabels, `${field}.labels`, labelsAre, `a Uint8Array of ${count} class numbers`);
    const wrong = (labels as Uint8Array).findIndex((label) => label >= known.classes.length);
    const label = (labels as Uint8Array)[wrong];
    need(wrong < 0, `${field}.labels[${wrong}]`, label, `0 to ${known.classes.length - 1}`);
    return { count: Number(count), images: images as Uint8Array, labels: labels as Uint8Array };
  };
  const train = split('train');
  const splits = { train, validation: split('validation'), test: split('test') };
  const normalization = (dataset.normalization ??
    measureNormalization(train, known.shape)) as Dataset['normalization'];
  for (const field of ['mean', 'std'] as const) {
    const values: unknown = normalization[field];
    const areNumbers = Array.isArray(values) && values.every(Number.isFinite);
    const isPerChannel = areNumbers && values.length === known.shape[0];
    need(isPerChannel, `normalization.${field}`, values, `${known.shape[0]} numbers, one for each channel`);
    const isDivisor = field === 'mean' || (values as number[]).every((value) => value > 0);
    need(isDivisor, `normalization.${field}`, values, 'numbers above 0: pixels are divided by them');
  }
  return { name: String(name), ...known, ...splits, normalization };
}
