import { rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { BonsaiError, messageOf } from '../../base/errors.ts';
import { extractTarGz, extractZip } from './archive.ts';
import { type DownloadOptions, downloadFile, type FileDigest } from './download-file.ts';

/** A data set that can be downloaded: single files, or an archive with one folder in it. */
export interface DownloadableSet {
  readonly title: string;
  readonly files: readonly DownloadableFile[];
  readonly archive?: { readonly kind: 'tar.gz' | 'zip'; readonly folder: string };
  /** How `--data` names it once it is in a folder. */
  readonly spec: 'mnist' | 'cifar10' | 'cifar100' | 'images';
}

export interface DownloadableFile {
  readonly name: string;
  /** Folders on the web that hold the file by its name. */
  readonly places: readonly string[];
  readonly digest?: FileDigest;
}

const MNIST_PLACES = [
  'https://ossci-datasets.s3.amazonaws.com/mnist/',
  'https://storage.googleapis.com/cvdf-datasets/mnist/',
] as const;
const CIFAR_PLACES = ['https://www.cs.toronto.edu/~kriz/'] as const;

/** The digests of MNIST are those of the unzipped files, which are the same at every mirror. */
export const DOWNLOADS = {
  mnist: {
    title: 'MNIST, 60,000 + 10,000 digits (LeCun, Cortes, Burges)',
    files: [
      mnistFile('train-images-idx3-ubyte.gz', '6bbc9ace898e44ae57da46a324031adb'),
      mnistFile('train-labels-idx1-ubyte.gz', 'a25bea736e30d166cdddb491f175f624'),
      mnistFile('t10k-images-idx3-ubyte.gz', '2646ac647ad5339dbf082846283269ea'),
      mnistFile('t10k-labels-idx1-ubyte.gz', '27ae3e4e09519cfbb04c329615203637'),
    ],
    spec: 'mnist',
  },
  cifar10: {
    title: 'CIFAR-10, 50,000 + 10,000 images of 10 classes (Krizhevsky 2009)',
    files: [cifarFile('cifar-10-binary.tar.gz', 'c32a1d4ab5d03f1284b67883e8d87530')],
    archive: { kind: 'tar.gz', folder: 'cifar-10-batches-bin' },
    spec: 'cifar10',
  },
  cifar100: {
    title: 'CIFAR-100, 50,000 + 10,000 images of 100 classes (Krizhevsky 2009)',
    files: [cifarFile('cifar-100-binary.tar.gz', '03b5dce01913d631647c71ecec9e9cb8')],
    archive: { kind: 'tar.gz', folder: 'cifar-100-binary' },
    spec: 'cifar100',
  },
  hymenoptera: {
    title: 'hymenoptera, about 400 photos of ants and bees (a part of ImageNet)',
    // Nobody publishes a digest; the archive's own CRC-32 of each photo is checked.
    files: [{ name: 'hymenoptera_data.zip', places: ['https://download.pytorch.org/tutorial/'] }],
    archive: { kind: 'zip', folder: 'hymenoptera_data' },
    spec: 'images',
  },
} as const satisfies Record<string, DownloadableSet>;

export type DownloadName = keyof typeof DOWNLOADS;

function mnistFile(name: string, hex: string): DownloadableFile {
  return { name, places: MNIST_PLACES, digest: { algorithm: 'md5', hex, of: 'gunzipped' } };
}

function cifarFile(name: string, hex: string): DownloadableFile {
  return { name, places: CIFAR_PLACES, digest: { algorithm: 'md5', hex } };
}

export interface DownloadSetOptions extends Omit<DownloadOptions, 'onProgress'> {
  /** Folders on the web that are tried before the official ones; digests hold for them as well. */
  readonly mirrors?: readonly string[];
  readonly onProgress?: (file: string, bytes: number, total: number | undefined) => void;
}

export interface DownloadedSet {
  /** What to give as `--data`. */
  readonly data: string;
  readonly folder: string;
  /** SHA-256 of each file as it came; none of an archive that was unpacked before. */
  readonly sha256: Readonly<Record<string, string>>;
}

/**
 * Downloads a data set into a folder and unpacks it there. What is already there is kept; a run that was interrupted
 * is gone on with. An archive is removed once it is unpacked, and its folder appears at once or not at all.
 * @throws BonsaiError as `downloadFile` and `extractTarGz`
 */
export async function downloadSet(
  set: DownloadableSet,
  out: string,
  options: DownloadSetOptions = {},
): Promise<DownloadedSet> {
  const folder = set.archive === undefined ? out : join(out, set.archive.folder);
  const data = `${set.spec}:${folder}`;
  const sha256: Record<string, string> = {};
  if (set.archive !== undefined && (await stat(folder).catch(() => undefined))?.isDirectory()) {
    options.onNotice?.(`${folder} is there already. Remove it to download it again.`);
    return { data, folder, sha256 };
  }
  for (const { name, places, digest } of set.files) {
    const urls = [...(options.mirrors ?? []), ...places].map((place) => new URL(name, withSlash(place)).href);
    const path = join(out, name);
    const { onProgress, ...rest } = options;
    const done = await downloadFile(
      { urls, path, digest },
      { ...rest, onProgress: (bytes, total) => onProgress?.(name, bytes, total) },
    );
    sha256[name] = done.sha256;
    if (set.archive !== undefined) await unpack(path, set.archive, out, options.signal);
  }
  return { data, folder, sha256 };
}

/** The last step of a path is a file unless a slash ends it. */
function withSlash(place: string): string {
  return place.endsWith('/') ? place : `${place}/`;
}

/** A stray file of the hymenoptera archive: the picture that a web page showed where a photo was gone. */
const NO_PHOTO = 'imageNotFound.gif';
const LEFT_OUT = new RegExp(`(^|/)(__MACOSX|\\.[^/]+|Thumbs\\.db|${NO_PHOTO.replace('.', '\\.')})(/|$)`);

async function unpack(
  path: string,
  archive: NonNullable<DownloadableSet['archive']>,
  out: string,
  signal?: AbortSignal,
): Promise<void> {
  const temporary = join(out, `.${archive.folder}.unpacking`);
  const extract = archive.kind === 'zip' ? extractZip : extractTarGz;
  try {
    await rm(temporary, { recursive: true, force: true });
    await extract(path, temporary, { signal, skip: (name) => LEFT_OUT.test(name.replace(/^\.\//, '')) });
    const unpacked = join(temporary, archive.folder);
    if (!(await stat(unpacked).catch(() => undefined))?.isDirectory()) {
      throw new BonsaiError(
        'corrupt_dataset',
        `${path} holds no folder ${archive.folder}. Remove it and try again.`,
      );
    }
    await rename(unpacked, join(out, archive.folder)).catch((cause: unknown) => {
      throw new BonsaiError('unwritable_path', `Cannot write ${unpacked}: ${messageOf(cause)}`, { cause });
    });
    await rm(path, { force: true });
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}
