import { createHash } from 'node:crypto';
import type { Dirent } from 'node:fs';
import { readdir, realpath, stat } from 'node:fs/promises';
import { basename, extname, join, relative, resolve } from 'node:path';
import { BonsaiError, InvalidArgumentError, messageOf, systemCodeOf } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import { readSealed, writeSealed } from '../sealed-file.ts';
import type { DataModule, Dataset, ImageFiles, LoadOptions, Split } from './data-module.ts';
import { decodeImages, IMAGE_CHANNELS, IMAGE_EXTENSIONS } from './decode-image.ts';
import { loadExamples } from './examples.ts';
import { measureNormalization, stratifiedSubsets, takeExamples } from './split.ts';

/** Side of the square that images are scaled to: that of the networks trained on ImageNet. */
export const IMAGE_SIZE = 224;
/** Below it convolutions have nothing left to see; above it a single batch is gigabytes. */
export const IMAGE_SIZES = { min: 8, max: 1024 } as const;
/**
 * Bytes of decoded images that are kept in memory: 7,000 images at 224, 87,000 at 64. Beyond it images are decoded
 * when they are needed. Fixed rather than taken from the machine, so that every machine does the same.
 */
export const IMAGES_IN_MEMORY_BYTES = 2 ** 30;
/** Shares of the images that become validation and test split where the folder has none. */
export const IMAGES_VALIDATION_SHARE = 0.1;
export const IMAGES_TEST_SHARE = 0.1;
/** Images that mean and deviation are measured on where not all are in memory: a standard error below 1 % of a deviation. */
export const NORMALIZATION_SAMPLES = 2_000;
/** Labels are bytes. */
export const MAX_CLASSES = 256;

export interface ImageFolderOptions {
  /** Side of the square that networks get. Default `IMAGE_SIZE`. */
  readonly size?: number;
  /** Length that the shorter side is scaled to before the square is cut from the middle. Default `size`. */
  readonly resize?: number;
  /** Default `IMAGES_IN_MEMORY_BYTES`. */
  readonly memoryBytes?: number;
  /** Where decoded images are kept for the next time, as far as they are kept in memory. Absent: not kept. */
  readonly cacheDirectory?: string;
}

/**
 * Images in folders: `{train,val,test}/CLASS/*.jpg`, or `CLASS/*.jpg` alone, which the seed splits. `valid` and
 * `validation` stand for `val`. Classes are the folders' names in order of their characters' codes. Without a test
 * folder `val` is the test split, and the validation split is drawn from the training images; drawn splits are
 * balanced as their source is. Hidden files and those that systems leave (`Thumbs.db`) are passed over.
 * @throws InvalidArgumentError for sizes out of range
 */
export function imageFolder(folder: string, options: ImageFolderOptions = {}): DataModule {
  const size = options.size ?? IMAGE_SIZE;
  const resize = options.resize ?? size;
  checkSizes(size, resize);
  const name = nameOf(folder);
  return {
    name,
    async load(load) {
      const { classes, parts } = await scan(resolve(folder), load.signal);
      const all = [...parts.values()].flat();
      const shape = [IMAGE_CHANNELS, size, size] as const;
      const exampleBytes = IMAGE_CHANNELS * size * size;
      const fits = all.length * exampleBytes <= (options.memoryBytes ?? IMAGES_IN_MEMORY_BYTES);
      const form = { size, resize };
      const images = fits
        ? await decodeAll(resolve(folder), all, form, options.cacheDirectory, load)
        : new Uint8Array(0);
      let at = 0;
      const splits = new Map<Part, Split>();
      for (const [part, files] of parts) {
        // A copy: a view would take all of the images along whenever a worker is given this split.
        const bytes = images.slice(at * exampleBytes, (at + files.length) * exampleBytes);
        splits.set(part, splitOf(resolve(folder), files, bytes, form));
        at += files.length;
      }
      const divided = divide(splits, load.seed, exampleBytes);
      const normalization = await normalizationOf(divided.train, shape, load);
      return { name, classes, shape, ...divided, normalization };
    },
  };
}

