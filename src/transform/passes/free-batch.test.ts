import { expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf, int64Tensor, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { freeBatch } from './free-batch.ts';

const random = seededRandom(6);
const normal = (shape: readonly number[]) =>
  float32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
  );

/** Conv → Reshape to the given target → MatMul, exported with batch 1. */
function fixed(target: readonly number[]): Model {
  const build = new GraphBuilder('fixed');
  const x = build.op('Conv', [
    build.input('image', 'float32', [1, 2, 3, 3]),
    build.constant(normal([4, 2, 3, 3])),
  ]);
  const flat = build.op('Reshape', [x, build.initializer('target', int64Tensor(target))]);
  build.output(build.op('MatMul', [flat, build.constant(normal([4, 3]))]), 'float32', [1, 3]);
  return modelOf(build.finish());
}

async function run(model: Model, image: Tensor): Promise<Float32Array> {
  const session = await Session.create(writeModel(model));
  try {
    return floatsOf(Object.values(await session.run({ image }))[0]!);
  } finally {
    await session.release();
  }
}

test.each([[[1, -1]], [[1, 4]], [[-1, 4]]])(
  'a network of batch 1 with a Reshape to %j answers for each example',
  async (target) => {
    const model = fixed(target);
    const freed = freeBatch(model)!;
    expect(freed.graph.inputs[0]!.type!.shape).toEqual(['N', 2, 3, 3]);
    const images = normal([5, 2, 3, 3]);
    const together = await run(freed, images);
    expect(together).toHaveLength(15);
    for (let i = 0; i < 5; i++) {
      const one = await run(model, float32Tensor([1, 2, 3, 3], floatsOf(images).slice(i * 18, (i + 1) * 18)));
      for (const [k, value] of one.entries()) expect(together[i * 3 + k]).toBeCloseTo(value, 5);
    }
    expect([...model.graph.initializers.get('target')!.bytes]).toEqual([...int64Tensor(target).bytes]);
  },
);

test('an open batch is left alone; one that is built in otherwise is said to be', () => {
  const model = fixed([1, -1]);
  const freed = freeBatch(model)!;
  expect(freeBatch(freed)).toBe(freed);
  const build = new GraphBuilder('built in');
  const x = build.input('image', 'float32', [2, 4]);
  build.output(build.op('Reshape', [x, build.ints([8])]), 'float32', [8]);
  expect(freeBatch(modelOf(build.finish()))).toBeUndefined();
});
