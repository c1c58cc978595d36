import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Split } from './data-module.ts';
import { imageFolder } from './image-folder.ts';

const SIZE = 8;
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bonsai images-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** A PNG of one colour under a path below the root. */
async function put(path: string, grey = 100, size = 10): Promise<void> {
  const background = { r: grey, g: grey, b: grey };
  const bytes = await sharp({ create: { width: size, height: size, channels: 3, background } })
    .png()
    .toBuffer();
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), bytes);
}

function write(path: string, bytes: string | Uint8Array): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), bytes);
}

const load = (seed = 1, options = {}) => imageFolder(root, { size: SIZE, ...options }).load({ seed });
/** The colour of each image, one class after the other. */
const coloursOf = ({ count, images, labels }: Split) =>
  Array.from({ length: count }, (_, i) => [labels[i]!, images[i * 3 * SIZE * SIZE]!]).sort(
    ([a, x], [b, y]) => a! - b! || x! - y!,
  );

/** Ten of each class, of colours 10, 11, … and 110, 111, …. */
async function putClasses(folder: string, count = 10): Promise<void> {
  for (let i = 0; i < count; i++) {
    await put(`${folder}cats/${i}.png`, 10 + i);
    await put(`${folder}dogs/${i}.png`, 110 + i);
  }
}

describe('the splits', () => {
  it('are those of the folders, whatever validation is called', async () => {
    await putClasses('train/');
    await put('valid/dogs/x.png', 200);
    await put('test/cats/y.png', 201);
    const { classes, shape, train, validation, test, normalization } = await load();
    expect([classes, shape]).toEqual([
      ['cats', 'dogs'],
      [3, SIZE, SIZE],
    ]);
    expect(train.count).toBe(20);
    expect(coloursOf(validation)).toEqual([[1, 200]]);
    expect(coloursOf(test)).toEqual([[0, 201]]);
    // 10 … 19 and 110 … 119 on the scale 0..1.
    expect(normalization.mean[2]).toBeCloseTo(64.5 / 255, 6);
  });

  it('take val for the test where there is none, and draw validation from training', async () => {
    await putClasses('train/');
    await put('val/dogs/x.png', 200);
    const { train, validation, test } = await load();
    expect(coloursOf(test)).toEqual([[1, 200]]);
    expect([train.count, [...validation.labels].sort()]).toEqual([18, [0, 1]]);
  });

  it('are drawn by the seed where there are only classes, each with its share, no image twice', async () => {
    await putClasses('');
    const { train, validation, test } = await load();
    for (const split of [validation, test]) expect([...split.labels].sort()).toEqual([0, 1]);
    const all = [train, validation, test].flatMap(coloursOf).map(([, colour]) => colour!);
    const expected = Array.from({ length: 10 }, (_, i) => [10 + i, 110 + i]).flat();
    expect(all.sort((a, b) => a - b)).toEqual(expected.sort((a, b) => a - b));
    expect(coloursOf((await load()).test)).toEqual(coloursOf(test));
    const others = await Promise.all([2, 3, 4, 5].map(async (seed) => coloursOf((await load(seed)).test)));
    expect(others).not.toEqual(others.map(() => coloursOf(test)));
  });

  it('find images below a class, whatever the case of their extension, and pass over hidden files', async () => {
    await putClasses('train/', 3);
    await put('train/cats/deeper/still/a.PNG', 50);
    for (const name of ['.DS_Store', 'Thumbs.db', '.hidden.png']) write(`train/cats/${name}`, 'junk');
    write('train/.cache/x', 'junk');
    write('manifest.csv', 'junk');
    symlinkSync(join(root, 'train/dogs/0.png'), join(root, 'train/dogs/link.png'));
    await put('val/cats/a.png');
    const { train, validation } = await load();
    expect(train.count + validation.count).toBe(8);
  });
});

it('is named as its folder, in letters that a task may have', () => {
  expect(imageFolder('/data/Bees & ants/').name).toBe('Bees-ants');
  expect(imageFolder('/data/.hidden').name).toBe('hidden');
});

it('decodes once: the cache gives the same until a file changes', async () => {
  await putClasses('');
  const cacheDirectory = join(root, '..', `${root.split('/').at(-1)}-cache`);
  try {
    const heard: string[] = [];
    const read = () =>
      imageFolder(root, { size: SIZE, cacheDirectory }).load({
        seed: 1,
        onProgress: (done, total) => heard.push(`${done}/${total}`),
      });
    const first = await read();
    expect(heard.at(-1)).toBe('20/20');
    heard.length = 0;
    expect(await read()).toEqual(first);
    expect(heard).toEqual([]);
    await put('cats/3.png', 99);
    utimesSync(join(root, 'cats/3.png'), 1, 1);
    const changed = await read();
    expect(heard.at(-1)).toBe('20/20');
    const all = [changed.train, changed.validation, changed.test].flatMap(coloursOf);
    expect(all).toContainEqual([0, 99]);
  } finally {
    rmSync(cacheDirectory, { recursive: true, force: true });
  }
});

