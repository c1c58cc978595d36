import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { DATA_SPECS, dataModule } from '../port/data/registry.ts';
import type { Context } from './context.ts';
import { parseInteger } from './parse.ts';

/** Where converted data sets, checkpoints and other things that can be made again are kept. */
export const WORK_DIRECTORY = '.bonsai';

/** The seed of everything, unless another is given. */
export const DEFAULT_SEED = 1;

export function dataOption(): Option {
  const specs = Object.entries(DATA_SPECS).map(([spec, meaning]) => `${spec} (${meaning})`);
  return new Option('--data <spec>', `labelled data: ${specs.join(', ')}`).makeOptionMandatory();
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

export async function loadData(
  context: Context,
  options: { readonly data: string; readonly seed: number; readonly work: string },
): Promise<Dataset> {
  const module = dataModule(options.data, { cacheDirectory: join(options.work, 'data') });
  const dataset = await module.load({ seed: options.seed, signal: context.signal });
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
