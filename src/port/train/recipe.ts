import { InvalidArgumentError } from '../../base/errors.ts';
import { checkDistillation, type Distillation } from '../../transform/autodiff/loss.ts';
import { checkOptimizer, type Optimizer } from '../../transform/autodiff/optimizer.ts';
import { type Augmentation, checkAugmentation } from '../data/augmentation.ts';

/** How a network is trained. Plain data: it is kept with the network and its digest guards checkpoints. */
export interface TrainingRecipe {
  /** In order. Schedules and shuffling run over all of them as one. */
  readonly phases: readonly TrainingPhase[];
  /** Examples of one step. A rest smaller than that is left out of an epoch (another one each time). */
  readonly batch: number;
  /** The highest learning rate. 0 only re-estimates the running averages of BatchNormalization. */
  readonly learningRate: number;
  readonly schedule: Schedule;
  /** Share of all steps in which the rate rises linearly from near 0, in [0, 1). */
  readonly warmupShare?: number;
  readonly optimizer: Optimizer;
  /** Shortens each step's gradient, over all parameters, to at most this Euclidean norm. Any length where absent. */
  readonly clipNorm?: number;
  /** `cross-entropy` where absent; `mse` against one-hot targets. */
  readonly loss?: ClassifierLoss;
  /** Learn from a teacher besides the labels; `trainNetwork` is then given one. Off where absent. */
  readonly distillation?: Distillation;
  /**
   * Weight of Σ|γ| over the scales of BatchNormalization in the objective, so that the criterion "slim" finds channels
   * that it can spare; 1e-4 to 1e-5 in Liu et al. 2017. Off where absent.
   */
  readonly scaleL1?: number;
  /** Share of each target spread evenly over all classes, in [0, 1). */
  readonly labelSmoothing?: number;
  /** Off where absent. */
  readonly augmentation?: Augmentation;
  /** Ends the last phase when validation has not improved for so long, and keeps the best weights of that phase. */
  readonly earlyStopping?: { readonly patienceEpochs: number };
  /** Validates at this distance; absent: with early stopping every epoch, else only at the end. */
  readonly evaluateEveryEpochs?: number;
}

/** Losses whose targets are class indices, which is what datasets have. */
export const CLASSIFIER_LOSSES = ['cross-entropy', 'mse'] as const;
export type ClassifierLoss = (typeof CLASSIFIER_LOSSES)[number];

export interface TrainingPhase {
  /** Passes over the training split; fractions allowed. */
  readonly epochs: number;
  /** Share of the full side length, 1 / integer (see `batchOf`). Small images train a network's bulk cheaply. */
  readonly resolution?: number;
}

/**
 * After the warm-up: `cosine` falls along half a cosine to 0, `one-cycle` falls linearly to 0, `step` is divided
 * by 10 at 50 % and at 75 % of all steps, `constant` stays.
 */
export type Schedule = 'cosine' | 'one-cycle' | 'step' | 'constant';

/** @throws InvalidArgumentError naming the field, its value and what it should be */
export function checkRecipe(recipe: TrainingRecipe): void {
  const need = (isRight: boolean, field: string, value: unknown, expected: string) => {
    if (!isRight)
      throw new InvalidArgumentError(`Recipe: ${field} is ${String(value)}, expected ${expected}.`);
  };
  need(recipe.phases.length > 0, 'phases', 'empty', 'at least one');
  recipe.phases.forEach(({ epochs }, i) => {
    need(epochs > 0 && Number.isFinite(epochs), `phases[${i}].epochs`, epochs, 'a number above 0');
  });
  need(Number.isInteger(recipe.batch) && recipe.batch > 0, 'batch', recipe.batch, 'a positive integer');
  need(recipe.learningRate >= 0, 'learningRate', recipe.learningRate, 'a number of at least 0');
  checkOptimizer(recipe.optimizer);
  const clipNorm = recipe.clipNorm ?? 1;
  need(clipNorm > 0 && Number.isFinite(clipNorm), 'clipNorm', clipNorm, 'a number above 0');
  const loss = recipe.loss ?? 'cross-entropy';
  need(CLASSIFIER_LOSSES.includes(loss), 'loss', loss, CLASSIFIER_LOSSES.join(' or '));
  if (recipe.distillation !== undefined) checkDistillation(recipe.distillation);
  const scaleL1 = recipe.scaleL1 ?? 0;
  need(scaleL1 >= 0 && Number.isFinite(scaleL1), 'scaleL1', scaleL1, 'a number of at least 0');
  for (const field of ['warmupShare', 'labelSmoothing'] as const) {
    const value = recipe[field] ?? 0;
    need(value >= 0 && value < 1, field, value, 'a number in [0, 1)');
  }
  if (recipe.augmentation !== undefined) checkAugmentation(recipe.augmentation);
  const every = recipe.evaluateEveryEpochs ?? 1;
  need(every > 0, 'evaluateEveryEpochs', every, 'a number above 0');
  const patience = recipe.earlyStopping?.patienceEpochs ?? 1;
  need(patience > 0, 'earlyStopping.patienceEpochs', patience, 'a number above 0');
}

/** The step range [from, to) of each phase. Every phase has at least one step. */
export function planPhases(
  recipe: TrainingRecipe,
  stepsPerEpoch: number,
): { readonly from: number; readonly to: number; readonly resolution: number }[] {
  let from = 0;
  return recipe.phases.map(({ epochs, resolution = 1 }) => {
    const to = from + Math.max(1, Math.round(epochs * stepsPerEpoch));
    const phase = { from, to, resolution };
    from = to;
    return phase;
  });
}

/** Where a `step` schedule divides the rate by ten, as shares of all steps (He et al. 2016, section 4.2). */
const STEP_MILESTONES = [0.5, 0.75];

/** The learning rate of step `step` (from 0) out of `total`. */
export function learningRateAt(recipe: TrainingRecipe, step: number, total: number): number {
  const warmup = Math.round((recipe.warmupShare ?? 0) * total);
  if (step < warmup) return (recipe.learningRate * (step + 1)) / (warmup + 1);
  const progress = (step - warmup) / Math.max(total - warmup, 1);
  switch (recipe.schedule) {
    case 'cosine':
      return (recipe.learningRate * (1 + Math.cos(Math.PI * progress))) / 2;
    case 'one-cycle':
      return recipe.learningRate * (1 - progress);
    case 'step':
      return recipe.learningRate * 0.1 ** STEP_MILESTONES.filter((share) => step >= share * total).length;
    case 'constant':
      return recipe.learningRate;
    default:
      throw new InvalidArgumentError(`There is no schedule "${String(recipe.schedule satisfies never)}".`);
  }
}
