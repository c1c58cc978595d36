import type { Random } from '../../base/random.ts';

/**
 * Which part of an image is cut out and stretched to the full size, in shares of its sides: (x, y) is the upper left
 * corner.
 */
export interface CropWindow {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Height over width of a crop, at most; the inverse is the least. From Szegedy et al. 2015, section 6. */
export const MAX_CROP_ASPECT = 4 / 3;

/**
 * A crop of a random share of the area in [minAreaRatio, 1], and of a random aspect, at a random place. What does not
 * fit is narrowed to the image. Always four draws. Source: Szegedy et al. 2015, "Going deeper with convolutions",
 * section 6.
 * @param aspect width over height of the image
 */
export function drawCrop(minAreaRatio: number, aspect: number, random: Random): CropWindow {
  const area = minAreaRatio + (1 - minAreaRatio) * random.uniform();
  // Uniform on a logarithmic scale, so that lying and standing crops are as likely.
  const shape = MAX_CROP_ASPECT ** (2 * random.uniform() - 1);
  const width = Math.min(1, Math.sqrt((area * shape) / aspect));
  const height = Math.min(1, Math.sqrt((area * aspect) / shape));
  return { x: (1 - width) * random.uniform(), y: (1 - height) * random.uniform(), width, height };
}
