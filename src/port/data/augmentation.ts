import { InvalidArgumentError } from '../../base/errors.ts';
import type { Random } from '../../base/random.ts';
import { type CropWindow, drawCrop } from './crop.ts';

/**
 * How images are varied at random while a network learns, so that few of them go a long way. Each part is off where
 * it is absent or 0. Lengths are pixels of the full resolution; what moves in from outside is black. An image is
 * cropped, flipped, scaled, sheared, rotated and shifted, in this order and about its centre, and bent by `elastic`,
 * all in one sampling of its pixels; then its brightness and contrast change, and `cutoutPixels` comes last.
 */
export interface Augmentation {
  /**
   * Cuts out a rectangle with a share of the area in [`cropAreaRatio`, 1] and an aspect from 3:4 to 4:3, and stretches
   * it to the full size (Szegedy et al. 2015). Images that are read from files are cropped there, before they are
   * scaled down (see `openExamples`).
   */
  readonly cropAreaRatio?: number;
  /**
   * Moves by a whole number of pixels in ±`shiftPixels`, along each axis. This is the same as to pad each side by
   * `shiftPixels` black pixels and to cut out a random window of the full size (He et al. 2016, section 4.2).
   */
  readonly shiftPixels?: number;
  /** Rotates by an angle in ±`rotateDegrees`. */
  readonly rotateDegrees?: number;
  /** Scales each axis by a factor of its own in [1 - `scaleRatio`, 1 + `scaleRatio`]. */
  readonly scaleRatio?: number;
  /** Moves each row sideways by a share in ±`shearRatio` of its distance from the middle. */
  readonly shearRatio?: number;
  readonly elastic?: Elastic;
  /** Mirrors every other image, left to right. Digits and letters do not stand it. */
  readonly flip?: boolean;
  /** Multiplies all channels by one factor in [1 - `brightnessRatio`, 1 + `brightnessRatio`]. */
  readonly brightnessRatio?: number;
  /** Moves values away from middle grey, or towards it, by one factor in [1 - `contrastRatio`, 1 + `contrastRatio`]. */
  readonly contrastRatio?: number;
  /** Blackens a square of this side about a random pixel; near a border only a part of it (DeVries and Taylor 2017). */
  readonly cutoutPixels?: number;
}

/**
 * Bends an image along a smooth random field of displacements, as Simard et al. 2003 (section 2) do. They draw a
 * displacement for each pixel and smooth with a Gaussian; here the draws are the knots of a uniform cubic B-spline,
 * whose bump is a Gaussian to within a few per cent, and few draws and sums give the same field.
 */
export interface Elastic {
  /** Root mean square of the displacement along each axis. Simard et al.'s α = 34 and σ = 4 make it about 1.4. */
  readonly strengthPixels: number;
  /** Standard deviation of the Gaussian that the smoothing stands for. */
  readonly smoothnessPixels: number;
}

/** Half a turn either way reaches every angle. */
export const MAX_ROTATE_DEGREES = 180;
/** A tenth of the size is a few pixels of most images; a factor of 0 would have no inverse. */
export const MAX_SCALE_RATIO = 0.9;
/** Upright lines lean by up to 45°. */
export const MAX_SHEAR_RATIO = 1;
/** Below a pixel the displacements of neighbours are unrelated: noise, not bending. */
export const MIN_SMOOTHNESS_PIXELS = 1;
/**
 * Strength over smoothness. The field's slope has the root mean square ratio / √2; where the slope is below -1 the
 * image folds over itself. At 0.5 that is beyond 2.8 standard deviations: few places in few images.
 */
export const MAX_ELASTIC_RATIO = 0.5;
/** An image without any brightness or contrast says nothing. */
export const MAX_COLOUR_RATIO = 0.9;
/** Either side of a mirrored thing is as likely. */
const FLIP_PROBABILITY = 0.5;

