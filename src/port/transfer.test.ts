import { describe, expect, it, test } from 'vitest';
import { float32Tensor, floatsOf, int64Tensor } from '../base/tensor.ts';
import { Session } from '../engine/session.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import type { Model, Shape } from '../graph/model.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { backbone } from './backbones/registry.ts';
import { transferTo } from './transfer.ts';

const data = { shape: [3, 8, 6], classes: ['ant', 'bee', 'wasp'] } as const;

/** A convolution, a mean over the image, and what `head` makes of its four channels. */
function network(image: Shape, head: (b: GraphBuilder, pooled: string) => void): Model {
  const b = new GraphBuilder('net');
  const x = b.input('image', 'float32', image);
  const kernel = b.constant(
    float32Tensor(
      [4, 3, 1, 1],
      Float32Array.from({ length: 12 }, (_, i) => i / 12),
    ),
  );
  head(b, b.op('GlobalAveragePool', [b.op('Conv', [x, kernel])]));
  return modelOf(b.finish());
}

const features = (b: GraphBuilder, sizes: readonly number[], name: string) =>
  b.initializer(name, float32Tensor(sizes, new Float32Array(sizes.reduce((a, c) => a * c)).fill(1)));

const heads: Record<string, (b: GraphBuilder, pooled: string) => void> = {
  'a Gemm': (b, pooled) => {
    const flat = b.op('Flatten', [pooled]);
    b.ops('Gemm', [flat, features(b, [5, 4], 'w'), features(b, [5], 'c')], { transB: 1 }, { outputs: ['y'] });
    b.output('y', 'float32', [1, 5]);
  },
  'a MatMul, a bias and a Softmax': (b, pooled) => {
    const flat = b.op('Flatten', [pooled]);
    const product = b.op('MatMul', [flat, features(b, [4, 5], 'w')]);
    b.ops('Softmax', [b.op('Add', [features(b, [5], 'c'), product])], { axis: 1 }, { outputs: ['y'] });
    b.output('y', 'float32', [1, 5]);
  },
  'a convolution and a Reshape to the number of classes': (b, pooled) => {
    const scores = b.op('Conv', [pooled, features(b, [5, 4, 1, 1], 'w'), features(b, [5], 'c')]);
    const target = b.constant(int64Tensor([-1, 5]));
    b.ops('Reshape', [scores, target], {}, { outputs: ['y'] });
    b.output('y', 'float32', [1, 5]);
  },
};

async function answer(
  model: Model,
  count: number,
): Promise<{ shape: readonly number[]; values: Float32Array }> {
  const session = await Session.create(writeModel(model));
  const [height, width] = [data.shape[1], data.shape[2]];
  const images = Float32Array.from({ length: count * 3 * height * width }, (_, i) => (i % 17) / 17);
  const { [session.outputNames[0]!]: y } = await session.run({
    [session.inputNames[0]!]: float32Tensor([count, 3, height, width], images),
  });
  await session.release();
  return { shape: y!.shape, values: floatsOf(y!) };
}

describe.each(Object.keys(heads))('a network that ends with %s', (name) => {
  const trained = network([1, 3, 4, 4], heads[name]!);

  it('answers for the classes and images of other data, any number of them', async () => {
    const moved = transferTo(trained, data, { seed: 1 });
    const { shape, values } = await answer(moved, 2);
    expect(shape).toEqual([2, 3]);
    expect(new Set(values).size).toBeGreaterThan(3); // The new weights differ from each other.
    expect(moved.graph.outputs[0]!.type!.shape!.slice(1)).toEqual([3]);
  });

  it('keeps all other weights, and gets the same new ones by the same seed', () => {
    const [a, b, other] = [1, 1, 2].map((seed) => transferTo(trained, data, { seed }).graph.initializers);
    expect(a).toEqual(b);
    expect(a!.get('w')).not.toEqual(other!.get('w'));
    const kernel = [...trained.graph.initializers.values()][0];
    expect([...a!.values()]).toContainEqual(kernel);
  });
});

test('weights that another layer reads too stay as they are there', () => {
  const shared = network(['N', 3, 4, 4], (b, pooled) => {
    const w = features(b, [4, 4], 'w');
    const flat = b.op('Flatten', [pooled]);
    b.ops('MatMul', [b.op('MatMul', [flat, w]), w], {}, { outputs: ['y'] });
    b.output('y', 'float32');
  });
  const { initializers, nodes } = transferTo(shared, data, { seed: 1 }).graph;
  expect(initializers.get('w')!.shape).toEqual([4, 4]);
  expect(nodes.at(-1)!.inputs[1]).not.toBe('w');
});

test('a backbone takes images of another size', async () => {
  const trained = backbone('resnet-8').build({
    inputShape: [3, 16, 16],
    classes: 10,
    normalization: { mean: [0, 0, 0], std: [1, 1, 1] },
    seed: 1,
  });
  expect((await answer(transferTo(trained, data, { seed: 1 }), 2)).shape).toEqual([2, 3]);
});

test('what cannot be transferred says why', () => {
  const flat = network([1, 3, 4, 4], (b) => {
    const all = b.op('Flatten', ['image']);
    b.ops('Gemm', [all, features(b, [48, 5], 'w')], {}, { outputs: ['y'] });
    b.output('y', 'float32', [1, 5]);
  });
  expect(() => transferTo(flat, data, { seed: 1 })).toThrow(/3×8×6 and tell 3 classes apart: .*size=32/);
  const two = network([1, 3, 4, 4], (b, pooled) => {
    b.ops('Add', [pooled, b.op('Relu', [pooled])], {}, { outputs: ['y'] });
    b.output('y', 'float32');
  });
  expect(() => transferTo(two, data, { seed: 1 })).toThrow(/replaces the last layer, .* here it is Add/);
  const none = network([1, 3, 4, 4], (b, pooled) => {
    b.ops('Relu', ['image'], {}, { outputs: ['y'] });
    b.output('y', 'float32');
    b.op('Relu', [pooled]);
  });
  expect(() => transferTo(none, data, { seed: 1 })).toThrow(/none before its output/);
});