function checkSizes(size: number, resize: number): void {
  const { min, max } = IMAGE_SIZES;
  if (!Number.isInteger(size) || size < min || size > max) {
    throw new InvalidArgumentError(`The images' size is ${size}, expected an integer from ${min} to ${max}.`);
  }
  if (!Number.isInteger(resize) || resize < size || resize > 2 * max) {
    throw new InvalidArgumentError(
      `Images are to be resized to ${resize}, expected an integer from their size, ${size}, to ${2 * max}.`,
    );
  }
}

/** The folder's name as a task can be named: `Bees & ants` → `Bees-ants`. */
function nameOf(folder: string): string {
  const name = basename(resolve(folder)).replace(/[^A-Za-z0-9_.]+/g, '-');
  return name.replace(/^[-.]+|-+$/g, '').slice(0, 64) || 'images';
}

type Part = 'train' | 'validation' | 'test' | 'all';

const PART_FOLDERS: ReadonlyMap<string, Part> = new Map([
  ['train', 'train'],
  ['val', 'validation'],
  ['valid', 'validation'],
  ['validation', 'validation'],
  ['test', 'test'],
]);

interface ImageFile {
  readonly path: string;
  readonly label: number;
  readonly bytes: number;
  readonly modifiedMs: number;
}

interface Scan {
  readonly classes: readonly string[];
  /** `train` and what else there is, or `all` alone. */
  readonly parts: ReadonlyMap<Part, readonly ImageFile[]>;
}

const LAYOUT = 'Expected {train,val,test}/CLASS/IMAGE or CLASS/IMAGE, such as train/cats/1.jpg';

async function scan(root: string, signal?: AbortSignal): Promise<Scan> {
  const folders = await foldersIn(root);
  const partFolders = new Map<Part, string>();
  for (const folder of folders) {
    const part = PART_FOLDERS.get(folder);
    if (part === undefined) continue;
    const other = partFolders.get(part);
    if (other !== undefined) {
      throw corrupt(`${root} has both ${other} and ${folder}, which mean the same. Keep one of them`);
    }
    partFolders.set(part, folder);
  }
  if (partFolders.size > 0 && !partFolders.has('train')) {
    throw corrupt(`${root} has ${[...partFolders.values()].join(' and ')}, but no train. ${LAYOUT}`);
  }
  const places: [Part, string][] =
    partFolders.size === 0
      ? [['all', root]]
      : [...partFolders].map(([part, name]) => [part, join(root, name)]);
  // Training first: it says which classes there are.
  places.sort(([a], [b]) => Number(b === 'train') - Number(a === 'train'));
  let classes: readonly string[] | undefined;
  const parts = new Map<Part, readonly ImageFile[]>();
  for (const [part, place] of places) {
    const found = place === root ? folders : await foldersIn(place);
    if (classes === undefined) {
      classes = found;
      checkClasses(classes, place);
    }
    const unknown = found.find((name) => !classes!.includes(name));
    if (unknown !== undefined) {
      throw corrupt(
        `${join(place, unknown)} is a class that is not in ${places[0]![1]}: no network could learn it. ` +
          'Add training images of it, or remove the folder',
      );
    }
    if (found.length === 0) {
      throw corrupt(`${place} has no folders of classes. ${LAYOUT}; or remove the folder`);
    }
    const files: ImageFile[] = [];
    for (const name of found) {
      const label = classes.indexOf(name);
      const of = await imagesIn(join(place, name), label, [], signal);
      if (of.length === 0)
        throw corrupt(`${join(place, name)} has no images. Add some, or remove the folder`);
      for (const file of of) files.push(file);
    }
    parts.set(part, files);
  }
  return { classes: classes!, parts };
}

function checkClasses(classes: readonly string[], place: string): void {
  if (classes.length === 0) {
    throw new BonsaiError('missing_dataset', `${place} has no folders of classes. ${LAYOUT}.`);
  }
  if (classes.length === 1) {
    throw corrupt(`${place} has one class only, ${classes[0]}; there is nothing to tell apart. ${LAYOUT}`);
  }
  if (classes.length > MAX_CLASSES) {
    throw new BonsaiError(
      'unsupported',
      `${place} has ${classes.length} classes; image folders are read with up to ${MAX_CLASSES}.`,
    );
  }
}