it('leaves images in their files where memory is short, with the same labels and paths', async () => {
  await putClasses('');
  const inMemory = await load();
  const onDemand = await load(1, { memoryBytes: 100 });
  for (const part of ['train', 'validation', 'test'] as const) {
    expect(onDemand[part].images.length).toBe(0);
    expect({ ...onDemand[part], images: 0 }).toEqual({ ...inMemory[part], images: 0 });
  }
  expect(onDemand.normalization.mean[0]).toBeCloseTo(inMemory.normalization.mean[0]!, 12);
});

describe('what is wrong is named', () => {
  const refused = async (message: RegExp, code = 'corrupt_dataset') =>
    expect(load()).rejects.toMatchObject({ code, message: expect.stringMatching(message) });

  it.each([
    ['empty', '', /a\.png is empty/],
    ['text', 'hello', /a\.png: it does not decode .*no image at all/],
  ])('a file that is %s', async (_, content, message) => {
    await putClasses('', 3);
    write('cats/a.png', content);
    await refused(message);
  });

  it.each(['png', 'jpeg', 'webp'] as const)('a truncated %s', async (format) => {
    await putClasses('', 3);
    const noise = sharp({
      create: {
        width: 64,
        height: 64,
        channels: 3,
        background: 'black',
        noise: { type: 'gaussian', mean: 120, sigma: 40 },
      },
    });
    const bytes = await noise.toFormat(format).toBuffer();
    write(`cats/a.${format}`, bytes.subarray(0, bytes.length >> 1));
    await refused(new RegExp(`a\\.${format}: it does not decode`));
  });

  it('a file that is no image by its name', async () => {
    await putClasses('', 3);
    write('cats/notes.txt', 'about cats');
    await refused(/notes\.txt is among the images of a class, but is none by its name/);
  });

  it('no folder, a file, no classes, one class, none of its images', async () => {
    await expect(imageFolder(join(root, 'none')).load({ seed: 1 })).rejects.toMatchObject({
      code: 'missing_dataset',
      message: expect.stringMatching(/There is no folder .*none.*Expected/),
    });
    write('file', 'x');
    await expect(imageFolder(join(root, 'file')).load({ seed: 1 })).rejects.toThrow(
      /is a file, not a folder/,
    );
    await refused(/has no folders of classes/, 'missing_dataset');
    await put('cats/a.png');
    await refused(/has one class only, cats/);
    mkdirSync(join(root, 'dogs'));
    await refused(/dogs has no images/);
  });

  it('too few images to hold some out', async () => {
    await put('cats/a.png');
    await put('dogs/a.png');
    await refused(/2 images are too few/);
  });

  it('val without train, val twice, an empty val, a class that training lacks', async () => {
    await put('val/cats/a.png');
    await refused(/has val, but no train/);
    await putClasses('train/', 3);
    mkdirSync(join(root, 'validation'));
    await refused(/has both val(idation)? and val(idation)?, which mean the same/);
    rmSync(join(root, 'validation'), { recursive: true });
    mkdirSync(join(root, 'test'));
    await refused(/test has no folders of classes/);
    await put('test/birds/a.png');
    await refused(/birds is a class that is not in .*train/);
  });

  it('links that lead round, back to themselves, or nowhere', async () => {
    await putClasses('', 3);
    symlinkSync(join(root, 'cats'), join(root, 'cats/again'));
    await refused(/again is a link to a folder that it is in .* a loop/);
    rmSync(join(root, 'cats/again'));
    symlinkSync(join(root, 'cats/b.png'), join(root, 'cats/a.png'));
    symlinkSync(join(root, 'cats/a.png'), join(root, 'cats/b.png'));
    await refused(/[ab]\.png is a link that leads back to itself/);
    rmSync(join(root, 'cats/b.png'));
    await refused(/a\.png is a link to nothing/);
  });

  it.each([
    [{ size: 7 }, /size is 7, expected an integer from 8/],
    [{ size: 2000 }, /size is 2000/],
    [{ size: 32, resize: 16 }, /resized to 16, expected an integer from their size, 32/],
  ])('sizes that cannot be: %j', (options, message) => {
    expect(() => imageFolder('any', options)).toThrow(message);
  });
});

const shared = join(process.env.BONSAI_SHARED ?? '../shared', 'data/hymenoptera');

it.skipIf(!existsSync(shared))('reads ants and bees, as the manifest counts them', async () => {
  const dataset = await imageFolder(shared, { size: 32 }).load({ seed: 1 });
  const count = (split: Split, label: number) => split.labels.filter((each) => each === label).length;
  expect(dataset.classes).toEqual(['ants', 'bees']);
  expect([count(dataset.test, 0), count(dataset.test, 1)]).toEqual([70, 83]);
  const held = [dataset.train, dataset.validation];
  expect([0, 1].map((label) => held.reduce((sum, split) => sum + count(split, label), 0))).toEqual([
    123, 121,
  ]);
});
