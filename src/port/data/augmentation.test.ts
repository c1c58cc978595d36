import { describe, expect, it } from 'vitest';
import { type Random, seededRandom } from '../../base/random.ts';
import {
  type AffineMap,
  type Augmentation,
  checkAugmentation,
  createAugmenter,
  createElasticField,
  cropPoints,
  IDENTITY,
  KNOT_GAIN,
  placePoints,
  samplePlane,
  samplePoints,
} from './augmentation.ts';

const HEIGHT = 9;
const WIDTH = 12;
const noise = seededRandom(1);
/** Two planes of noise. */
const bytes = Uint8Array.from({ length: 2 * HEIGHT * WIDTH }, () => noise.integer(256));
const everything: Augmentation = {
  shiftPixels: 2,
  rotateDegrees: 20,
  scaleRatio: 0.2,
  shearRatio: 0.2,
  elastic: { strengthPixels: 1, smoothnessPixels: 3 },
  flip: true,
  cropAreaRatio: 0.5,
  brightnessRatio: 0.2,
  contrastRatio: 0.2,
  cutoutPixels: 3,
};

/** The second plane, varied. */
function vary(augmentation: Augmentation, random: Random): Float32Array {
  const augmenter = createAugmenter(augmentation, HEIGHT, WIDTH);
  augmenter.next(random);
  return augmenter.apply(bytes, HEIGHT * WIDTH);
}

function sample(image: Uint8Array, height: number, width: number, map: AffineMap): number[] {
  const points = samplePoints(height, width);
  placePoints(points, map);
  const to = new Float32Array(height * width);
  samplePlane(image, 0, points, to);
  return [...to];
}

/** Counts the draws that go through it. */
function counted(random: Random): { random: Random; draws: () => number } {
  let draws = 0;
  const count = <A extends unknown[], R>(draw: (...input: A) => R) => {
    return (...input: A) => {
      draws++;
      return draw(...input);
    };
  };
  return {
    random: { ...random, uniform: count(random.uniform), integer: count(random.integer) },
    draws: () => draws,
  };
}

describe('sampling', () => {
  it('gives the image itself, bit by bit, for the identity', () => {
    expect(sample(bytes, 2 * HEIGHT, WIDTH, IDENTITY)).toEqual([...bytes]);
  });

  it('rotates about the centre', () => {
    // Clockwise by 90°, on a screen whose y points down: a place (u, v) comes from (v, -u).
    const quarter = { ...IDENTITY, xx: 0, xy: 1, yx: -1, yy: 0 };
    const image = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9);
    expect(sample(image, 3, 3, quarter)).toEqual([7, 4, 1, 8, 5, 2, 9, 6, 3]);
  });

  it('shifts after it has scaled, mixes neighbours by their distance, and takes the outside for black', () => {
    const image = Uint8Array.of(0, 0, 0, 100, 200, 50, 0, 0, 0);
    // Half a pixel to the right: each pixel is the mean of itself and its left neighbour.
    expect(sample(image, 3, 3, { ...IDENTITY, right: 0.5 })).toEqual([0, 0, 0, 50, 150, 125, 0, 0, 0]);
    // A quarter of a pixel downwards.
    expect(sample(image, 3, 3, { ...IDENTITY, down: 0.25 })).toEqual([0, 0, 0, 75, 150, 37.5, 25, 50, 12.5]);
    // Twice as wide, then to the right by one: the columns show x = 0, 0.5 and 1 of the middle row.
    expect(sample(image, 3, 3, { ...IDENTITY, xx: 0.5, right: 1 }).slice(3, 6)).toEqual([100, 150, 200]);
    expect(sample(image, 3, 3, { ...IDENTITY, right: 9 })).toEqual(new Array(9).fill(0));
  });
});

