import { InvalidArgumentError } from '../../base/errors.ts';
import type { Random } from '../../base/random.ts';
import { type Augmentation, createAugmenter } from './augmentation.ts';
import type { Dataset, Split } from './data-module.ts';

export interface Batch {
  /** Pixels in [0, 1], row-major in `shape`. */
  readonly images: Float32Array;
  /** Class index of each example. */
  readonly labels: Uint8Array;
  readonly shape: readonly [count: number, channels: number, height: number, width: number];
}

export interface BatchOptions {
  /** Share of the full side length, 1 / integer: 0.5 averages each 2×2 pixels into one. Default 1. */
  readonly resolution?: number;
  /** Varies each image at random, at its full resolution. Default off. */
  readonly augmentation?: Augmentation & { readonly random: Random };
}

/**
 * Chosen examples of a split as a network's input.
 * @throws InvalidArgumentError for an index outside the split, a resolution that does not divide the image, or a
 * cutout that does not fit into it
 */
export function batchOf(
  dataset: Pick<Dataset, 'shape'>,
  split: Split,
  indices: ArrayLike<number>,
  options: BatchOptions = {},
): Batch {
  const [channels, height, width] = dataset.shape;
  const divisor = divisorOf(options.resolution ?? 1, height, width);
  const [outHeight, outWidth] = [height / divisor, width / divisor];
  const area = height * width;
  const outArea = outHeight * outWidth;
  const images = new Float32Array(indices.length * channels * outArea);
  const labels = new Uint8Array(indices.length);
  const { augmentation } = options;
  const augmenter = augmentation && createAugmenter(augmentation, height, width);
  for (let n = 0; n < indices.length; n++) {
    const index = indices[n]!;
    const label = split.labels[index];
    if (label === undefined || index >= split.count) {
      throw new InvalidArgumentError(`Example ${index} was asked for; the split has ${split.count}.`);
    }
    labels[n] = label;
    if (augmentation) augmenter!.next(augmentation.random);
    for (let c = 0; c < channels; c++) {
      const from = (index * channels + c) * area;
      const to = (n * channels + c) * outArea;
      if (augmenter === undefined) average(split.images, from, width, divisor, images, to, outArea);
      else average(augmenter.apply(split.images, from), 0, width, divisor, images, to, outArea);
    }
  }
  return { images, labels, shape: [indices.length, channels, outHeight, outWidth] };
}

/** How many pixels along each axis become one. @throws InvalidArgumentError as `batchOf` */
export function divisorOf(resolution: number, height: number, width: number): number {
  const divisor = Math.round(1 / resolution);
  // The tolerance lets 0.333333 stand for a third.
  if (!(divisor >= 1) || Math.abs(divisor * resolution - 1) > 1e-3 || height % divisor || width % divisor) {
    throw new InvalidArgumentError(
      `The resolution ${resolution} should be 1/n with n dividing both sides of a ${height}×${width} image.`,
    );
  }
  return divisor;
}

/** Each divisor × divisor pixels of a plane of width `width`, on the scale 0..255, become one on the scale 0..1. */
function average(
  plane: Uint8Array | Float32Array,
  from: number,
  width: number,
  divisor: number,
  images: Float32Array,
  to: number,
  outArea: number,
): void {
  if (divisor === 1) {
    for (let i = 0; i < outArea; i++) images[to + i] = plane[from + i]! / 255;
    return;
  }
  const scale = 1 / (255 * divisor * divisor);
  const outWidth = width / divisor;
  for (let i = 0; i < outArea; i++) {
    const x = i % outWidth;
    const first = from + ((i - x) / outWidth) * divisor * width + x * divisor;
    let sum = 0;
    for (let dy = 0; dy < divisor; dy++) {
      const row = first + dy * width;
      for (let dx = 0; dx < divisor; dx++) sum += plane[row + dx]!;
    }
    images[to + i] = sum * scale;
  }
}
