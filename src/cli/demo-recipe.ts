import type { TrainingRecipe } from '../port/train/recipe.ts';

/** Everything that the demonstration decides: sizes and lengths chosen so that it fits into five minutes on 2 cores. */
export interface DemoRecipe {
  readonly backbone: string;
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
  batch: 64,
  schedule: 'one-cycle',
  warmupShare: 0.2,
  momentum: 0.9,
  nesterov: true,
  weightDecay: 5e-4,
} as const;

/**
 * Three epochs at half resolution cost a quarter of three at the full one and learn nearly all there is; a short
 * phase at full resolution then moves features and running averages to the scale that is served.
 */
export const DEMO: DemoRecipe = {
  backbone: 'resnet-14-wide',
  training: { ...TRAINING, learningRate: 0.1, phases: [{ epochs: 3, resolution: 0.5 }, { epochs: 0.5 }] },
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
