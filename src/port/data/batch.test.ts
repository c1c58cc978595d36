import { describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { batchOf } from './batch.ts';

// Two images of 2×4 pixels.
const split = {
  count: 2,
  images: Uint8Array.of(0, 51, 102, 153, 204, 255, 0, 51, 255, 255, 255, 255, 0, 0, 0, 0),
  labels: Uint8Array.of(3, 7),
};
const dataset = { shape: [1, 2, 4] as const };

describe('batchOf', () => {
  it('gives the chosen examples in order, pixels in [0, 1]', () => {
    const { images, labels, shape } = batchOf(dataset, split, [1, 0]);
    expect([...labels]).toEqual([7, 3]);
    expect(shape).toEqual([2, 1, 2, 4]);
    expect([...images.subarray(0, 8)]).toEqual([1, 1, 1, 1, 0, 0, 0, 0]);
    expect(images[9]).toBeCloseTo(0.2);
  });

  it('averages squares of pixels at a lower resolution', () => {
    const { images, shape } = batchOf(dataset, split, [0], { resolution: 0.5 });
    expect(shape).toEqual([1, 1, 1, 2]);
    // (0 + 51 + 204 + 255) / 4 / 255 = 0.5; (102 + 153 + 0 + 51) / 4 / 255 = 0.3.
    expect(images[0]).toBeCloseTo(0.5);
    expect(images[1]).toBeCloseTo(0.3);
  });

  it('shifts by at most the given pixels and fills with black, the same for the same seed', () => {
    const one = { count: 1, images: Uint8Array.of(0, 0, 0, 0, 255, 0, 0, 0, 0), labels: Uint8Array.of(0) };
    const seen = new Set<number>();
    for (let seed = 0; seed < 60; seed++) {
      const draw = () =>
        batchOf({ shape: [1, 3, 3] }, one, [0], {
          augmentation: { shiftPixels: 1, random: seededRandom(seed).fork('shift') },
        });
      const { images } = draw();
      expect(images.reduce((sum, pixel) => sum + pixel, 0)).toBe(1);
      expect(draw().images).toEqual(images);
      seen.add(images.indexOf(1));
    }
    expect(seen.size).toBe(9);
  });

  it('varies images before it averages their pixels, all channels alike', () => {
    const random = seededRandom(2);
    const plane = Array.from({ length: 144 }, () => random.integer(256));
    // Two examples of two equal channels.
    const images = Uint8Array.from([...plane, ...plane, ...plane, ...plane]);
    const twins = { count: 2, images, labels: Uint8Array.of(0, 1) };
    const of = (resolution: number) =>
      batchOf({ shape: [2, 12, 12] }, twins, [0, 1], {
        resolution,
        augmentation: { rotateDegrees: 30, cutoutPixels: 3, random: seededRandom(5) },
      }).images;
    const [full, half] = [of(1), of(0.5)];
    expect(full.subarray(0, 144)).toEqual(full.subarray(144, 288));
    expect(full.subarray(0, 144)).not.toEqual(full.subarray(288, 432));
    for (let c = 0; c < 4; c++) {
      const at = (y: number, x: number) => full[144 * c + 12 * y + x]!;
      for (let y = 0; y < 6; y++) {
        for (let x = 0; x < 6; x++) {
          const sum =
            at(2 * y, 2 * x) + at(2 * y, 2 * x + 1) + at(2 * y + 1, 2 * x) + at(2 * y + 1, 2 * x + 1);
          expect(half[36 * c + 6 * y + x]).toBeCloseTo(sum / 4, 6);
        }
      }
    }
  });

  it.each([0.4, 0.25, 0, 2])('refuses resolution %s for a 2×4 image', (resolution) => {
    expect(() => batchOf(dataset, split, [0], { resolution })).toThrow(/1\/n .* 2×4/);
  });

  it('refuses an example that is not there', () => {
    expect(() => batchOf(dataset, split, [2])).toThrow(/Example 2 .* has 2/);
  });
});
