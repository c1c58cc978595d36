import type { TrainingRecipe } from '../port/train/recipe.ts';

/** Everything that the demonstration decides: sizes and lengths chosen so that it fits into five minutes on 2 cores. */
export interface DemoRecipe {
  readonly backbone: string;
  /**
   * A narrow network of the same plan that learns first; the backbone then starts as what grew out of it
   * (`growNetwork`). Trained directly, the wide network reaches 97.1 % in the time that this way takes to 98.6 %.
   */
  readonly narrow?: { readonly backbone: string; readonly training: TrainingRecipe };
  readonly training: TrainingRecipe;
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
  momentum: 0.9,
  nesterov: true,
  weightDecay: 5e-4,
} as const;

export const DEMO: DemoRecipe = {
  // 260 million multiply-accumulates, over 4 ms on one core: there is something to trade.
  backbone: 'resnet:widths=64-128-256,blocks=1-2-2',
  narrow: {
    // A quarter of the channels: its steps cost a tenth of the wide network's.
    backbone: 'resnet-8',
    // Nine passes with shifted digits, four of them at a quarter of the cost; fewer do not reach 98.5 %.
    training: {
      ...TRAINING,
      phases: [{ epochs: 4, resolution: 0.5 }, { epochs: 5 }],
      learningRate: 0.1,
      augmentation: { shiftPixels: 2 },
    },
  },
  // Long enough for the running averages of new channels to settle, at a rate that keeps what is known.
  training: {
    ...TRAINING,
    phases: [{ epochs: 0.3 }],
    learningRate: 0.02,
    augmentation: { shiftPixels: 1 },
  },
  ratios: [0.25, 0.5, 0.625, 0.75, 0.875],
  fineTuning: () => ({ ...TRAINING, learningRate: 0.02, phases: [{ epochs: 0.25 }] }),
  latencyRuns: 1000,
  throughputMs: 1000,
  sloMs: 100,
  demand: [
    [0, 0.3],
    [3000, 0.35],
    [12_000, 2.2],
    [15_000, 2.2],
    [20_000, 0.4],
    [24_000, 0.3],
  ],
  timeScale: 1 / 12,
};

/** The same story in under a minute, on a network that is too small to need it: a check, not a demonstration. */
export const QUICK_DEMO: DemoRecipe = {
  ...DEMO,
  backbone: 'resnet:widths=16-32,blocks=1-1',
  narrow: undefined,
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