/** Names of the folders in a folder, in order of their characters' codes (as torchvision's ImageFolder). */
async function foldersIn(folder: string): Promise<string[]> {
  const names: string[] = [];
  for (const entry of await entriesOf(folder)) {
    if ((await kindOf(folder, entry)).kind === 'folder') names.push(entry.name);
  }
  return names;
}

/** The images of a class, those in folders below it included. */
async function imagesIn(
  folder: string,
  label: number,
  above: readonly string[],
  signal?: AbortSignal,
): Promise<ImageFile[]> {
  signal?.throwIfAborted();
  const real = await realpath(folder);
  if (above.includes(real)) {
    throw corrupt(`${folder} is a link to a folder that it is in (${real}): a loop. Remove the link`);
  }
  const files: ImageFile[] = [];
  for (const entry of await entriesOf(folder)) {
    const path = join(folder, entry.name);
    const found = await kindOf(folder, entry);
    if (found.kind === 'folder') {
      for (const file of await imagesIn(path, label, [...above, real], signal)) files.push(file);
    } else if (found.kind === 'file') {
      if (!IMAGE_EXTENSIONS.includes(extname(entry.name).toLowerCase())) {
        throw corrupt(
          `${path} is among the images of a class, but is none by its name. Expected ` +
            `${IMAGE_EXTENSIONS.join(', ')}; move it elsewhere`,
        );
      }
      if (found.bytes === 0) throw corrupt(`${path} is empty. Expected an image; repair or remove the file`);
      files.push({ path, label, bytes: found.bytes, modifiedMs: found.modifiedMs });
    } else {
      throw corrupt(`${path} is neither a file nor a folder. Remove it`);
    }
  }
  return files;
}

/** Left behind by Windows; what macOS leaves begins with a dot. */
const SYSTEM_FILES: readonly string[] = ['thumbs.db', 'desktop.ini', '__macosx'];

async function entriesOf(folder: string): Promise<Dirent[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries
      .filter(({ name }) => !name.startsWith('.') && !SYSTEM_FILES.includes(name.toLowerCase()))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch (cause) {
    const code = systemCodeOf(cause);
    const problem =
      code === 'ENOENT'
        ? `There is no folder ${folder}`
        : code === 'ENOTDIR'
          ? `${folder} is a file, not a folder of images`
          : `Cannot read the folder ${folder}: ${messageOf(cause)}`;
    throw new BonsaiError('missing_dataset', `${problem}. ${LAYOUT}.`, { cause });
  }
}

type Kind =
  | { readonly kind: 'file'; readonly bytes: number; readonly modifiedMs: number }
  | { readonly kind: 'folder' | 'other' };

/** What a name stands for, links followed. */
async function kindOf(folder: string, entry: Dirent): Promise<Kind> {
  if (entry.isDirectory()) return { kind: 'folder' };
  const path = join(folder, entry.name);
  try {
    const status = await stat(path);
    if (status.isDirectory()) return { kind: 'folder' };
    if (!status.isFile()) return { kind: 'other' };
    return { kind: 'file', bytes: status.size, modifiedMs: status.mtimeMs };
  } catch (cause) {
    const code = systemCodeOf(cause);
    if (code === 'ELOOP') throw corrupt(`${path} is a link that leads back to itself. Remove it`, cause);
    if (code === 'ENOENT') throw corrupt(`${path} is a link to nothing. Remove it`, cause);
    throw new BonsaiError('missing_dataset', `Cannot read ${path}: ${messageOf(cause)}.`, { cause });
  }
}

function corrupt(problem: string, cause?: unknown): BonsaiError {
  return new BonsaiError('corrupt_dataset', `${problem}.`, { cause });
}

type Form = Pick<ImageFiles, 'size' | 'resize'>;

/** Raised when the same files come to give other bytes, so that old caches are rebuilt. */
const DECODING_FORMAT = 1;

function digestOf(root: string, files: readonly ImageFile[], form: Form): string {
  const hash = createHash('sha256').update(JSON.stringify([DECODING_FORMAT, form.size, form.resize]));
  for (const { path, label, bytes, modifiedMs } of files) {
    hash.update(JSON.stringify([relative(root, path), label, bytes, modifiedMs]));
  }
  return hash.digest('hex');
}