/** @throws InvalidArgumentError naming the field, its value and what it should be */
export function checkAugmentation(augmentation: Augmentation): void {
  const need = (isRight: boolean, field: string, value: unknown, expected: string) => {
    if (!isRight) {
      throw new InvalidArgumentError(`Augmentation: ${field} is ${String(value)}, expected ${expected}.`);
    }
  };
  for (const field of ['shiftPixels', 'cutoutPixels'] as const) {
    const value = augmentation[field] ?? 0;
    need(Number.isInteger(value) && value >= 0, field, value, 'an integer of at least 0');
  }
  for (const [field, max] of RANGES) {
    const value = augmentation[field] ?? 0;
    need(value >= 0 && value <= max, field, value, `a number from 0 to ${max}`);
  }
  if (augmentation.elastic === undefined) return;
  const { strengthPixels, smoothnessPixels } = augmentation.elastic;
  need(
    smoothnessPixels >= MIN_SMOOTHNESS_PIXELS && Number.isFinite(smoothnessPixels),
    'elastic.smoothnessPixels',
    smoothnessPixels,
    `a number of at least ${MIN_SMOOTHNESS_PIXELS}`,
  );
  need(
    strengthPixels >= 0 && strengthPixels <= MAX_ELASTIC_RATIO * smoothnessPixels,
    'elastic.strengthPixels',
    strengthPixels,
    `a number from 0 to ${MAX_ELASTIC_RATIO * smoothnessPixels} (${MAX_ELASTIC_RATIO} times the smoothness)`,
  );
}

const RANGES = [
  ['cropAreaRatio', 1],
  ['brightnessRatio', MAX_COLOUR_RATIO],
  ['contrastRatio', MAX_COLOUR_RATIO],
  ['rotateDegrees', MAX_ROTATE_DEGREES],
  ['scaleRatio', MAX_SCALE_RATIO],
  ['shearRatio', MAX_SHEAR_RATIO],
] as const;

export interface Augmenter {
  /** Draws the next image's variation: for the same augmentation and size the same number of draws each time. */
  next(random: Random): void;
  /** The plane of bytes at `from`, varied as drawn, on the scale 0..255. The array is written anew by the next call. */
  apply(bytes: Uint8Array, from: number): Float32Array;
}

/**
 * An augmenter of planes of one size; all that it needs is allocated here. Every channel of an image is to be applied
 * after the same `next`.
 * @throws InvalidArgumentError for a cutout that does not fit into the image
 */
