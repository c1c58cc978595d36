import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import { type Augmentation, checkAugmentation } from '../port/data/augmentation.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { DATA_SPECS, dataModule } from '../port/data/registry.ts';
import { isModulePath } from '../port/data/user-module.ts';
import type { Context } from './context.ts';
import { parseInteger } from './parse.ts';
import type { ProgressTask } from './progress.ts';
import { suggest } from './suggestions.ts';

/** Where converted data sets, checkpoints and other things that can be made again are kept. */
export const WORK_DIRECTORY = '.bonsai';

/** The seed of everything, unless another is given. */
export const DEFAULT_SEED = 1;

export function dataOption(): Option {
  const specs = Object.entries(DATA_SPECS).map(([spec, meaning]) => `${spec} (${meaning})`);
  const option = new Option('--data <spec>', `labelled data: ${specs.join(', ')}`).makeOptionMandatory();
  // What a path follows is offered up to that.
  return suggest(
    option,
    Object.keys(DATA_SPECS).flatMap((spec) => (spec.startsWith('.') ? [] : [spec.replace(/PATH$/, '')])),
  );
}

export function seedOption(): Option {
  return new Option('--seed <n>', 'seed of everything random')
    .argParser(parseInteger(0, 2 ** 31 - 1))
    .default(DEFAULT_SEED);
}

export function threadsOption(): Option {
  return new Option('--threads <n>', 'threads of training')
    .argParser(parseInteger(1, 1024))
    .default(availableParallelism(), 'all CPUs');
}

export function jsonOption(): Option {
  return new Option('--json', 'print the result as JSON');
}

export function workOption(): Option {
  return new Option('--work <dir>', 'where caches and checkpoints are kept').default(WORK_DIRECTORY);
}

export function augmentOption(): Option {
  return new Option(
    '--augment <list>',
    'vary images at random, such as shift=2,rotate=10,flip. All: shift=2 (pixels), rotate=10 (degrees), ' +
      'scale=0.1 and shear=0.1 (shares of the size), elastic=1.5 (bends by pixels; ' +
      `elastic=1.5@${ELASTIC_SMOOTHNESS_PIXELS} with the smoothness), cutout=6 (side of a black square), flip, ` +
      'crop=0.4 (a part of at least this share of the area, stretched to the full size), ' +
      'brightness=0.2 and contrast=0.2 (shares)',
  ).argParser(parseAugmentation);
}

/** Simard et al. 2003 found 4 best for handwritten digits of about 28×28 pixels. */
export const ELASTIC_SMOOTHNESS_PIXELS = 4;

/**
 * `shift=2,rotate=10,flip` → an augmentation. `elastic=1.5@4` is strength and smoothness; `flip` stands alone.
 * @throws InvalidArgumentError for another key, a key given twice, no number, or a number out of its range
 */
export function parseAugmentation(text: string): Augmentation {
  const expected = 'Expected variations such as shift=2,rotate=10,elastic=1.5@4,flip';
  const seen = new Map<string, Augmentation>();
  for (const part of text.split(',')) {
    const [key, value, ...rest] = part.split('=').map((piece) => piece.trim());
    const read = AUGMENTATION_KEYS.get(key!);
    if (read === undefined) {
      const known = [...AUGMENTATION_KEYS.keys()].join(', ');
      throw new InvalidArgumentError(`${expected}; "${part}" is none of ${known}.`);
    }
    if (seen.has(key!)) throw new InvalidArgumentError(`${expected}, each once; ${key} is given twice.`);
    const variation = rest.length === 0 ? read(value) : undefined;
    if (variation === undefined) {
      throw new InvalidArgumentError(
        key === 'flip' ? `${expected}; flip takes no value.` : `${expected}; "${part}" gives no number.`,
      );
    }
    seen.set(key!, variation);
  }
  const augmentation: Augmentation = Object.assign({}, ...seen.values());
  checkAugmentation(augmentation);
  return augmentation;
}

/** The text behind a key's `=` as an augmentation; undefined where it is none. */
type VariationReader = (value: string | undefined) => Augmentation | undefined;

const AUGMENTATION_KEYS: ReadonlyMap<string, VariationReader> = new Map<string, VariationReader>([
  ['shift', numberInto((shiftPixels) => ({ shiftPixels }))],
  ['rotate', numberInto((rotateDegrees) => ({ rotateDegrees }))],
  ['scale', numberInto((scaleRatio) => ({ scaleRatio }))],
  ['shear', numberInto((shearRatio) => ({ shearRatio }))],
  [
    'elastic',
    (value) => {
      const [strength, smoothness, ...rest] = value?.split('@') ?? [];
      const strengthPixels = numberOf(strength);
      const smoothnessPixels = smoothness === undefined ? ELASTIC_SMOOTHNESS_PIXELS : numberOf(smoothness);
      if (strengthPixels === undefined || smoothnessPixels === undefined || rest.length > 0) return undefined;
      return { elastic: { strengthPixels, smoothnessPixels } };
    },
  ],
  ['crop', numberInto((cropAreaRatio) => ({ cropAreaRatio }))],
  ['brightness', numberInto((brightnessRatio) => ({ brightnessRatio }))],
  ['contrast', numberInto((contrastRatio) => ({ contrastRatio }))],
  ['cutout', numberInto((cutoutPixels) => ({ cutoutPixels }))],
  ['flip', (value) => (value === undefined ? { flip: true } : undefined)],
]);

function numberInto(build: (value: number) => Augmentation): VariationReader {
  return (text) => {
    const value = numberOf(text);
    return value === undefined ? undefined : build(value);
  };
}

function numberOf(text: string | undefined): number | undefined {
  const value = Number(text);
  return text === undefined || text.trim() === '' || Number.isNaN(value) ? undefined : value;
}

/** The files of a data spec that an output must not replace: the module, which is the user's own work. */
export function filesOfData(spec: string | undefined): string[] {
  return spec !== undefined && isModulePath(spec) ? [spec] : [];
}

export async function loadData(
  context: Context,
  options: { readonly data: string; readonly seed: number; readonly work: string },
): Promise<Dataset> {
  const module = dataModule(options.data, { cacheDirectory: join(options.work, 'data') });
  let bar: ProgressTask | undefined;
  const dataset = await module.load({
    seed: options.seed,
    signal: context.signal,
    onProgress: (done, total) => {
      bar ??= context.progress.task('Decoding images', total);
      bar.update(done);
      if (done === total) bar.done(`${total} images`);
    },
  });
  context.progress.say(
    `Data ${dataset.name}: ${dataset.train.count} to train, ${dataset.validation.count} to validate, ` +
      `${dataset.test.count} to test; ${dataset.classes.length} classes; seed ${options.seed}`,
  );
  return dataset;
}

/** The token in a file, without the line break that editors leave. */
export async function readToken(file: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    throw new InvalidArgumentError(`The token file ${file} cannot be read.`, { cause });
  }
  const token = text.trim();
  if (token === '') throw new InvalidArgumentError(`The token file ${file} is empty.`);
  return token;
}
