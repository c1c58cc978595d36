import type { TrainingRecipe } from '../port/train/recipe.ts';

/** Everything that the demonstration decides: sizes and lengths chosen so that it fits into five minutes on 2 cores. */
export interface DemoRecipe {
  /** What is trained: by itself, or as one of `members` networks that are then fused into a wide one. */
  readonly backbone: string;
  readonly training: TrainingRecipe;
  /**
   * The base network is the mean of so many networks (`fuseNetworks`): a wide network's own steps are too dear here
   * (docs/decisions/0005 says what was compared, and what was not).
   */
  readonly members?: { readonly count: number; readonly wideBackbone: string };
  /** Shares of channels removed, ascending. */
  readonly ratios: readonly number[];
  readonly fineTuning: (ratio: number) => TrainingRecipe;
  readonly latencyRuns: number;
  /** Length of one throughput measurement. */
  readonly throughputMs: number;
  readonly sloMs: number;
  /** [ms, demand as a multiple of the most accurate variant's maximal throughput]; straight lines between. */
  readonly demand: readonly (readonly [atMs: number, multiple: number])[];
  /**
   * Factor on the policy's time constants. The thesis' policy looks at ten seconds and waits 15 to 30 s between
   * changes; a demonstration whose demand moves twelve times as fast needs windows and waits a twelfth as long.
   */
  readonly timeScale: number;
}

const TRAINING = {
  batch: 32,
  schedule: 'one-cycle',
  warmupShare: 0.15,
  optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 5e-4 },
} as const;

/**
 * A variant that keeps a share k of its channels costs about k² of the base's time a step; this many passes / k
 * repair it, and all variants together cost little more than the first.
 */
const FINE_TUNING_EPOCHS = 0.12;
/** More would only make up for what the smallest variants lack. */
const MAX_FINE_TUNING_EPOCHS = 0.6;

export const DEMO: DemoRecipe = {
  backbone: 'resnet:widths=16-32-64,blocks=1-1-1',
  // Passes over bent digits: 8,000 of them are few, and as they are a network soon knows them by heart.
  // At half resolution a pass costs a quarter; the features still have to be fitted to the full one afterwards.
  training: {
    ...TRAINING,
    phases: [{ epochs: 4, resolution: 0.5 }, { epochs: 2.5 }],
    // Rate and smoothing were chosen among 14 single runs of narrow networks, passes and bending as decision 0005 tells.
    learningRate: 0.2,
    labelSmoothing: 0.1,
    augmentation: { shiftPixels: 1, rotateDegrees: 10, scaleRatio: 0.1, shearRatio: 0.1 },
  },
  // 232 million multiply-accumulates, over 4 ms on one core: there is something to trade.
  members: { count: 5, wideBackbone: 'resnet:widths=80-160-320,blocks=1-1-1' },
  ratios: [0.2, 0.4, 0.6, 0.8, 0.9],
  fineTuning: (ratio) => ({
    ...TRAINING,
    learningRate: 0.02,
    labelSmoothing: 0.1,
    augmentation: { shiftPixels: 1 },
    phases: [{ epochs: Math.min(FINE_TUNING_EPOCHS / (1 - ratio), MAX_FINE_TUNING_EPOCHS) }],
  }),
  latencyRuns: 1000,
  throughputMs: 800,
  sloMs: 100,
  demand: [
    [0, 0.3],
    [2500, 0.35],
    [10_500, 2.2],
    [13_500, 2.2],
    [18_000, 0.4],
    [21_000, 0.3],
  ],
  timeScale: 1 / 12,
};

/** The same story in under a minute, on a network that is too small to need it: a check, not a demonstration. */
export const QUICK_DEMO: DemoRecipe = {
  ...DEMO,
  backbone: 'resnet:widths=16-32,blocks=1-1',
  members: undefined,
  training: { ...TRAINING, learningRate: 0.1, phases: [{ epochs: 1, resolution: 0.5 }, { epochs: 0.5 }] },
  ratios: [0.5],
  latencyRuns: 100,
  throughputMs: 300,
  demand: [
    [0, 0.2],
    [2000, 0.6],
    [4000, 0.2],
  ],
};
