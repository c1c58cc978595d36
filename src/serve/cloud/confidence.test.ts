import { describe, expect, it } from 'vitest';
import { float32Tensor } from '../../base/tensor.ts';
import { verdictsOf } from './confidence.ts';

const output = (shape: number[], values: number[]) => [{ ...float32Tensor(shape, values), name: 'scores' }];

describe('the confidence of an answer', () => {
  it('is the softmax of scores, one verdict for each example', () => {
    // e² / (e² + e + 1) = 0.6652; the second row is even.
    const verdicts = verdictsOf(output([2, 3], [1, 2, 0, 5, 5, 5]))!;
    expect(verdicts.map((verdict) => verdict.class)).toEqual([1, 0]);
    expect(verdicts[0]!.confidence).toBeCloseTo(0.6652, 4);
    expect(verdicts[1]!.confidence).toBeCloseTo(1 / 3, 6);
  });

  it('is the probability itself where the network gives probabilities', () => {
    expect(verdictsOf(output([1, 2], [0.25, 0.75]))).toEqual([{ class: 1, confidence: 0.75 }]);
  });

  it('stands for scores of any size', () => {
    expect(verdictsOf(output([1, 2], [1e30, -1e30]))).toEqual([{ class: 0, confidence: 1 }]);
  });

  it.each([
    ['one column', output([3, 1], [1, 2, 3])],
    ['an image', output([1, 1, 2, 2], [1, 2, 3, 4])],
    ['two outputs', [...output([1, 2], [0, 1]), ...output([1, 2], [0, 1])]],
    ['no number', output([1, 2], [Number.NaN, 1])],
    ['none', []],
  ])('is unknown for what is no classifier: %s', (_, outputs) => {
    expect(verdictsOf(outputs)).toBeUndefined();
  });
});
