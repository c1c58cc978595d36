import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { backbone } from '../backbones/registry.ts';
import type { Dataset } from '../data/data-module.ts';
import { mnistPackage } from '../data/mnist-package.ts';
import { evaluate } from '../evaluate/evaluate.ts';
import type { TrainingRecipe } from './recipe.ts';
import { trainNetwork } from './train.ts';

const folder = mkdtempSync(join(tmpdir(), 'bonsai-train-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Two resolutions, a rest that does not fill a batch, shifts and validations on the way: all that a resumption must keep. */
const recipe: TrainingRecipe = {
  phases: [{ epochs: 1.5, resolution: 0.5 }, { epochs: 0.7 }],
  batch: 32,
  learningRate: 0.05,
  schedule: 'cosine',
  warmupShare: 0.1,
  optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 5e-4 },
  labelSmoothing: 0.05,
  augmentation: { shiftPixels: 1 },
  evaluateEveryEpochs: 0.5,
};
const options = { threads: 1, seed: 11 };

let dataset: Dataset;
let model: Model;
beforeAll(async () => {
  dataset = await mnistPackage({ split: { train: 330, validation: 100, test: 100 } }).load({ seed: 1 });
  const { shape: inputShape, normalization } = dataset;
  model = backbone('resnet:widths=8-16,blocks=1-1').build({
    inputShape,
    classes: 10,
    normalization,
    seed: 1,
  });
});

const digest = (trained: Model) => Buffer.from(writeModel(trained)).toString('base64');

describe('training', () => {
  it('learns digits', async () => {
    const longer = {
      ...recipe,
      phases: [{ epochs: 10, resolution: 0.5 }],
      learningRate: 0.1,
      augmentation: undefined,
      evaluateEveryEpochs: undefined,
    };
    const steps: number[] = [];
    const { shape: inputShape, normalization } = dataset;
    const network = backbone('resnet-8').build({ inputShape, classes: 10, normalization, seed: 1 });
    const result = await trainNetwork(network, dataset, longer, {
      ...options,
      onProgress: ({ step, totalSteps, workRatio }) => {
        steps.push(step);
        expect(totalSteps).toBe(100);
        if (step === totalSteps) expect(workRatio).toBe(1);
      },
    });
    expect(steps).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));
    expect(result.validationAccuracy).toBeGreaterThan(0.7);
    expect(result.history.at(-1)!.loss).toBeLessThan(result.history[0]!.loss);
    expect(JSON.parse(result.model.metadata.get('bonsai.training')!)).toMatchObject({
      seed: 11,
      dataset: 'mnist',
    });
    expect(result.model.metadata.get('bonsai.backbone')).toBe(network.metadata.get('bonsai.backbone'));
  });

  it('ends with the same bytes whether it ran through or was stopped and resumed, anywhere', async () => {
    const whole = await trainNetwork(model, dataset, recipe, options);
    // The worker's validation is the evaluation that everybody else gets.
    const { accuracy } = await evaluate(whole.model, dataset.validation);
    expect(accuracy).toBe(whole.validationAccuracy);
    // 10 steps an epoch: 15 steps at half resolution, 7 at full. The stops lie in both phases.
    for (const stopAt of [4, 17]) {
      const checkpointPath = join(folder, `resume-${stopAt}`);
      const stop = new AbortController();
      const stopped = trainNetwork(model, dataset, recipe, {
        ...options,
        checkpointPath,
        signal: stop.signal,
        onProgress: ({ step }) => {
          if (step === stopAt) stop.abort();
        },
      });
      const error: unknown = await stopped.catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: 'aborted' });
      const notices: string[] = [];
      const steps: number[] = [];
      const resumed = await trainNetwork(model, dataset, recipe, {
        ...options,
        checkpointPath,
        onNotice: (notice) => notices.push(notice),
        onProgress: ({ step }) => steps.push(step),
      });
      expect(notices).toEqual([expect.stringMatching(/^Resumed after step \d+/)]);
      expect(steps[0] ?? 22).toBeGreaterThanOrEqual(stopAt);
      expect(resumed.history).toEqual(whole.history);
      expect(digest(resumed.model)).toBe(digest(whole.model));
    }
  });

  it('goes on where a failing listener had it stopped, early stopping included', async () => {
    const patient = { ...recipe, earlyStopping: { patienceEpochs: 5 } };
    const whole = await trainNetwork(model, dataset, patient, options);
    const checkpointPath = join(folder, 'regular');
    // A failing listener ends the caller's interest at once: the thread stops after the step that it is in.
    const killed = trainNetwork(model, dataset, patient, {
      ...options,
      checkpointPath,
      checkpointEverySteps: 3,
      onProgress: ({ step }) => {
        if (step === 20) throw new Error('enough');
      },
    });
    await expect(killed).rejects.toThrow('enough');
    const resumed = await trainNetwork(model, dataset, patient, { ...options, checkpointPath });
    expect(digest(resumed.model)).toBe(digest(whole.model));
    const best = Math.max(
      ...whole.history.filter(({ step }) => step > 15).map((entry) => entry.validationAccuracy ?? 0),
    );
    expect(whole.validationAccuracy).toBe(best);
  });

  it('ignores a checkpoint of another training, or a damaged one, and says so', async () => {
    const checkpointPath = join(folder, 'other');
    const short = { ...recipe, phases: [{ epochs: 0.2, resolution: 0.5 }] };
    const run = async (seed: number) => {
      const notices: string[] = [];
      const { model: trained } = await trainNetwork(model, dataset, short, {
        threads: 1,
        seed,
        checkpointPath,
        onNotice: (notice) => notices.push(notice),
      });
      return { notices, trained: digest(trained) };
    };
    const first = await run(1);
    expect(first.notices).toEqual([]);
    expect((await run(2)).notices).toEqual([
      expect.stringMatching(/another training .* seed .*from the beginning/),
    ]);
    const bytes = readFileSync(checkpointPath);
    writeFileSync(checkpointPath, bytes.subarray(0, bytes.length - 100));
    const again = await run(1);
    expect(again.notices).toEqual([expect.stringMatching(/damaged.*from the beginning/)]);
    expect(again.trained).toBe(first.trained);
  });

  it('ends with the step and the rate when the loss is no number any more', async () => {
    const wild = { ...recipe, learningRate: 1e30, schedule: 'constant' as const, warmupShare: 0 };
    await expect(trainNetwork(model, dataset, wild, options)).rejects.toMatchObject({
      code: 'training_diverged',
      message: expect.stringMatching(/in step \d+ at learning rate 1e\+30/),
    });
  });

  it('refuses recipes that do not fit the data before any work', async () => {
    const train = (changes: Partial<TrainingRecipe>) =>
      trainNetwork(model, dataset, { ...recipe, ...changes }, options);
    await expect(train({ batch: 331 })).rejects.toThrow(/batch is 331.*only 330/);
    await expect(train({ phases: [{ epochs: 1, resolution: 0.3 }] })).rejects.toThrow(/resolution 0\.3/);
  });

  it('names a checkpoint path that cannot be written', async () => {
    writeFileSync(join(folder, 'a-file'), '');
    const checkpointPath = join(folder, 'a-file', 'checkpoint');
    const run = trainNetwork(
      model,
      dataset,
      { ...recipe, phases: [{ epochs: 0.1 }] },
      { ...options, checkpointPath },
    );
    await expect(run).rejects.toMatchObject({ message: expect.stringContaining('a-file') });
  });
});
