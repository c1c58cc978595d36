import { describe, expect, it } from 'vitest';
import type { Optimizer } from '../../transform/autodiff/optimizer.ts';
import { checkRecipe, learningRateAt, planPhases, type TrainingRecipe } from './recipe.ts';

const sgd = { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 0 } as const;
const adamw = { name: 'adamw', weightDecay: 0.01 } as const;
const recipe: TrainingRecipe = {
  phases: [{ epochs: 1.5, resolution: 0.5 }, { epochs: 0.5 }],
  batch: 10,
  learningRate: 1,
  schedule: 'cosine',
  optimizer: sgd,
};
const rates = (changes: Partial<TrainingRecipe>, steps: readonly number[]) =>
  steps.map((step) => learningRateAt({ ...recipe, ...changes }, step, 100));

describe('a recipe', () => {
  it('runs its phases one after the other, fractions of epochs in whole steps', () => {
    expect(planPhases(recipe, 7)).toEqual([
      { from: 0, to: 11, resolution: 0.5 },
      { from: 11, to: 15, resolution: 1 },
    ]);
    expect(planPhases({ ...recipe, phases: [{ epochs: 0.01 }] }, 7)).toEqual([
      { from: 0, to: 1, resolution: 1 },
    ]);
  });

  it('follows each schedule', () => {
    expect(rates({ schedule: 'constant' }, [0, 99])).toEqual([1, 1]);
    expect(rates({ schedule: 'step' }, [0, 49, 50, 74, 75])).toEqual([1, 1, 0.1, 0.1, expect.closeTo(0.01)]);
    expect(rates({ schedule: 'cosine' }, [0, 50])).toEqual([1, expect.closeTo(0.5)]);
    expect(rates({ schedule: 'one-cycle' }, [0, 25, 75])).toEqual([1, 0.75, 0.25]);
  });

  it('warms up from near zero to the full rate', () => {
    // 20 steps of warm-up: (step + 1) / 21, then the schedule begins at its top.
    expect(rates({ warmupShare: 0.2, schedule: 'one-cycle' }, [0, 19, 20])).toEqual([1 / 21, 20 / 21, 1]);
  });

  it.each([
    [{ phases: [] }, /phases is empty/],
    [{ phases: [{ epochs: 0 }] }, /phases\[0\]\.epochs is 0/],
    [{ batch: 1.5 }, /batch is 1\.5/],
    [{ learningRate: Number.NaN }, /learningRate is NaN/],
    [{ optimizer: { ...sgd, momentum: 1 } }, /momentum is 1/],
    [{ optimizer: { ...sgd, weightDecay: -1 } }, /weightDecay is -1/],
    [{ optimizer: { ...adamw, beta2: 1 } }, /beta2 is 1/],
    [{ optimizer: { ...adamw, epsilon: 0 } }, /epsilon is 0/],
    // As recipes were before there was more than one optimiser.
    [{ optimizer: undefined as unknown as Optimizer }, /optimizer is undefined, expected \{ name: 'sgd'/],
    [{ clipNorm: 0 }, /clipNorm is 0/],
    [{ loss: 'hinge' as 'mse' }, /loss is hinge, expected cross-entropy or mse/],
    [{ distillation: { temperature: 0, weight: 0.5 } }, /temperature is 0/],
    [{ distillation: { temperature: 4, weight: 1.1 } }, /weight is 1\.1/],
    [{ labelSmoothing: -0.1 }, /labelSmoothing is -0\.1/],
    [{ scaleL1: -1 }, /scaleL1 is -1/],
    [{ augmentation: { shiftPixels: 0.5 } }, /shiftPixels is 0\.5/],
    [{ augmentation: { rotateDegrees: 181 } }, /rotateDegrees is 181, expected a number from 0 to 180/],
  ])('names a field that is wrong: %j', (changes, message) => {
    expect(() => checkRecipe({ ...recipe, ...changes })).toThrow(message);
  });
});
