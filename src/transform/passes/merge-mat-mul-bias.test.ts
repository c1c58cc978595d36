import { expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { checkModel } from '../../graph/check.ts';
import type { Model, Shape } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { inputsFor } from '../prune/networks.fixture.ts';
import { mergeMatMulBias } from './merge-mat-mul-bias.ts';

const random = seededRandom(6);
const tensor = (shape: readonly number[]): Tensor =>
  float32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
  );

function product(shape: Shape, bias: readonly number[], isBiasFirst = false): Model {
  const b = new GraphBuilder('product');
  const y = b.op('MatMul', [b.input('x', 'float32', shape), b.initializer('w', tensor([5, 3]))]);
  const c = b.initializer('b', tensor(bias));
  b.output(b.op('Add', isBiasFirst ? [c, y] : [y, c]), 'float32');
  return modelOf(b.finish());
}

test.each([
  [[3], false],
  [[3], true],
  [[1, 3], false],
] as const)('a product with a bias of shape %j becomes one Gemm of the same value', async (bias, isFirst) => {
  const model = product(['N', 5], bias, isFirst);
  const merged = mergeMatMulBias(model);
  checkModel(merged);
  expect(merged.graph.nodes.map((node) => node.opType)).toEqual(['Gemm']);
  const feeds = inputsFor(model, 2);
  const answers: Float32Array[] = [];
  for (const each of [model, merged]) {
    const session = await Session.create(writeModel(each), { optimization: 'disabled' });
    answers.push(floatsOf((await session.run(feeds))[model.graph.outputs[0]!.name]!));
    await session.release();
  }
  answers[0]!.forEach((value, i) => {
    expect(answers[1]![i]).toBeCloseTo(value, 5);
  });
});

test('higher ranks, and additions that are no bias of columns, are left alone', () => {
  for (const model of [product(['N', 2, 5], [3]), product([2, 5], [2, 1]), product(['N', 5], [1, 1, 3])]) {
    expect(mergeMatMulBias(model)).toBe(model);
  }
});
