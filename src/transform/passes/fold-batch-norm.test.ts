import { expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model, Shape } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { inputsFor } from '../prune/networks.fixture.ts';
import { foldBatchNorm } from './fold-batch-norm.ts';

const random = seededRandom(11);
const tensor = (shape: readonly number[], make = () => random.normal()): Tensor =>
  float32Tensor(shape, Float32Array.from({ length: elementCount(shape) }, make));
const spread = () => 0.5 + random.uniform();

function network(shape: Shape, write: (b: GraphBuilder, x: string) => string): Model {
  const b = new GraphBuilder('net');
  b.output(write(b, b.input('x', 'float32', shape)), 'float32');
  return modelOf(b.finish());
}

function batchNorm(b: GraphBuilder, x: string, channels: number): string {
  const parameters = [spread, random.normal, random.normal, spread].map((make) =>
    b.constant(tensor([channels], make)),
  );
  return b.op('BatchNormalization', [x, ...parameters], { epsilon: 1e-3 });
}

/** Largest difference of the outputs, relative to the largest output. */
async function difference(model: Model, other: Model): Promise<number> {
  const feeds = inputsFor(model, 3);
  const answers: Float32Array[] = [];
  for (const each of [model, other]) {
    const session = await Session.create(writeModel(each), { optimization: 'disabled' });
    const results = await session.run(feeds);
    answers.push(floatsOf(results[each.graph.outputs[0]!.name]!));
    await session.release();
  }
  const [expected, actual] = answers as [Float32Array, Float32Array];
  const scale = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return expected.reduce((worst, value, i) => Math.max(worst, Math.abs(value - actual[i]!)), 0) / scale;
}

const image: Shape = ['N', 4, 6, 6];

test.each<[string, Shape, (b: GraphBuilder, x: string) => string, string[]]>([
  [
    'Conv with bias',
    image,
    (b, x) => batchNorm(b, b.op('Conv', [x, b.constant(tensor([6, 4, 3, 3])), b.constant(tensor([6]))]), 6),
    ['Conv'],
  ],
  [
    'Conv without bias, twice',
    image,
    (b, x) => batchNorm(b, batchNorm(b, b.op('Conv', [x, b.constant(tensor([6, 4, 3, 3]))]), 6), 6),
    ['Conv'],
  ],
  [
    'depthwise Conv',
    image,
    (b, x) => batchNorm(b, b.op('Conv', [x, b.constant(tensor([8, 1, 3, 3]))], { group: 4 }), 8),
    ['Conv'],
  ],
  [
    'grouped ConvTranspose',
    image,
    (b, x) => batchNorm(b, b.op('ConvTranspose', [x, b.constant(tensor([4, 3, 3, 3]))], { group: 2 }), 6),
    ['ConvTranspose'],
  ],
  [
    'Gemm, rows',
    ['N', 5],
    (b, x) =>
      batchNorm(
        b,
        b.op('Gemm', [x, b.constant(tensor([3, 5])), b.constant(tensor([1, 3]))], { transB: 1 }),
        3,
      ),
    ['Gemm'],
  ],
  [
    'Gemm, columns, scaled',
    ['N', 5],
    (b, x) =>
      batchNorm(b, b.op('Gemm', [x, b.constant(tensor([5, 3])), b.constant(tensor([]))], { alpha: 0.5 }), 3),
    ['Gemm'],
  ],
  [
    'the constants of a decomposed BatchNormalization',
    image,
    (b, x) => {
      const y = b.op('Conv', [x, b.constant(tensor([6, 4, 1, 1]))]);
      const centred = b.op('Sub', [y, b.constant(tensor([6, 1, 1]))]);
      const divided = b.op('Div', [centred, b.constant(tensor([1, 6, 1, 1], spread))]);
      const scaled = b.op('Mul', [b.constant(tensor([6, 1, 1])), divided]);
      return b.op('Add', [scaled, b.scalar(0.25)]);
    },
    ['Conv'],
  ],
])('folds into %s and changes nothing but rounding', async (_, shape, write, left) => {
  const model = network(shape, write);
  const before = structuredClone(model.graph.initializers);
  const folded = foldBatchNorm(model);
  expect(folded.graph.nodes.map((node) => node.opType)).toEqual(left);
  expect(await difference(model, folded)).toBeLessThan(1e-5);
  expect(model.graph.initializers).toEqual(before);
  expect(foldBatchNorm(folded)).toBe(folded);
});

test.each<[string, (b: GraphBuilder, x: string) => string]>([
  [
    'a result that somebody else reads as well',
    (b, x) => {
      const y = b.op('Conv', [x, b.constant(tensor([4, 4, 1, 1]))]);
      return b.op('Add', [y, batchNorm(b, y, 4)]);
    },
  ],
  ['a BatchNormalization behind something else', (b, x) => batchNorm(b, b.op('Relu', [x]), 4)],
  [
    'a constant that differs by position',
    (b, x) => b.op('Mul', [b.op('Conv', [x, b.constant(tensor([4, 4, 1, 1]))]), b.constant(tensor([6, 6]))]),
  ],
  [
    'a constant that makes the value larger',
    (b, x) =>
      b.op('Mul', [b.op('Conv', [x, b.constant(tensor([4, 4, 1, 1]))]), b.constant(tensor([1, 1, 4, 1, 1]))]),
  ],
  [
    'a constant that is divided by the result',
    (b, x) =>
      b.op('Div', [b.constant(tensor([4, 1, 1])), b.op('Conv', [x, b.constant(tensor([4, 4, 1, 1]))])]),
  ],
])('leaves alone %s', (_, write) => {
  const model = network(image, write);
  expect(foldBatchNorm(model)).toBe(model);
});

test('a bias of Gemm with one value for each row is no bias of channels', () => {
  const model = network([3, 5], (b, x) =>
    batchNorm(b, b.op('Gemm', [x, b.constant(tensor([5, 3])), b.constant(tensor([3, 1]))]), 3),
  );
  expect(foldBatchNorm(model)).toBe(model);
});
