import { describe, expect, it } from 'vitest';
import { float32Tensor } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { evaluate } from './evaluate.ts';

/** Scores class k by pixel k: the answer is the brightest pixel. */
function brightestPixel() {
  const b = new GraphBuilder('brightest');
  const image = b.input('image', 'float32', ['N', 1, 1, 3]);
  b.ops('Flatten', [image], {}, { outputs: ['logits'] });
  b.output('logits', 'float32', ['N', 3]);
  return modelOf(b.finish());
}

// Brightest pixels 0, 1, 2, 1, 1.
const images = Uint8Array.of(9, 0, 0, 0, 9, 0, 0, 0, 9, 1, 9, 1, 8, 9, 8);
const split = { count: 5, images, labels: Uint8Array.of(0, 1, 2, 0, 1) };

describe('evaluate', () => {
  it.each([1, 2, 5, 64])('counts every example once with batches of %i', async (batch) => {
    expect(await evaluate(brightestPixel(), split, { batch })).toEqual({
      accuracy: 0.8,
      count: 5,
      correct: 4,
      confusion: [
        [1, 1, 0, 0],
        [0, 2, 0, 0],
        [0, 0, 1, 0],
      ],
    });
  });

  it('counts scores that are not numbers as wrong', async () => {
    const b = new GraphBuilder('broken');
    const image = b.input('image', 'float32', ['N', 1, 1, 3]);
    const flat = b.op('Flatten', [image]);
    b.ops('Mul', [flat, b.constant(float32Tensor([], [Number.NaN]))], {}, { outputs: ['logits'] });
    b.output('logits', 'float32', ['N', 3]);
    expect(await evaluate(modelOf(b.finish()), split)).toMatchObject({ correct: 0, count: 5 });
  });

  it('refuses images of another size, classes it does not know, and bytes that are no network', async () => {
    await expect(evaluate(brightestPixel(), { ...split, count: 4 })).rejects.toMatchObject({
      code: 'shape_mismatch',
    });
    const strange = { ...split, labels: Uint8Array.of(0, 1, 2, 3, 1) };
    await expect(evaluate(brightestPixel(), strange)).rejects.toMatchObject({ code: 'shape_mismatch' });
    await expect(evaluate(Uint8Array.of(1, 2, 3), split)).rejects.toMatchObject({ code: 'load_failed' });
    await expect(evaluate(brightestPixel(), split, { batch: 0 })).rejects.toMatchObject({
      code: 'invalid_argument',
    });
  });

  it('stops on request', async () => {
    const signal = AbortSignal.abort();
    await expect(evaluate(brightestPixel(), split, { signal })).rejects.toMatchObject({ code: 'aborted' });
  });
});
