import { expect, test } from 'vitest';
import { float32Tensor, floatsOf, int64Tensor, scalarTensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { float, floats } from '../../graph/attributes.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { spread } from '../../ops/op-cases.fixture.ts';
import { lowerTrainingStep } from '../lower/lower.ts';
import { PLAIN_SGD } from './optimizer.ts';
import { buildTrainingStep, readParameters } from './training-step.ts';

/** A network of operators that were redefined between opset 7 and 17, in the words of the given one. */
function network(opset: number, axis = opset < 13 ? 1 : -1): Model {
  const b = new GraphBuilder('words');
  const x = b.input('image', 'float32', ['N', 2, 4, 4]);
  const weight = (name: string, shape: number[], seed: number) =>
    b.initializer(name, spread(shape, seed, -1, 1));
  const sides = [0, 0, 1, 1, 0, 0, 1, 1];
  const padded = opset < 11 ? b.op('Pad', [x], { pads: sides }) : b.op('Pad', [x, b.ints(sides)]);
  const y = b.op('Conv', [padded, weight('w', [4, 2, 3, 3], 1)]);
  const limits = { min: float(-1), max: float(2) };
  const clipped = opset < 11 ? b.op('Clip', [y], limits) : b.op('Clip', [y, b.scalar(-1), b.scalar(2)]);
  const halves =
    opset < 13
      ? b.ops('Split', [clipped], { axis: 1, split: [1, 3] }, { outputs: 2 })
      : b.ops('Split', [clipped, b.ints([1, 3])], { axis: 1 }, { outputs: 2 });
  const product = b.op('Pow', [b.op('Mul', halves), b.scalar(2)]);
  const pooled = b.op('AveragePool', [product], { kernel_shape: [4, 4] });
  const flat =
    opset < 13 ? b.op('Squeeze', [pooled], { axes: [2, 3] }) : b.op('Squeeze', [pooled, b.ints([2, 3])]);
  const rows = opset < 13 ? b.op('Unsqueeze', [flat], { axes: [1] }) : b.op('Unsqueeze', [flat, b.ints([1])]);
  const sum =
    opset < 13
      ? b.op('ReduceSum', [rows], { axes: [1], keepdims: 0 })
      : b.op('ReduceSum', [rows, b.ints([1])], { keepdims: 0 });
  const soft = b.op('Softmax', [sum], { axis });
  b.output(b.op('Gemm', [soft, weight('fc', [3, 5], 2)], {}, { outputs: ['logits'] }), 'float32', ['N', 5]);
  return modelOf(b.finish(), { opset });
}

async function gradientOf(model: Model): Promise<Float32Array> {
  const step = buildTrainingStep(model, { batch: 2, optimizer: PLAIN_SGD });
  const session = await Session.create(writeModel(lowerTrainingStep(step.model, { block: 1 })));
  const vector = (values: Float32Array) => float32Tensor([step.parameterCount], values);
  try {
    const { velocity_next: gradient } = await session.run({
      image: spread([2, 2, 4, 4], 3, -1, 1),
      label: int64Tensor([1, 3]),
      learning_rate: scalarTensor(0),
      parameters: vector(readParameters(model, step).parameters),
      velocity: vector(new Float32Array(step.parameterCount)),
    });
    return floatsOf(gradient!);
  } finally {
    await session.release();
  }
}

test.each([7, 8, 9, 10, 11, 12, 13, 15])(
  'a network of opset %i trains as that of opset 17',
  async (opset) => {
    const [actual, expected] = [await gradientOf(network(opset)), await gradientOf(network(17))];
    expect(expected.some((value) => Math.abs(value) > 1e-4)).toBe(true);
    for (const [i, value] of expected.entries()) expect(actual[i]).toBeCloseTo(value, 6);
  },
);

/** Features twice as large, and a softmax over all positions of an image at once. */
function resized(opset: 8 | 9 | 11 | 17): Model {
  const b = new GraphBuilder('resized');
  const x = b.input('image', 'float32', ['N', 2, 4, 4]);
  const y = b.op('Conv', [x, b.initializer('w', spread([4, 2, 3, 3], 1, -1, 1))]);
  const scales = [1, 1, 2, 2];
  const scaled = b.constant(float32Tensor([4], scales));
  const large =
    opset === 8
      ? b.op('Upsample', [y], { scales: floats(scales) })
      : opset === 9
        ? b.op('Upsample', [y, scaled])
        : b.op('Resize', [y, undefined, scaled], {
            coordinate_transformation_mode: 'asymmetric',
            nearest_mode: 'floor',
          });
  const soft =
    opset < 13
      ? b.op('Softmax', [large], { axis: 1 })
      : b.op('Reshape', [b.op('Softmax', [b.op('Flatten', [large])]), b.ints([0, 4, 4, 4])]);
  const fc = b.initializer('fc', spread([64, 5], 2, -1, 1));
  b.output(b.op('Gemm', [b.op('Flatten', [soft]), fc], {}, { outputs: ['logits'] }), 'float32', ['N', 5]);
  return modelOf(b.finish(), { opset });
}

test.each([8, 9, 11] as const)('what means something else in opset %i is written anew', async (opset) => {
  const [actual, expected] = [await gradientOf(resized(opset)), await gradientOf(resized(17))];
  expect(expected.some((value) => Math.abs(value) > 1e-4)).toBe(true);
  for (const [i, value] of expected.entries()) expect(actual[i]).toBeCloseTo(value, 6);
});

test('a node that may mean something else, and cannot be written anew, is refused', () => {
  const options = { batch: 2, optimizer: PLAIN_SGD };
  expect(() => buildTrainingStep(network(19), options)).toThrow(/AveragePool.*opset 17.*opset 19/);
  const b = new GraphBuilder('positions');
  const kernel = b.initializer('w', spread([4, 2, 1, 1], 1, -1, 1));
  const x = b.op('Conv', [b.input('image', 'float32', ['N', 2, 4, 4]), kernel]);
  const each = b.initializer('each', spread([4, 4, 4], 1, 1, 2));
  b.output(
    b.op('Flatten', [b.op('BatchNormalization', [x, each, each, each, each], { spatial: 0 })]),
    'float32',
  );
  const model = modelOf(b.finish(), { opset: 8 });
  expect(() => buildTrainingStep(model, options)).toThrow(/BatchNormalization.*spatial = 0/);
});