export function createAugmenter(augmentation: Augmentation, height: number, width: number): Augmenter {
  const { shiftPixels = 0, rotateDegrees = 0, scaleRatio = 0, shearRatio = 0, flip = false } = augmentation;
  const { cropAreaRatio = 0, brightnessRatio = 0, contrastRatio = 0, cutoutPixels = 0 } = augmentation;
  if (cutoutPixels >= Math.min(height, width)) {
    throw new InvalidArgumentError(
      `A cutout of ${cutoutPixels} pixels should be smaller than both sides of a ${height}×${width} image.`,
    );
  }
  const points = samplePoints(height, width);
  const plane = new Float32Array(height * width);
  const map = { ...IDENTITY };
  const bend =
    augmentation.elastic !== undefined && augmentation.elastic.strengthPixels > 0
      ? createElasticField(augmentation.elastic, height, width)
      : undefined;
  const cut = { x: 0, y: 0 };
  const colour = { gain: 1, offset: 0 };
  const changesColour = brightnessRatio > 0 || contrastRatio > 0;
  // Whole pixels are only copied, which is several times as fast and gives the same bits as sampling at their centres.
  const onlyMoves =
    rotateDegrees === 0 && scaleRatio === 0 && shearRatio === 0 && cropAreaRatio === 0 && !bend;
  const drawMirror = (random: Random) => (flip && random.uniform() < FLIP_PROBABILITY ? -1 : 1);
  const drawPoints = (random: Random) => {
    const angle = rotateDegrees === 0 ? 0 : (around(0, rotateDegrees, random) * Math.PI) / 180;
    const scaleX = scaleRatio === 0 ? 1 : around(1, scaleRatio, random);
    const scaleY = scaleRatio === 0 ? 1 : around(1, scaleRatio, random);
    const shear = shearRatio === 0 ? 0 : around(0, shearRatio, random);
    const mirror = drawMirror(random);
    // The inverse of rotation · shear · scale, from where a pixel goes to where it comes from.
    const cos = Math.cos(angle);
    const sin = Math.sin(angle);
    map.xx = (mirror * (cos + shear * sin)) / scaleX;
    map.xy = (mirror * (sin - shear * cos)) / scaleX;
    map.yx = -sin / scaleY;
    map.yy = cos / scaleY;
    placePoints(points, map);
    bend?.add(random, points);
    if (cropAreaRatio > 0) cropPoints(points, drawCrop(cropAreaRatio, width / height, random));
  };
  const drawColour = (random: Random) => {
    const brightness = brightnessRatio === 0 ? 1 : around(1, brightnessRatio, random);
    const contrast = contrastRatio === 0 ? 1 : around(1, contrastRatio, random);
    colour.gain = brightness * contrast;
    colour.offset = brightness * (1 - contrast) * MIDDLE_GREY;
  };
  return {
    next(random) {
      map.down = shiftPixels === 0 ? 0 : random.integer(2 * shiftPixels + 1) - shiftPixels;
      map.right = shiftPixels === 0 ? 0 : random.integer(2 * shiftPixels + 1) - shiftPixels;
      if (onlyMoves) map.xx = drawMirror(random);
      else drawPoints(random);
      if (changesColour) drawColour(random);
      if (cutoutPixels > 0) {
        cut.x = random.integer(width) - (cutoutPixels >> 1);
        cut.y = random.integer(height) - (cutoutPixels >> 1);
      }
    },
    apply(bytes, from) {
      if (onlyMoves) movePlane(bytes, from, height, width, map, plane);
      else samplePlane(bytes, from, points, plane);
      if (changesColour) recolour(plane, colour);
      for (let y = Math.max(0, cut.y); y < Math.min(height, cut.y + cutoutPixels); y++) {
        for (let x = Math.max(0, cut.x); x < Math.min(width, cut.x + cutoutPixels); x++) {
          plane[y * width + x] = 0;
        }
      }
      return plane;
    },
  };
}

/** Uniform in [middle - reach, middle + reach). */
function around(middle: number, reach: number, random: Random): number {
  return middle + reach * (2 * random.uniform() - 1);
}

/**
 * Where the pixel at (x, y) of the result comes from, both measured from the image's centre with y downwards:
 * (xx · u + xy · v, yx · u + yy · v) with (u, v) = (x - right, y - down).
 */
export interface AffineMap {
  readonly xx: number;
  readonly xy: number;
  readonly yx: number;
  readonly yy: number;
  readonly right: number;
  readonly down: number;
}

export const IDENTITY: AffineMap = { xx: 1, xy: 0, yx: 0, yy: 1, right: 0, down: 0 };

/** For each pixel of the result, row-major, the place in the image that it shows. (0, 0) is the first pixel's centre. */
export interface SamplePoints {
  readonly height: number;
  readonly width: number;
  readonly x: Float32Array;
  readonly y: Float32Array;
}

export function samplePoints(height: number, width: number): SamplePoints {
  return { height, width, x: new Float32Array(height * width), y: new Float32Array(height * width) };
}

/** Writes the points of an affine map. Those of the identity, of mirrors and of whole shifts are exact. */
export function placePoints(points: SamplePoints, map: AffineMap): void {
  const { height, width, x: toX, y: toY } = points;
  const { xx, xy, yx, yy, right, down } = map;
  const centreX = (width - 1) / 2;
  const centreY = (height - 1) / 2;
  for (let y = 0, i = 0; y < height; y++) {
    const v = y - centreY - down;
    const rowX = centreX + xy * v;
    const rowY = centreY + yy * v;
    for (let x = 0; x < width; x++, i++) {
      const u = x - centreX - right;
      toX[i] = rowX + xx * u;
      toY[i] = rowY + yx * u;
    }
  }
}