describe('augmentation', () => {
  it('that allows no variation gives the image itself, bit by bit, and draws nothing', () => {
    const none = { ...everything, shiftPixels: 0, rotateDegrees: 0, scaleRatio: 0, shearRatio: 0 };
    const { random, draws } = counted(seededRandom(1));
    const still = { elastic: { strengthPixels: 0, smoothnessPixels: 4 }, flip: false, cutoutPixels: 0 };
    const plain = { cropAreaRatio: 0, brightnessRatio: 0, contrastRatio: 0 };
    expect([...vary({ ...none, ...still, ...plain }, random)]).toEqual([...bytes.subarray(HEIGHT * WIDTH)]);
    expect(draws()).toBe(0);
  });

  it('only shifts by the drawn numbers of pixels, down before right, sampled or not', () => {
    for (let seed = 0; seed < 20; seed++) {
      const draws = seededRandom(seed);
      const [down, right] = [draws.integer(7) - 3, draws.integer(7) - 3];
      const shifted = Array.from({ length: HEIGHT * WIDTH }, (_, i) => {
        const [y, x] = [Math.floor(i / WIDTH) - down, (i % WIDTH) - right];
        const isInside = y >= 0 && x >= 0 && y < HEIGHT && x < WIDTH;
        return isInside ? bytes[HEIGHT * WIDTH + y * WIDTH + x] : 0;
      });
      expect([...vary({ shiftPixels: 3 }, seededRandom(seed))]).toEqual(shifted);
      // An angle too small for a float's digits makes every pixel go the long way.
      expect([...vary({ shiftPixels: 3, rotateDegrees: 1e-9 }, seededRandom(seed))]).toEqual(shifted);
    }
  });

  it('mirrors about every other image exactly', () => {
    const plain = [...bytes.subarray(HEIGHT * WIDTH)];
    const mirrored = plain.map((_, i) => plain[i - (i % WIDTH) + WIDTH - 1 - (i % WIDTH)]);
    const random = seededRandom(3);
    let mirrors = 0;
    for (let n = 0; n < 100; n++) {
      const varied = [...vary({ flip: true }, random)];
      const isMirrored = varied[0] === mirrored[0];
      expect(varied).toEqual(isMirrored ? mirrored : plain);
      if (isMirrored) mirrors++;
    }
    expect(mirrors).toBeGreaterThan(35);
    expect(mirrors).toBeLessThan(65);
  });

  it('blackens a square about any pixel, part of which may lie outside, and nothing else', () => {
    const white = new Uint8Array(HEIGHT * WIDTH).fill(255);
    const augmenter = createAugmenter({ cutoutPixels: 4 }, HEIGHT, WIDTH);
    const random = seededRandom(4);
    const places = new Set<string>();
    for (let n = 0; n < 2000; n++) {
      augmenter.next(random);
      const varied = augmenter.apply(white, 0);
      const black = [...varied.keys()].filter((i) => varied[i] === 0);
      expect(varied.reduce((sum, value) => sum + value, 0)).toBe(255 * (HEIGHT * WIDTH - black.length));
      const [left, top] = [Math.min(...black.map((i) => i % WIDTH)), Math.floor(black[0]! / WIDTH)];
      const [right, bottom] = [Math.max(...black.map((i) => i % WIDTH)), Math.floor(black.at(-1)! / WIDTH)];
      expect((right - left + 1) * (bottom - top + 1)).toBe(black.length);
      expect(Math.max(right - left, bottom - top)).toBeLessThan(4);
      places.add(`${left} ${right} ${top} ${bottom}`);
    }
    expect(places.size).toBe(HEIGHT * WIDTH);
  });

  it.each([
    ['rotateDegrees', 90],
    ['scaleRatio', 0.5],
    ['shearRatio', 0.5],
  ] as const)('reaches both ends of %s and no further', (field, reach) => {
    // Planes that hold their columns' and their rows' numbers show where a pixel came from.
    const size = 81;
    const plane = (step: number) =>
      Uint8Array.from({ length: size * size }, (_, i) => Math.floor(i / step) % size);
    const [columns, rows] = [plane(1), plane(size)];
    const augmenter = createAugmenter({ [field]: reach }, size, size);
    const random = seededRandom(5);
    const seen: number[] = [];
    // 16 pixels from the centre (40, 40): to the right, or below for the shear, which leaves the middle row alone.
    const at = field === 'shearRatio' ? 56 * size + 40 : 40 * size + 56;
    for (let n = 0; n < 300; n++) {
      augmenter.next(random);
      const x = augmenter.apply(columns, 0)[at]! - 40;
      const y = augmenter.apply(rows, 0)[at]! - 40;
      if (field === 'rotateDegrees') {
        expect(Math.hypot(x, y)).toBeCloseTo(16, 3);
        seen.push((Math.atan2(-y, x) * 180) / Math.PI);
      } else {
        expect(y).toBeCloseTo(field === 'shearRatio' ? 16 : 0, 3);
        seen.push(field === 'shearRatio' ? -x / 16 : 16 / x - 1);
      }
    }
    expect(Math.max(...seen)).toBeLessThanOrEqual(reach + 1e-4);
    expect(Math.min(...seen)).toBeGreaterThanOrEqual(-reach - 1e-4);
    expect(Math.max(...seen)).toBeGreaterThan(0.95 * reach);
    expect(Math.min(...seen)).toBeLessThan(-0.95 * reach);
  });

  it('depends on the seed alone, and draws as often for each image', () => {
    const first = vary(everything, seededRandom(6));
    expect(vary(everything, seededRandom(6))).toEqual(first);
    expect(vary(everything, seededRandom(7))).not.toEqual(first);
    const { random, draws } = counted(seededRandom(8));
    const augmenter = createAugmenter(everything, HEIGHT, WIDTH);
    const perImage = Array.from({ length: 20 }, () => {
      const before = draws();
      augmenter.next(random);
      return draws() - before;
    });
    // 2 shifts, angle, 2 scales, shear, flip, 2 for the cutout, 4 for the crop, 2 for the colour; knots 3√3 = 5.2 pixels apart: (2 + 4) × (1 + 4), twice.
    expect(perImage).toEqual(new Array(20).fill(15 + 2 * 6 * 5));
  });
});

