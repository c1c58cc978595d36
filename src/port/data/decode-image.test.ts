import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { drawCrop, MAX_CROP_ASPECT } from './crop.ts';
import { decodeImage } from './decode-image.ts';

const folder = mkdtempSync(join(tmpdir(), 'bonsai-decode-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SIZE = 16;
const plain = { size: SIZE, resize: SIZE };

/** Red at the left, green in the middle square, blue at the right. */
function stripes(height = 32): Promise<Buffer> {
  const width = 2 * height;
  const bytes = Buffer.alloc(3 * width * height);
  for (let i = 0; i < width * height; i++) {
    const x = i % width;
    bytes[3 * i + (x < height / 2 ? 0 : x < 1.5 * height ? 1 : 2)] = 255;
  }
  return sharp(bytes, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

let files = 0;
async function decoded(bytes: Uint8Array, options: Parameters<typeof decodeImage>[1] = plain) {
  const path = join(folder, `${files++}.img`);
  writeFileSync(path, bytes);
  const planes = await decodeImage(path, options);
  expect(planes.length).toBe(3 * options.size ** 2);
  return (x: number, y: number) =>
    [0, 1, 2].map((c) => planes[(c * options.size + y) * options.size + x]!) as [number, number, number];
}
const near = (found: readonly number[], wanted: readonly number[], tolerance = 6) =>
  found.forEach((value, i) => {
    expect(Math.abs(value - wanted[i]!), `${found} near ${wanted}`).toBeLessThanOrEqual(tolerance);
  });

describe('the square', () => {
  it('is cut from the middle of the image, whose shorter side fits it', async () => {
    const pixel = await decoded(await stripes());
    for (const x of [1, 8, 14]) near(pixel(x, 8), [0, 255, 0]);
  });

  it('shows less of an image that is resized to more', async () => {
    // A quarter at each border is white; resized to twice the size, the square within it is all that is left.
    const inner = await sharp({ create: { width: 32, height: 32, channels: 3, background: 'black' } })
      .extend({ top: 16, bottom: 16, left: 16, right: 16, background: 'white' })
      .png()
      .toBuffer();
    near((await decoded(inner))(1, 1), [255, 255, 255]);
    near((await decoded(inner, { size: SIZE, resize: 2 * SIZE }))(1, 1), [0, 0, 0]);
  });

  it('is enlarged from a small image', async () => {
    near((await decoded(await stripes(4)))(8, 8), [0, 255, 0], 20);
  });
});

describe('any kind of image becomes 8-bit RGB', () => {
  const colour = { r: 200, g: 100, b: 50 };
  const image = () => sharp({ create: { width: 20, height: 20, channels: 3, background: colour } });
  const rgb = [colour.r, colour.g, colour.b];

  it.each(['jpeg', 'png', 'webp', 'tiff', 'gif', 'avif'] as const)('%s', async (format) => {
    near((await decoded(await image().toFormat(format).toBuffer()))(5, 5), rgb);
  });

  it('greyscale', async () => {
    const grey = { r: 120, g: 120, b: 120 };
    const bytes = await sharp({ create: { width: 9, height: 9, channels: 3, background: grey } })
      .toColourspace('b-w')
      .png()
      .toBuffer();
    expect((await sharp(bytes).metadata()).channels).toBe(1);
    near((await decoded(bytes))(3, 3), [120, 120, 120]);
  });

  it('CMYK', async () => {
    const bytes = await image().toColourspace('cmyk').jpeg({ quality: 100 }).toBuffer();
    expect((await sharp(bytes).metadata()).space).toBe('cmyk');
    // Converting there and back costs some colour; red stays the most, blue the least.
    const [r, g, b] = (await decoded(bytes))(5, 5);
    near([r, g, b], rgb, 40);
  });

  it('16 bits a channel, and a palette', async () => {
    const deep = await image().toColourspace('rgb16').png().toBuffer();
    expect((await sharp(deep).metadata()).depth).toBe('ushort');
    near((await decoded(deep))(5, 5), rgb);
    near((await decoded(await image().png({ palette: true }).toBuffer()))(5, 5), rgb);
  });

  it('transparency, which becomes white', async () => {
    const clear = { r: 200, g: 0, b: 0, alpha: 0 };
    const bytes = await sharp({ create: { width: 9, height: 9, channels: 4, background: clear } })
      .png()
      .toBuffer();
    near((await decoded(bytes))(3, 3), [255, 255, 255]);
    const grey = await sharp(bytes).toColourspace('b-w').png().toBuffer();
    expect((await sharp(grey).metadata()).channels).toBe(2);
    near((await decoded(grey))(3, 3), [255, 255, 255]);
  });
});

describe('EXIF orientation', () => {
  it('turns the image before the square is cut', async () => {
    // Stored lying; orientation 6 says: turn right by 90°. The red left side comes to the top.
    const lying = await sharp(await stripes())
      .jpeg({ quality: 100 })
      .withMetadata({ orientation: 6 })
      .toBuffer();
    const whole = { x: 0, y: 0, width: 1, height: 1 };
    let aspect = 0;
    const crop = (found: number) => {
      aspect = found;
      return whole;
    };
    const pixel = await decoded(lying, { ...plain, crop });
    expect(aspect).toBe(0.5);
    near(pixel(8, 1), [255, 0, 0], 12);
    near(pixel(8, 14), [0, 0, 255], 12);
    near((await decoded(lying))(8, 1), [0, 255, 0], 12);
  });
});

describe('crops', () => {
  it('are stretched to the square', async () => {
    const left = await decoded(await stripes(), {
      ...plain,
      crop: () => ({ x: 0, y: 0, width: 0.5, height: 1 }),
    });
    // Red and green each fill a half.
    near(left(2, 8), [255, 0, 0], 12);
    near(left(13, 8), [0, 255, 0], 12);
  });

  it('lie within the image, with the wanted areas and aspects', () => {
    const random = seededRandom(5);
    const areas: number[] = [];
    for (let i = 0; i < 2000; i++) {
      const { x, y, width, height } = drawCrop(0.3, 1, random);
      expect(Math.min(x, y)).toBeGreaterThanOrEqual(0);
      expect(Math.max(x + width, y + height)).toBeLessThanOrEqual(1 + 1e-12);
      const shape = width / height;
      expect(shape).toBeLessThanOrEqual(MAX_CROP_ASPECT + 1e-12);
      expect(shape).toBeGreaterThanOrEqual(1 / MAX_CROP_ASPECT - 1e-12);
      areas.push(width * height);
    }
    expect(Math.min(...areas)).toBeGreaterThanOrEqual(0.3 - 1e-12);
    expect(Math.max(...areas)).toBeGreaterThan(0.9);
    // Uniform in [0.3, 1] would have the mean 0.65; what does not fit is narrowed a little.
    const mean = areas.reduce((sum, area) => sum + area, 0) / areas.length;
    expect(mean).toBeGreaterThan(0.6);
    expect(mean).toBeLessThan(0.66);
  });
});
