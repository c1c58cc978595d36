import { backbone } from './backbones/registry.ts';
import type { Dataset } from './data/data-module.ts';
import { growNetwork } from './train/grow.ts';
import type { TrainingRecipe } from './train/recipe.ts';
import { type TrainingOptions, type TrainingResult, trainNetwork } from './train/train.ts';

/**
 * Trains the demo's base network: a narrow network learns the digits, first at half resolution, then at full; then it
 * grows into the wide one without changing its answers, and all of that trains on for a moment. Trained directly, the
 * wide network reaches 97 % in that time, this way 98.3 to 98.9 % (seeds 1 to 3), because each of its steps costs 10 × as
 * much.
 * @param options as for `trainNetwork`; the checkpoint of the narrow network lies beside the path, ending in `.narrow`
 */
export async function trainDemoBase(dataset: Dataset, options: TrainingOptions): Promise<TrainingResult> {
  const { shape: inputShape, normalization } = dataset;
  const shape = { inputShape, classes: dataset.classes.length, normalization, seed: options.seed };
  const narrow = await trainNetwork(
    backbone(DEMO_NARROW_BACKBONE).build(shape),
    dataset,
    DEMO_NARROW_RECIPE,
    {
      ...options,
      checkpointPath: options.checkpointPath && `${options.checkpointPath}.narrow`,
      onProgress: (progress) =>
        options.onProgress?.({ ...progress, workRatio: progress.workRatio * DEMO_NARROW_WORK_RATIO }),
    },
  );
  const wide = await trainNetwork(
    growNetwork(narrow.model, backbone(DEMO_BACKBONE).build(shape)),
    dataset,
    DEMO_RECIPE,
    {
      ...options,
      onProgress: (progress) =>
        options.onProgress?.({
          ...progress,
          workRatio: DEMO_NARROW_WORK_RATIO + progress.workRatio * (1 - DEMO_NARROW_WORK_RATIO),
        }),
    },
  );
  return { ...wide, history: [...narrow.history, ...wide.history] };
}

/** 260 million multiply-accumulates: about 4.6 ms for one inference on a core with AVX-512, so there is much to trade. */
export const DEMO_BACKBONE = 'resnet:widths=64-128-256,blocks=1-2-2';

/** The wide network's plan with a quarter of the channels: 700 images a second train at full resolution on 2 cores. */
export const DEMO_NARROW_BACKBONE = 'resnet-8';

/** Nine passes with shifted digits; four of them at a quarter of the cost. Fewer do not reach 98.5 % on 7,000 digits. */
export const DEMO_NARROW_RECIPE: TrainingRecipe = {
  phases: [{ epochs: 4, resolution: 0.5 }, { epochs: 5 }],
  batch: 32,
  learningRate: 0.1,
  schedule: 'one-cycle',
  warmupShare: 0.15,
  momentum: 0.9,
  nesterov: true,
  weightDecay: 5e-4,
  augmentation: { shiftPixels: 2 },
};

/**
 * A fifth of a pass is long enough for the running averages of the new channels to settle (44 steps at 0.9 a step leave
 * 1 %). The rate is low so that what the narrow network knows is kept; rates of 0.002 to 0.02 ended within 0.4 % of
 * each other on 3,000 held-out digits, which is the noise of such a count.
 */
export const DEMO_RECIPE: TrainingRecipe = {
  ...DEMO_NARROW_RECIPE,
  phases: [{ epochs: 0.2 }],
  learningRate: 0.002,
  warmupShare: 0.2,
  augmentation: { shiftPixels: 1 },
};

/** The narrow network's part of the time of `trainDemoBase`, as measured on 2 cores; only the progress shown uses it. */
export const DEMO_NARROW_WORK_RATIO = 0.7;
