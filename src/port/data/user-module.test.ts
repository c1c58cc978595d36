import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { backbone } from '../backbones/registry.ts';
import { evaluate } from '../evaluate/evaluate.ts';
import { trainNetwork } from '../train/train.ts';
import { isModulePath, userModule } from './user-module.ts';

const folder = mkdtempSync(join(tmpdir(), 'bonsai-user-module-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;
/** A module with this text; each has its own path, since Node.js keeps modules. */
function put(text: string, extension = 'mjs'): string {
  const path = join(folder, `data-${files++}.${extension}`);
  writeFileSync(path, text);
  return path;
}
const load = (text: string, extension?: string) => userModule(put(text, extension)).load({ seed: 4 });

/** A module whose dataset has one thing changed. */
const withField = (field: string, value: string) => `
  const split = (count) => ({ count, images: new Uint8Array(count * 4).fill(51), labels: new Uint8Array(count) });
  export const name = 'mine';
  export const load = async () => {
    const dataset = { name, classes: ['a', 'b'], shape: [1, 2, 2], train: split(3), validation: split(1), test: split(2) };
    dataset.${field} = ${value};
    return dataset;
  };`;

it('is found by its path, whatever the system', () => {
  for (const spec of ['./a.mjs', '../a.ts', '/b/a.js', '.\\a.mts', 'C:\\a.mjs']) {
    expect(isModulePath(spec), spec).toBe(true);
  }
  for (const spec of ['mnist', 'mnist:./a.mjs', 'a.mjs', './folder', 'images:/a.js,size=9']) {
    expect(isModulePath(spec), spec).toBe(false);
  }
});

it('is loaded from names or from the default export, and gets the seed', async () => {
  const text = withField('name', "'mine'");
  const named = await load(text);
  expect(named).toMatchObject({ name: 'mine', classes: ['a', 'b'], shape: [1, 2, 2], train: { count: 3 } });
  const asDefault = `${text.replaceAll('export ', '')}\nexport default { name, load };`;
  expect(await load(asDefault)).toEqual(named);
  const seeded = text
    .replace('async () =>', 'async ({ seed }) =>')
    .replace("dataset.name = 'mine'", "dataset.name = 's' + seed");
  expect((await load(seeded)).name).toBe('s4');
});

it('may leave the normalization out: it is measured', async () => {
  const { normalization } = await load(withField('name', "'mine'"));
  expect(normalization.mean[0]).toBeCloseTo(0.2, 12);
});

it('is the example of docs/data.md, whose stripes a small network learns', async () => {
  const path = fileURLToPath(new URL('../../../examples/stripes-data.mjs', import.meta.url));
  const dataset = await userModule(path).load({ seed: 1 });
  expect(dataset).toMatchObject({ name: 'stripes', classes: ['lying', 'standing'], shape: [1, 8, 8] });
  expect(await userModule(path).load({ seed: 1 })).toEqual(dataset);
  expect((await userModule(path).load({ seed: 2 })).train).not.toEqual(dataset.train);
  const { shape: inputShape, normalization } = dataset;
  const network = backbone('resnet-8').build({ inputShape, classes: 2, normalization, seed: 1 });
  const recipe = { phases: [{ epochs: 3 }], batch: 20, learningRate: 0.05, schedule: 'cosine' } as const;
  const trained = await trainNetwork(
    network,
    dataset,
    { ...recipe, optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 0 } },
    { threads: 1, seed: 1 },
  );
  expect((await evaluate(trained.model, dataset.test)).accuracy).toBeGreaterThan(0.9);
});

describe('what is wrong is named', () => {
  it.each([
    ['name', '5', /name is 5, expected a string/],
    ['classes', "['a']", /classes is a, expected 2 to 256 names/],
    ['shape', '[2, 2]', /shape is 2,2, expected three positive integers/],
    ['train', 'undefined', /train\.count is undefined, expected a positive integer/],
    ['test.count', '3', /test\.images is 8 bytes, expected a Uint8Array of 3 × 4 bytes/],
    ['validation.images', '[1, 2, 3, 4]', /validation\.images is object, expected a Uint8Array/],
    ['train.labels', 'new Uint8Array(2)', /train\.labels is 2 bytes, expected a Uint8Array of 3/],
    ['train.labels', 'Uint8Array.of(0, 1, 2)', /train\.labels\[2\] is 2, expected 0 to 1/],
    ['normalization', '{ mean: [0, 0], std: [1] }', /normalization\.mean is 0,0, expected 1 numbers/],
    ['normalization', '{ mean: [0], std: [0] }', /normalization\.std is 0, expected numbers above 0/],
  ])('%s = %s', async (field, value, message) => {
    await expect(load(withField(field, value))).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(message),
    });
  });

  it('a module that is none, does not parse, throws, or is not there', async () => {
    await expect(load('export const other = 1;')).rejects.toThrow(/exports other; expected a string `name`/);
    await expect(load('export const = ;')).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(load("throw new Error('no disk');")).rejects.toThrow(/does not load: no disk/);
    await expect(load('export const name = "x"; export const load = () => null;')).rejects.toThrow(
      /what load gives is null, expected a dataset/,
    );
    for (const [text, said] of [
      ["throw new TypeError('no such disk')", 'no such disk'],
      ['throw undefined', 'undefined'],
    ]) {
      const path = put(`export const name = 'x'; export const load = () => { ${text}; };`);
      await expect(userModule(path).load({ seed: 1 })).rejects.toMatchObject({
        code: 'corrupt_dataset',
        message: `The data module ${path}: load failed: ${said}. Repair the module, or what it reads.`,
      });
    }
    const missing = join(folder, 'missing.mjs');
    await expect(userModule(missing).load({ seed: 1 })).rejects.toMatchObject({
      code: 'missing_dataset',
      message: expect.stringContaining(missing),
    });
  });

  it('but not that a load gave up because it was asked to', async () => {
    const path = put(
      "export const name = 'x'; export const load = ({ signal }) => signal.aborted && Promise.reject(new Error('gone'));",
    );
    const signal = AbortSignal.abort(new Error('stopped by the caller'));
    await expect(userModule(path).load({ seed: 1, signal })).rejects.toThrow('stopped by the caller');
  });

  it.skipIf((process.features as { typescript?: unknown }).typescript)(
    'TypeScript where Node.js cannot run it',
    async () => {
      await expect(load(withField('name', "'mine'"), 'ts')).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringMatching(/cannot run TypeScript.*Compile it/),
      });
    },
  );
});
