import { expect, test } from 'vitest';
import { float32Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { float, floats } from '../../graph/attributes.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { checkModel } from '../../graph/check.ts';
import { type Model, opsetOf, type Shape } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { inputsFor } from '../prune/networks.fixture.ts';
import { liftOpset } from './lift-opset.ts';

function network(opset: number, shape: Shape, write: (b: GraphBuilder, x: string) => string[]): Model {
  const b = new GraphBuilder('net');
  for (const output of write(b, b.input('x', 'float32', shape))) b.output(output, 'float32');
  return modelOf(b.finish(), { opset });
}

const image: Shape = [2, 4, 6, 6];
const one =
  (opType: string, attributes = {}) =>
  (b: GraphBuilder, x: string) => [b.op(opType, [x], attributes)];

test.each<[string, number, Shape, (b: GraphBuilder, x: string) => string[]]>([
  ['Clip with both bounds', 8, image, one('Clip', { min: float(-0.5), max: float(0.25) })],
  ['Clip with one bound', 10, image, one('Clip', { min: float(0) })],
  ['Dropout', 10, image, one('Dropout', { ratio: float(0.5) })],
  ['Pad by zero', 9, image, one('Pad', { pads: [0, 0, 1, 2, 0, 0, 3, 4] })],
  ['Pad by a value', 10, image, one('Pad', { pads: [0, 0, 1, 2, 0, 0, 3, 4], value: float(1.5) })],
  ['Pad by reflection', 9, image, one('Pad', { pads: [0, 0, 1, 2, 0, 0, 2, 1], mode: 'reflect' })],
  ['Slice', 9, image, one('Slice', { starts: [1, 0], ends: [3, -1], axes: [1, 3] })],
  ['Split', 11, image, (b, x) => b.ops('Split', [x], { axis: 1, split: [1, 3] }, { outputs: 2 })],
  ['Split in equal parts', 11, image, (b, x) => b.ops('Split', [x], { axis: 1 }, { outputs: 2 })],
  ['ReduceSum', 11, image, one('ReduceSum', { axes: [2, 3], keepdims: 0 })],
  ['Squeeze', 11, [2, 4, 1, 1], one('Squeeze', { axes: [2, 3] })],
  ['Squeeze of all', 11, [2, 4, 1, 1], one('Squeeze')],
  ['Unsqueeze', 11, image, one('Unsqueeze', { axes: [0, 3] })],
  ['Softmax of a matrix', 9, [2, 4], one('Softmax')],
  ['Softmax over all axes', 9, image, one('Softmax', { axis: 1 })],
  ['Softmax over the last axes', 12, image, one('LogSoftmax', { axis: 2 })],
  ['Softmax of one pixel', 12, [2, 4, 1, 1], one('Softmax', { axis: 1 })],
  ['Softmax of an unknown batch', 9, ['N', 4, 3, 3], one('Softmax', { axis: 1 })],
  ['Upsample by attribute', 8, image, one('Upsample', { scales: floats([1, 1, 2, 3]) })],
  [
    'Upsample by input',
    9,
    image,
    (b, x) => [b.op('Upsample', [x, b.constant(float32Tensor([4], [1, 1, 1.5, 2]))], { mode: 'linear' })],
  ],
  ['Resize', 10, image, (b, x) => [b.op('Resize', [x, b.constant(float32Tensor([4], [1, 1, 0.5, 1.5]))])]],
  ['TopK', 9, [2, 8], (b, x) => [b.ops('TopK', [x], { k: 3 }, { outputs: 2 })[0]!]],
  [
    'BatchNormalization',
    8,
    image,
    (b, x) => {
      const vector = b.floats([0.5, 1, 1.5, 2]);
      return [b.op('BatchNormalization', [x, vector, vector, vector, vector], { spatial: 1 })];
    },
  ],
])('%s computes the same after lifting', async (_, opset, shape, write) => {
  const model = network(opset, shape, write);
  const lifted = liftOpset(model);
  expect(opsetOf(lifted)).toBe(13);
  checkModel(lifted);
  expect(lifted.graph.outputs.map(({ name }) => name)).toEqual(model.graph.outputs.map(({ name }) => name));
  const feeds = inputsFor(model, 5);
  const [before, after] = await Promise.all([run(model, feeds), run(lifted, feeds)]);
  expect(after).toEqual(before);
});

test('newer networks come back as they are; what has no equivalent is refused with the reason', () => {
  const newer = network(17, image, one('Relu'));
  expect(liftOpset(newer)).toBe(newer);
  expect(() => liftOpset(network(6, image, one('Relu')))).toThrow(/operator set 6/);
  const perPosition = network(8, image, (b, x) => {
    const vector = b.floats([0.5, 1, 1.5, 2]);
    return [b.op('BatchNormalization', [x, vector, vector, vector, vector], { spatial: 0 })];
  });
  expect(() => liftOpset(perPosition)).toThrow(/spatial = 0/);
});

async function run(model: Model, feeds: Parameters<Session['run']>[0]) {
  const session = await Session.create(writeModel(model), { optimization: 'disabled' });
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}
