import { stat } from 'node:fs/promises';
import type sharpModule from 'sharp';
import { BonsaiError, messageOf, systemCodeOf } from '../../base/errors.ts';
import type { CropWindow } from './crop.ts';
import type { ImageFiles } from './data-module.ts';

/** Extensions of the formats that are read, in lower case. */
export const IMAGE_EXTENSIONS: readonly string[] = [
  ...['.jpg', '.jpeg', '.png', '.webp', '.gif', '.tif', '.tiff', '.avif'],
];

/** Red, green, blue. */
export const IMAGE_CHANNELS = 3;

/** Behind what is transparent. */
const BACKGROUND = { r: 255, g: 255, b: 255 };

/** How an image becomes its bytes: `crop` draws the window for an image of this aspect (width over height). */
export interface DecodeOptions extends Pick<ImageFiles, 'size' | 'resize'> {
  readonly crop?: (aspect: number) => CropWindow;
}

/**
 * An image file as 3 × size × size bytes, row-major. EXIF orientation is applied; grey, CMYK, 16-bit and palette
 * images become 8-bit sRGB, transparency becomes white, and of an animation the first frame is taken.
 * @throws BonsaiError `corrupt_dataset` naming the file and its problem, `missing_dataset` where it cannot be read,
 *   `unsupported` where the decoder is not installed
 */
export async function decodeImage(path: string, options: DecodeOptions): Promise<Uint8Array> {
  const sharp = await loadSharp();
  const { size, resize } = options;
  try {
    let pipeline = sharp(path, { failOn: 'error', autoOrient: true });
    if (options.crop !== undefined) {
      const { autoOrient: whole } = await pipeline.metadata();
      const window = options.crop(whole.width / whole.height);
      pipeline = pipeline.extract(pixelsOf(window, whole.width, whole.height));
      pipeline = pipeline.resize(size, size, { fit: 'fill' });
    } else {
      pipeline = pipeline.resize(resize, resize, { fit: 'cover' });
      const margin = Math.floor((resize - size) / 2);
      if (resize > size)
        pipeline = pipeline.extract({ left: margin, top: margin, width: size, height: size });
    }
    const { data, info } = await pipeline
      .flatten({ background: BACKGROUND })
      .toColourspace('srgb')
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true });
    return planar(data, info.channels, size * size);
  } catch (cause) {
    throw await decodingError(path, cause);
  }
}

/** Decodes of one thread at a time: the four threads of Node's pool, and one that waits. */
export const PARALLEL_DECODES = 5;

/**
 * Decodes several files into one array, in their order.
 * @param to where the bytes go: paths.length × 3 × size × size
 */
export async function decodeImages(
  paths: readonly string[],
  optionsOf: (index: number) => DecodeOptions,
  to: Uint8Array,
  hooks: { readonly signal?: AbortSignal; readonly onDone?: (done: number) => void } = {},
): Promise<void> {
  let next = 0;
  let done = 0;
  const work = async () => {
    while (next < paths.length) {
      hooks.signal?.throwIfAborted();
      const index = next++;
      const bytes = await decodeImage(paths[index]!, optionsOf(index));
      to.set(bytes, index * bytes.length);
      hooks.onDone?.(++done);
    }
  };
  try {
    await Promise.all(Array.from({ length: PARALLEL_DECODES }, work));
  } finally {
    next = paths.length; // After an error of one, the others stop as well.
  }
}

let loaded: Promise<typeof sharpModule> | undefined;

/** The decoder is loaded with the first image: it costs start-up time, and not every platform has it. */
function loadSharp(): Promise<typeof sharpModule> {
  loaded ??= import('sharp').then(
    ({ default: sharp }) => {
      // Images are decoded side by side; threads within each would only get in each other's way.
      sharp.concurrency(1);
      sharp.cache(false);
      return sharp;
    },
    (cause: unknown) => {
      throw new BonsaiError(
        'unsupported',
        `The image decoder, the npm package "sharp", does not load on this machine: ${messageOf(cause)}. ` +
          'Run `npm install sharp`, or use a data set that needs no decoding.',
        { cause },
      );
    },
  );
  return loaded;
}

/** Whole pixels, at least one, within the image. */
function pixelsOf(window: CropWindow, width: number, height: number) {
  const left = Math.min(Math.floor(window.x * width), width - 1);
  const top = Math.min(Math.floor(window.y * height), height - 1);
  return {
    left,
    top,
    width: Math.max(1, Math.min(Math.round(window.width * width), width - left)),
    height: Math.max(1, Math.min(Math.round(window.height * height), height - top)),
  };
}

/** Interleaved pixels → one plane for each of red, green and blue; a single channel is all three. */
function planar(data: Uint8Array, channels: number, area: number): Uint8Array {
  const planes = new Uint8Array(IMAGE_CHANNELS * area);
  for (let c = 0; c < IMAGE_CHANNELS; c++) {
    const from = Math.min(c, channels - 1);
    for (let i = 0; i < area; i++) planes[c * area + i] = data[i * channels + from]!;
  }
  return planes;
}

async function decodingError(path: string, cause: unknown): Promise<BonsaiError> {
  const status = await stat(path).catch((error: unknown) => error as Error);
  if (status instanceof Error) {
    return new BonsaiError('missing_dataset', `Cannot read ${path}: ${messageOf(status)}.`, { cause });
  }
  if (systemCodeOf(cause) === 'EACCES') {
    return new BonsaiError('missing_dataset', `Cannot read ${path}: ${messageOf(cause)}.`, { cause });
  }
  const problem =
    status.size === 0
      ? 'the file is empty'
      : `it does not decode (${messageOf(cause).split('\n')[0]}): damaged, cut short or no image at all`;
  return new BonsaiError(
    'corrupt_dataset',
    `${path}: ${problem}. Expected an image (${IMAGE_EXTENSIONS.join(', ')}); repair or remove the file.`,
    { cause },
  );
}