describe('elastic fields', () => {
  it('have the strength asked for, no mean, bounded displacements, and slopes that fit the smoothness', () => {
    const [size, strengthPixels, smoothnessPixels] = [28, 1.5, 4];
    const field = createElasticField({ strengthPixels, smoothnessPixels }, size, size);
    const random = seededRandom(9);
    const sums = { value: 0, square: 0, slope: 0, most: 0, count: 0, slopes: 0 };
    for (let n = 0; n < 300; n++) {
      const points = samplePoints(size, size);
      field.add(random, points);
      for (const axis of [points.x, points.y]) {
        for (let i = 0; i < axis.length; i++) {
          sums.value += axis[i]!;
          sums.square += axis[i]! ** 2;
          sums.most = Math.max(sums.most, Math.abs(axis[i]!));
          sums.count++;
          if (i % size === 0) continue;
          sums.slope += (axis[i]! - axis[i - 1]!) ** 2;
          sums.slopes++;
        }
      }
    }
    const strength = Math.sqrt(sums.square / sums.count);
    expect(strength).toBeGreaterThan(0.95 * strengthPixels);
    expect(strength).toBeLessThan(1.05 * strengthPixels);
    expect(Math.abs(sums.value / sums.count)).toBeLessThan(0.1);
    expect(sums.most).toBeLessThanOrEqual(KNOT_GAIN * strengthPixels);
    // A field smoothed by a Gaussian of standard deviation σ has slopes of strength / (σ √2).
    const slope = Math.sqrt(sums.slope / sums.slopes);
    const expected = strengthPixels / (smoothnessPixels * Math.SQRT2);
    expect(slope).toBeGreaterThan(0.9 * expected);
    expect(slope).toBeLessThan(1.1 * expected);
  });
});

describe('whole moves', () => {
  it('are what padding and a random window give', () => {
    const pad = 3;
    for (let seed = 1; seed <= 20; seed++) {
      const plane = vary({ shiftPixels: pad }, seededRandom(seed));
      // The same draws as the augmenter's, as the window's upper left corner in the padded image.
      const random = seededRandom(seed);
      const top = 2 * pad - random.integer(2 * pad + 1);
      const left = 2 * pad - random.integer(2 * pad + 1);
      const padded = new Float32Array((HEIGHT + 2 * pad) * (WIDTH + 2 * pad));
      for (let i = 0; i < HEIGHT * WIDTH; i++) {
        const at = (Math.floor(i / WIDTH) + pad) * (WIDTH + 2 * pad) + (i % WIDTH) + pad;
        padded[at] = bytes[HEIGHT * WIDTH + i]!;
      }
      const window = plane.map(
        (_, i) => padded[(Math.floor(i / WIDTH) + top) * (WIDTH + 2 * pad) + (i % WIDTH) + left]!,
      );
      expect(plane).toEqual(window);
    }
  });

  it('are copied to the same bits as sampling gives, mirrored or not', () => {
    const seen = new Set<number>();
    for (let seed = 1; seed <= 20; seed++) {
      const plane = vary({ shiftPixels: 2, flip: true }, seededRandom(seed));
      const random = seededRandom(seed);
      const [down, right] = [random.integer(5) - 2, random.integer(5) - 2];
      const xx = random.uniform() < 0.5 ? -1 : 1;
      seen.add(xx);
      const image = bytes.subarray(HEIGHT * WIDTH);
      expect([...plane]).toEqual(sample(image, HEIGHT, WIDTH, { ...IDENTITY, xx, down, right }));
    }
    expect(seen.size).toBe(2);
  });
});