/** Points within the window instead of the whole image; the borders of one go to the borders of the other. */
export function cropPoints({ height, width, x: toX, y: toY }: SamplePoints, window: CropWindow): void {
  // The image reaches from half a pixel before the first centre to half a pixel behind the last one.
  const left = window.x * width - 0.5;
  const top = window.y * height - 0.5;
  for (let i = 0; i < toX.length; i++) {
    // Clamped to the centres of the outermost pixels, as far as only the enlargement leads beyond them.
    const x = toX[i]!;
    const y = toY[i]!;
    toX[i] = x < 0 || x > width - 1 ? x : within(left + window.width * (x + 0.5), width - 1);
    toY[i] = y < 0 || y > height - 1 ? y : within(top + window.height * (y + 0.5), height - 1);
  }
}

function within(value: number, highest: number): number {
  return Math.min(Math.max(value, 0), highest);
}

const MIDDLE_GREY = 127.5;

function recolour(plane: Float32Array, { gain, offset }: { gain: number; offset: number }): void {
  for (let i = 0; i < plane.length; i++) plane[i] = within(gain * plane[i]! + offset, 255);
}

/** What sampling gives for a map that shifts by whole pixels and mirrors where `xx` is -1. */
function movePlane(
  bytes: Uint8Array,
  from: number,
  height: number,
  width: number,
  { xx, down, right }: Pick<AffineMap, 'xx' | 'down' | 'right'>,
  to: Float32Array,
): void {
  to.fill(0);
  const firstX = Math.max(0, right);
  const lastX = Math.min(width, width + right);
  for (let y = Math.max(0, down); y < Math.min(height, height + down); y++) {
    const row = from + (y - down) * width;
    const at = y * width;
    if (xx < 0) {
      const end = row + width - 1 + right;
      for (let x = firstX; x < lastX; x++) to[at + x] = bytes[end - x]!;
    } else {
      const start = row - right;
      for (let x = firstX; x < lastX; x++) to[at + x] = bytes[start + x]!;
    }
  }
}

/** Samples the plane of bytes at `from` at the points, bilinearly; outside it is black. */
export function samplePlane(bytes: Uint8Array, from: number, points: SamplePoints, to: Float32Array): void {
  const { height, width, x: pointX, y: pointY } = points;
  for (let i = 0; i < to.length; i++) {
    const x = pointX[i]!;
    const y = pointY[i]!;
    if (!(x > -1 && y > -1 && x < width && y < height)) {
      to[i] = 0;
      continue;
    }
    const x0 = Math.floor(x) | 0;
    const y0 = Math.floor(y) | 0;
    const fx = x - x0;
    const fy = y - y0;
    const at = from + y0 * width + x0;
    // Most pixels have all four neighbours.
    if (x0 >= 0 && y0 >= 0 && x0 < width - 1 && y0 < height - 1) {
      const a = bytes[at]!;
      const c = bytes[at + width]!;
      const top = a + fx * (bytes[at + 1]! - a);
      to[i] = top + fy * (c + fx * (bytes[at + width + 1]! - c) - top);
      continue;
    }
    const hasLeft = x0 >= 0;
    const hasRight = x0 < width - 1;
    const hasTop = y0 >= 0;
    const hasBottom = y0 < height - 1;
    const a = hasTop && hasLeft ? bytes[at]! : 0;
    const b = hasTop && hasRight ? bytes[at + 1]! : 0;
    const c = hasBottom && hasLeft ? bytes[at + width]! : 0;
    const d = hasBottom && hasRight ? bytes[at + width + 1]! : 0;
    // With fx = fy = 0 this is exactly a.
    const top = a + fx * (b - a);
    to[i] = top + fy * (c + fx * (d - c) - top);
  }
}

