import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { backbone } from '../backbones/registry.ts';
import { reestimateBatchNorm } from '../batch-norm/batch-norm.ts';
import { evaluate } from '../evaluate/evaluate.ts';
import type { TrainingRecipe } from '../train/recipe.ts';
import { trainNetwork } from '../train/train.ts';
import type { Dataset } from './data-module.ts';
import { imageFolder } from './image-folder.ts';

// Whether images wait in memory or in their files must make no difference to anything that is computed.

const root = mkdtempSync(join(tmpdir(), 'bonsai-on-demand-'));
const SEED = 5;
let inMemory: Dataset;
let onDemand: Dataset;

beforeAll(async () => {
  const random = seededRandom(3);
  for (let i = 0; i < 60; i++) {
    // Dark and light noise: two classes that are easily told apart.
    const dark = i % 2 === 0;
    const pixels = Uint8Array.from({ length: 3 * 24 * 20 }, () => random.integer(120) + (dark ? 0 : 130));
    const folder = join(root, dark ? 'dark' : 'light');
    mkdirSync(folder, { recursive: true });
    const png = await sharp(pixels, { raw: { width: 24, height: 20, channels: 3 } })
      .png()
      .toBuffer();
    writeFileSync(join(folder, `${i}.png`), png);
  }
  const load = (memoryBytes: number) => imageFolder(root, { size: 16, memoryBytes }).load({ seed: SEED });
  inMemory = await load(2 ** 20);
  // One number decides both networks' first layer.
  onDemand = { ...(await load(0)), normalization: inMemory.normalization };
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const recipe: TrainingRecipe = {
  phases: [{ epochs: 2, resolution: 0.5 }, { epochs: 2 }],
  ...{ batch: 8, learningRate: 0.05, schedule: 'cosine' },
  optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 1e-4 },
  augmentation: { shiftPixels: 2, flip: true },
};
const network = () => {
  const { shape: inputShape, normalization } = inMemory;
  return backbone('resnet-8').build({ inputShape, classes: 2, normalization, seed: SEED });
};
const train = (dataset: Dataset, augmentation = recipe.augmentation) =>
  trainNetwork(network(), dataset, { ...recipe, augmentation }, { threads: 1, seed: SEED });

it('trains to the same bytes, scores the same, and learns', async () => {
  const expected = await train(inMemory);
  const found = await train(onDemand);
  expect(Buffer.compare(writeModel(found.model), writeModel(expected.model))).toBe(0);
  expect(found.history).toEqual(expected.history);
  const scores = await Promise.all([inMemory, onDemand].map(({ test }) => evaluate(found.model, test)));
  expect(scores[1]).toEqual(scores[0]);
  expect(scores[0]!.accuracy).toBeGreaterThan(0.7);
});

it('trains on crops to the same bytes, and to others than without', async () => {
  const crops = { ...recipe.augmentation, cropAreaRatio: 0.4 };
  const [expected, found] = [await train(inMemory, crops), await train(onDemand, crops)];
  expect(Buffer.compare(writeModel(found.model), writeModel(expected.model))).toBe(0);
  const plain = await train(inMemory);
  expect(Buffer.compare(writeModel(found.model), writeModel(plain.model))).not.toBe(0);
});

it('goes on after a stop with the same crops', async () => {
  const crops = { ...recipe.augmentation, cropAreaRatio: 0.4 };
  const whole = await train(onDemand, crops);
  const controller = new AbortController();
  const options = { threads: 1, seed: SEED, checkpointPath: `${root}.checkpoint` };
  try {
    const stopping = trainNetwork(
      network(),
      onDemand,
      { ...recipe, augmentation: crops },
      {
        ...options,
        signal: controller.signal,
        onProgress: ({ step }) => step === 5 && controller.abort(),
      },
    );
    await expect(stopping).rejects.toMatchObject({ code: 'aborted' });
    const resumed = await trainNetwork(network(), onDemand, { ...recipe, augmentation: crops }, options);
    expect(Buffer.compare(writeModel(resumed.model), writeModel(whole.model))).toBe(0);
  } finally {
    rmSync(options.checkpointPath, { force: true });
  }
});

it('re-estimates running averages from the same examples', async () => {
  const options = { seed: SEED, batch: 8, batches: 2 };
  const [expected, found] = await Promise.all(
    [inMemory, onDemand].map((dataset) => reestimateBatchNorm(network(), dataset.train, options)),
  );
  expect(Buffer.compare(writeModel(found!), writeModel(expected!))).toBe(0);
});

it('names the file that turns out to be damaged', async () => {
  const path = onDemand.test.files!.paths[1]!;
  const found = await evaluate(network(), {
    ...onDemand.test,
    files: { ...onDemand.test.files!, paths: [path, join(root, 'gone.png')] },
    count: 2,
    labels: Uint8Array.of(0, 1),
  }).catch((error: unknown) => error);
  expect(found).toMatchObject({ code: 'missing_dataset', message: expect.stringContaining('gone.png') });
});