describe('crops', () => {
  it('stretch a window to the full size: a ramp stays one, with the slope of the window', () => {
    const [height, width] = [4, 16];
    const ramp = Uint8Array.from({ length: height * width }, (_, i) => 10 * (i % width));
    const points = samplePoints(height, width);
    placePoints(points, IDENTITY);
    cropPoints(points, { x: 0.25, y: 0, width: 0.5, height: 1 });
    const to = new Float32Array(height * width);
    samplePlane(ramp, 0, points, to);
    // Pixel x shows the place 0.25 · 16 - 0.5 + 0.5 (x + 0.5) = 3.75 + 0.5 x.
    for (let x = 0; x < width; x++) expect(to[x]).toBeCloseTo(10 * (3.75 + 0.5 * x), 4);
  });

  it('show no black: what is drawn lies within the image', () => {
    const white = new Uint8Array(HEIGHT * WIDTH).fill(255);
    const augmenter = createAugmenter({ cropAreaRatio: 0.2 }, HEIGHT, WIDTH);
    const random = seededRandom(8);
    for (let i = 0; i < 50; i++) {
      augmenter.next(random);
      expect(Math.min(...augmenter.apply(white, 0))).toBeGreaterThan(254.9);
    }
  });
});

describe('colour', () => {
  it('changes by one line for all pixels and channels, and stays within the scale', () => {
    const augmenter = createAugmenter({ brightnessRatio: 0.4, contrastRatio: 0.3 }, HEIGHT, WIDTH);
    const random = seededRandom(4);
    const gains: number[] = [];
    for (let n = 0; n < 50; n++) {
      augmenter.next(random);
      const draws = [0, HEIGHT * WIDTH].map((from) => [...augmenter.apply(bytes, from)]);
      const mid = (value: number) => value > 0 && value < 255;
      const pairs = draws.flatMap((plane, p) =>
        plane.map((value, i) => [bytes[p * HEIGHT * WIDTH + i]!, value] as const),
      );
      expect(pairs.every(([, value]) => value >= 0 && value <= 255)).toBe(true);
      const inside = pairs.filter(([, value]) => mid(value));
      const [[x0, y0], [x1, y1]] = [inside[0]!, inside.find(([x]) => x !== inside[0]![0])!];
      const gain = (y1 - y0) / (x1 - x0);
      for (const [x, y] of inside) expect(y).toBeCloseTo(y0 + gain * (x - x0), 2);
      gains.push(gain);
    }
    expect(Math.min(...gains)).toBeGreaterThanOrEqual(0.6 * 0.7 - 1e-3);
    expect(Math.max(...gains)).toBeLessThanOrEqual(1.4 * 1.3 + 1e-3);
    expect(Math.max(...gains) - Math.min(...gains)).toBeGreaterThan(0.3);
  });
});

describe('what cannot be', () => {
  it.each([
    [{ shiftPixels: -1 }, /shiftPixels is -1, expected an integer of at least 0/],
    [{ cutoutPixels: 1.5 }, /cutoutPixels is 1\.5, expected an integer/],
    [{ rotateDegrees: 181 }, /rotateDegrees is 181, expected a number from 0 to 180/],
    [{ scaleRatio: 1 }, /scaleRatio is 1, expected a number from 0 to 0\.9/],
    [{ shearRatio: Number.NaN }, /shearRatio is NaN/],
    [{ cropAreaRatio: 1.1 }, /cropAreaRatio is 1\.1, expected a number from 0 to 1/],
    [{ brightnessRatio: -0.1 }, /brightnessRatio is -0\.1, expected a number from 0 to 0\.9/],
    [{ contrastRatio: 1 }, /contrastRatio is 1, expected/],
    [{ elastic: { strengthPixels: 1, smoothnessPixels: 0.5 } }, /elastic\.smoothnessPixels is 0\.5/],
    [{ elastic: { strengthPixels: 3, smoothnessPixels: 4 } }, /elastic\.strengthPixels is 3, .* 0 to 2 /],
  ])('is refused by name: %j', (augmentation, message) => {
    expect(() => checkAugmentation(augmentation)).toThrow(message);
  });

  it('includes a cutout as large as the image', () => {
    expect(() => createAugmenter({ cutoutPixels: 9 }, 9, 12)).toThrow(/cutout of 9 .* 9×12/);
  });

  it('is nothing of what is in range', () => {
    expect(() => checkAugmentation(everything)).not.toThrow();
  });
});
