import { expect, test } from 'vitest';
import { seededRandom } from '../base/random.ts';
import { float32Tensor, floatsOf } from '../base/tensor.ts';
import { Session } from '../engine/session.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { checkModel } from '../graph/check.ts';
import type { Model, Shape } from '../graph/model.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { withImageInput } from './image-input.ts';

const data = { shape: [3, 4, 5], normalization: { mean: [0.1, 0.2, 0.3], std: [0.5, 0.25, 2] } } as const;

/** y = x under a node that is called like its input. */
function echo(shape: Shape): Model {
  const b = new GraphBuilder('echo');
  const x = b.input('x', 'float32', shape);
  b.ops('Relu', [b.op('Add', [x, b.scalar(10)], {}, { name: 'x' })], {}, { outputs: ['y'], name: 'sub' });
  b.output('y', 'float32');
  return modelOf(b.finish());
}

test.each([false, true])('pixels reach a network in its own layout (normalised: %s)', async (normalize) => {
  const random = seededRandom(1);
  const pixels = Float32Array.from({ length: 2 * 60 }, () => random.uniform());
  const { mean, std } = data.normalization;
  for (const isLast of [false, true]) {
    const model = withImageInput(echo(isLast ? [2, 4, 5, 3] : [2, 3, 4, 5]), data, { normalize });
    checkModel(model);
    const session = await Session.create(writeModel(model));
    const results = await session.run({ [session.inputNames[0]!]: float32Tensor([2, 3, 4, 5], pixels) });
    const actual = floatsOf(results.y!);
    await session.release();
    pixels.forEach((pixel, i) => {
      const [n, c, p] = [Math.floor(i / 60), Math.floor(i / 20) % 3, i % 20];
      const at = isLast ? n * 60 + p * 3 + c : i;
      expect(actual[at]).toBeCloseTo(10 + (normalize ? (pixel - mean[c]!) / std[c]! : pixel), 4);
    });
  }
});

test('a network that takes pixels as they are comes back itself; another size or kind of input is refused', () => {
  const model = echo(['N', 3, 4, 5]);
  expect(withImageInput(model, data)).toBe(model);
  for (const shape of [
    [1, 3, 5, 4],
    [1, 60],
    ['N', null, null, null],
  ]) {
    expect(() => withImageInput(echo(shape), data)).toThrow(
      expect.objectContaining({ code: 'shape_mismatch' }) as Error,
    );
  }
});

test('a network in 16-bit floats takes float32 pixels through a conversion; one that takes integers is refused', async () => {
  const pixels = Float32Array.from({ length: 60 }, (_, i) => i / 64);
  const half = (dtype: 'float16' | 'uint8') => {
    const b = new GraphBuilder('half');
    b.output(b.op('Cast', [b.input('x', dtype, ['N', 3, 4, 5])], { to: 1 }, { outputs: ['y'] }), 'float32');
    return modelOf(b.finish());
  };
  for (const normalize of [false, true]) {
    const model = withImageInput(half('float16'), data, { normalize });
    checkModel(model);
    const session = await Session.create(writeModel(model));
    const results = await session.run({ [session.inputNames[0]!]: float32Tensor([1, 3, 4, 5], pixels) });
    const { mean, std } = data.normalization;
    for (const [i, value] of floatsOf(results.y!).entries()) {
      const c = Math.floor(i / 20);
      expect(value).toBeCloseTo(normalize ? (pixels[i]! - mean[c]!) / std[c]! : pixels[i]!, 2);
    }
    await session.release();
  }
  expect(() => withImageInput(half('uint8'), data)).toThrow(/"x" is uint8; images are floats.*float16/);
});
