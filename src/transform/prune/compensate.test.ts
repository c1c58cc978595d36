import { expect, test } from 'vitest';
import { withoutHalf } from '../../base/half.ts';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { halfPrecision } from '../passes/half-precision.fixture.ts';
import { compensationSites } from './compensate.ts';
import type { Criterion } from './importance/criterion.ts';
import { propagateLabels } from './labels.ts';
import { prune } from './prune.ts';

const random = seededRandom(3);
const normal = (shape: readonly number[]) =>
  float32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
  );

/** Conv whose channels 0 and 1 are constant (no weights, only a bias) → Conv without bias → pooling → Gemm. */
function network(): Model {
  const build = new GraphBuilder('net');
  const first = floatsOf(normal([4, 2, 1, 1])).fill(0, 0, 4);
  const kernel = build.initializer('first', float32Tensor([4, 2, 1, 1], first));
  const image = build.input('image', 'float32', ['N', 2, 3, 3]);
  const x = build.op('Conv', [image, kernel, build.floats([3, -2, 1, 1])], {}, { outputs: ['a'] });
  const y = build.op('Conv', [x, build.constant(normal([5, 4, 2, 2]))], {}, { outputs: ['b'] });
  const flat = build.op('Flatten', [build.op('GlobalAveragePool', [y])], {}, { outputs: ['c'] });
  const dense = [build.constant(normal([3, 5])), build.constant(normal([3]))];
  build.output(build.op('Gemm', [flat, ...dense], { transB: 1 }, { outputs: ['logits'] }), 'float32', [
    'N',
    3,
  ]);
  return modelOf(build.finish());
}

const firstGoes: Criterion = {
  name: 'order',
  scores: ({ channels }) => Float64Array.from({ length: channels }, (_, c) => c),
};

test('what constant channels gave is kept exactly in the biases of those who read them', async () => {
  const model = network();
  expect(compensationSites(propagateLabels(model))).toEqual(['a', 'c']);
  const kept = new Map([['b', 5]]);
  const options = { ratio: 0.5, align: 1, criterion: firstGoes, kept } as const;
  // Channels 0 and 1 of `a` go: they are 3 and −2 everywhere. The means of the others must not matter.
  const means = new Map([['a', Float64Array.of(3, -2, 99, 99)]]);
  const [plain, repaired] = [prune(model, options), prune(model, { ...options, means })];
  expect(repaired.groups).toEqual(plain.groups);
  const image = normal([2, 2, 3, 3]);
  const outputs: Float32Array[] = [];
  for (const each of [model, repaired.model, plain.model]) {
    const session = await Session.create(writeModel(each));
    outputs.push(floatsOf((await session.run({ image })).logits!));
    await session.release();
  }
  const difference = (a: Float32Array, b: Float32Array) => Math.max(...a.map((v, i) => Math.abs(v - b[i]!)));
  expect(difference(outputs[1]!, outputs[0]!)).toBeLessThan(1e-4);
  expect(difference(outputs[2]!, outputs[0]!)).toBeGreaterThan(0.1);
});

test('biases of networks in 16-bit floats are repaired in their own type', () => {
  const float = network();
  const means = new Map([['a', Float64Array.of(3, -2, 99, 99)]]);
  const options = { ratio: 0.5, align: 1, criterion: firstGoes, kept: new Map([['b', 5]]), means } as const;
  const biasOf = ({ graph }: Model) => {
    const second = graph.nodes.find(({ outputs }) => outputs[0] === 'b')!;
    return graph.initializers.get(second.inputs[2]!)!;
  };
  const [actual, expected] = [halfPrecision(float), float].map((model) =>
    biasOf(prune(model, options).model),
  );
  expect(actual!.dtype).toBe('float16');
  const values = floatsOf(withoutHalf(actual!));
  expect(values.length).toBe(5);
  for (const [i, value] of floatsOf(expected!).entries())
    expect(Math.abs(values[i]! - value)).toBeLessThan(0.01 * Math.max(1, Math.abs(value)));
});
