import { InvalidArgumentError } from '../../base/errors.ts';
import type { Random } from '../../base/random.ts';
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
  /** Moves each image by up to ±`shiftPixels` full-resolution pixels along both axes; black moves in. Default off. */
  readonly shift?: { readonly shiftPixels: number; readonly random: Random };
}

/**
 * Chosen examples of a split as a network's input.
 * @throws InvalidArgumentError for an index outside the split or a resolution that does not divide the image
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
  const shifted = options.shift === undefined ? undefined : new Uint8Array(area);
  const scale = 1 / (255 * divisor * divisor);
  for (let n = 0; n < indices.length; n++) {
    const index = indices[n]!;
    const label = split.labels[index];
    if (label === undefined || index >= split.count) {
      throw new InvalidArgumentError(`Example ${index} was asked for; the split has ${split.count}.`);
    }
    labels[n] = label;
    const reach = options.shift?.shiftPixels ?? 0;
    const down = reach === 0 ? 0 : options.shift!.random.integer(2 * reach + 1) - reach;
    const right = reach === 0 ? 0 : options.shift!.random.integer(2 * reach + 1) - reach;
    for (let c = 0; c < channels; c++) {
      const from = (index * channels + c) * area;
      let plane = split.images.subarray(from, from + area);
      if (shifted !== undefined && (down !== 0 || right !== 0)) {
        move(plane, shifted, height, width, down, right);
        plane = shifted;
      }
      const to = (n * channels + c) * outArea;
      if (divisor === 1) {
        for (let i = 0; i < area; i++) images[to + i] = plane[i]! / 255;
      } else {
        for (let y = 0; y < outHeight; y++) {
          for (let x = 0; x < outWidth; x++) {
            let sum = 0;
            for (let dy = 0; dy < divisor; dy++) {
              const row = (y * divisor + dy) * width + x * divisor;
              for (let dx = 0; dx < divisor; dx++) sum += plane[row + dx]!;
            }
            images[to + y * outWidth + x] = sum * scale;
          }
        }
      }
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

function move(
  from: Uint8Array,
  to: Uint8Array,
  height: number,
  width: number,
  down: number,
  right: number,
): void {
  to.fill(0);
  const firstX = Math.max(0, right);
  const lastX = Math.min(width, width + right);
  for (let y = Math.max(0, down); y < Math.min(height, height + down); y++) {
    const row = (y - down) * width - right;
    for (let x = firstX; x < lastX; x++) to[y * width + x] = from[row + x]!;
  }
}