function splitOf(root: string, files: readonly ImageFile[], images: Uint8Array, form: Form): Split {
  return {
    count: files.length,
    images,
    labels: Uint8Array.from(files, ({ label }) => label),
    files: { paths: files.map(({ path }) => path), ...form, digest: digestOf(root, files, form) },
  };
}

/** All images, from the cache where it is of these very files. A cache that cannot be used is made anew. */
async function decodeAll(
  root: string,
  files: readonly ImageFile[],
  form: Form,
  cacheDirectory: string | undefined,
  { signal, onProgress }: LoadOptions,
): Promise<Uint8Array> {
  const digest = digestOf(root, files, form);
  const cachePath = cacheDirectory && join(cacheDirectory, `images-${digest.slice(0, 16)}.bin`);
  const imageBytes = IMAGE_CHANNELS * form.size * form.size;
  if (cachePath) {
    const cached = await readSealed(cachePath);
    const isUsable = cached.kind === 'intact' && cached.header === digest;
    if (isUsable && cached.payload.length === files.length * imageBytes) return cached.payload;
  }
  const images = new Uint8Array(files.length * imageBytes);
  await decodeImages(
    files.map(({ path }) => path),
    () => form,
    images,
    { signal, onDone: (done) => onProgress?.(done, files.length) },
  );
  if (cachePath) await writeSealed(cachePath, digest, [images]);
  return images;
}

/** The three splits that a network is trained and judged with. */
function divide(
  splits: ReadonlyMap<Part, Split>,
  seed: number,
  exampleBytes: number,
): Pick<Dataset, 'train' | 'validation' | 'test'> {
  const random = seededRandom(seed).fork('image split');
  const draw = (source: Split, shares: readonly number[]) => {
    const held = shares.map((share) => Math.max(1, Math.round(source.count * share)));
    const rest = source.count - held.reduce((sum, count) => sum + count, 0);
    if (rest < 1) throw corrupt(`${source.count} images are too few to hold some out. Give more of them`);
    return stratifiedSubsets(source.labels, [rest, ...held], random).map((indices) =>
      subset(source, indices, exampleBytes),
    );
  };
  const all = splits.get('all');
  if (all !== undefined) {
    const [train, validation, test] = draw(all, [IMAGES_VALIDATION_SHARE, IMAGES_TEST_SHARE]);
    return { train: train!, validation: validation!, test: test! };
  }
  const official = splits.get('train')!;
  const [given, test] = [splits.get('validation'), splits.get('test')];
  if (given !== undefined && test !== undefined) return { train: official, validation: given, test };
  if (given === undefined && test === undefined) {
    const [train, validation, held] = draw(official, [IMAGES_VALIDATION_SHARE, IMAGES_TEST_SHARE]);
    return { train: train!, validation: validation!, test: held! };
  }
  const [train, validation] = draw(official, [IMAGES_VALIDATION_SHARE]);
  return { train: train!, validation: validation!, test: (test ?? given)! };
}

function subset(source: Split, indices: Uint32Array, exampleBytes: number): Split {
  const files = source.files!;
  const digest = createHash('sha256').update(files.digest).update(indices).digest('hex');
  const paths = Array.from(indices, (index) => files.paths[index]!);
  const labels = Uint8Array.from(indices, (index) => source.labels[index]!);
  const images =
    source.images.length === 0 ? source.images : takeExamples(source, indices, exampleBytes).images;
  return { count: indices.length, images, labels, files: { ...files, paths, digest } };
}

async function normalizationOf(
  train: Split,
  shape: Dataset['shape'],
  { seed, signal }: LoadOptions,
): Promise<Dataset['normalization']> {
  if (train.images.length > 0) return measureNormalization(train, shape);
  const samples = Math.min(NORMALIZATION_SAMPLES, train.count);
  const [indices] = stratifiedSubsets(
    train.labels,
    [samples],
    seededRandom(seed).fork('image normalization'),
  );
  return measureNormalization(await loadExamples(train, indices!, shape, signal), shape);
}