/** The cubic B-spline's bump has the variance spacing² / 3 (it is four boxes of width 1 convolved, 1/12 each). */
const SPACING_PER_SMOOTHNESS = Math.sqrt(3);
/**
 * A sum of knots, each uniform in ±1 with the variance 1/3, has the variance 1/3 · (151/315)² on the average over all
 * places: 151/315 is the integral of the squared bump, once for each axis. Knots in ±KNOT_GAIN hence give
 * displacements with the root mean square 1. No displacement exceeds KNOT_GAIN, since the weights of a place sum to 1.
 */
export const KNOT_GAIN = (Math.sqrt(3) * 315) / 151;

export interface ElasticField {
  /** Draws a field and adds its displacements to the points. */
  add(random: Random, points: SamplePoints): void;
}

export function createElasticField(elastic: Elastic, height: number, width: number): ElasticField {
  const spacing = elastic.smoothnessPixels * SPACING_PER_SMOOTHNESS;
  const amplitude = elastic.strengthPixels * KNOT_GAIN;
  const across = splineAxis(width, spacing);
  const along = splineAxis(height, spacing);
  const knotsX = new Float64Array(along.knots * across.knots);
  const knotsY = new Float64Array(along.knots * across.knots);
  // The knots interpolated to one row of pixels.
  const rowX = new Float64Array(across.knots);
  const rowY = new Float64Array(across.knots);
  return {
    add(random, { x: toX, y: toY }) {
      for (let k = 0; k < knotsX.length; k++) {
        knotsX[k] = around(0, amplitude, random);
        knotsY[k] = around(0, amplitude, random);
      }
      for (let y = 0, i = 0; y < height; y++) {
        blendRows(knotsX, along, y, rowX);
        blendRows(knotsY, along, y, rowY);
        for (let x = 0; x < width; x++, i++) {
          const k = across.first[x]!;
          const w = 4 * x;
          const w0 = across.weights[w]!;
          const w1 = across.weights[w + 1]!;
          const w2 = across.weights[w + 2]!;
          const w3 = across.weights[w + 3]!;
          toX[i]! += w0 * rowX[k]! + w1 * rowX[k + 1]! + w2 * rowX[k + 2]! + w3 * rowX[k + 3]!;
          toY[i]! += w0 * rowY[k]! + w1 * rowY[k + 1]! + w2 * rowY[k + 2]! + w3 * rowY[k + 3]!;
        }
      }
    },
  };
}

interface SplineAxis {
  readonly knots: number;
  /** For each pixel the first of the four knots that reach it. */
  readonly first: Uint16Array;
  /** For each pixel the weights of its four knots; they sum to 1. */
  readonly weights: Float64Array;
}

function splineAxis(size: number, spacing: number): SplineAxis {
  const first = new Uint16Array(size);
  const weights = new Float64Array(4 * size);
  for (let i = 0; i < size; i++) {
    first[i] = Math.floor(i / spacing);
    const t = i / spacing - first[i]!;
    weights[4 * i] = (1 - t) ** 3 / 6;
    weights[4 * i + 1] = (3 * t ** 3 - 6 * t ** 2 + 4) / 6;
    weights[4 * i + 2] = (-3 * t ** 3 + 3 * t ** 2 + 3 * t + 1) / 6;
    weights[4 * i + 3] = t ** 3 / 6;
  }
  return { knots: first[size - 1]! + 4, first, weights };
}

function blendRows(knots: Float64Array, axis: SplineAxis, y: number, to: Float64Array): void {
  const columns = to.length;
  const at = axis.first[y]! * columns;
  const w = 4 * y;
  for (let k = 0; k < columns; k++) {
    to[k] =
      axis.weights[w]! * knots[at + k]! +
      axis.weights[w + 1]! * knots[at + columns + k]! +
      axis.weights[w + 2]! * knots[at + 2 * columns + k]! +
      axis.weights[w + 3]! * knots[at + 3 * columns + k]!;
  }
}
