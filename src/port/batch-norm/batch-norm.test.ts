import { expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';
import type { Split } from '../data/data-module.ts';
import { reestimateBatchNorm } from './batch-norm.ts';

/** BatchNormalization of the image itself, then a classifier: its statistics are those of the pixels. */
function network(momentum: number): Model {
  const build = new GraphBuilder('net');
  const vector = (name: string, values: readonly number[]) =>
    build.initializer(name, float32Tensor([2], values));
  const image = build.input('image', 'float32', ['N', 2, 2, 2]);
  const normal = build.op(
    'BatchNormalization',
    [image, vector('scale', [1, 2]), vector('shift', [0, 1]), vector('mean', [9, 9]), vector('var', [7, 7])],
    { momentum: { kind: 'float', value: momentum } },
  );
  const flat = build.op('Flatten', [build.op('GlobalAveragePool', [normal])]);
  build.output(
    build.op('Gemm', [flat, build.initializer('w', float32Tensor([2, 3], [1, 2, 3, 4, 5, 6]))]),
    'float32',
    ['N', 3],
  );
  return modelOf(build.finish());
}

const random = seededRandom(5);
const split: Split = {
  count: 12,
  images: Uint8Array.from({ length: 12 * 8 }, () => random.integer(256)),
  labels: Uint8Array.from({ length: 12 }, (_, i) => i % 3),
};

test.each([0.9, 0.5])(
  'running averages become the plain average over mini-batches (momentum %d)',
  async (momentum) => {
    const model = network(momentum);
    const result = await reestimateBatchNorm(model, split, { seed: 1, batch: 12, batches: 1 });
    for (const [name, moment] of [
      ['mean', (values: number[]) => average(values)],
      ['var', (values: number[]) => average(values.map((v) => (v - average(values)) ** 2))],
    ] as const) {
      const found = floatsOf(result.graph.initializers.get(name)!);
      for (const channel of [0, 1]) {
        const values = [...split.images]
          .filter((_, at) => Math.floor(at / 4) % 2 === channel)
          .map((v) => v / 255);
        expect(found[channel]).toBeCloseTo(moment(values), 5);
      }
    }
    // Over several mini-batches means average to the whole.
    const parts = await reestimateBatchNorm(model, split, { seed: 1, batch: 4 });
    const [whole, averaged] = [result, parts].map(({ graph }) => floatsOf(graph.initializers.get('mean')!));
    for (const channel of [0, 1]) expect(averaged![channel]).toBeCloseTo(whole![channel]!, 5);
  },
);

test('nothing but running averages changes, and a network without any comes back as it is', async () => {
  const model = randomNetwork(['bn-relu', 'residual'], 'gap', 4);
  const pixels: Split = {
    ...split,
    count: 8,
    images: new Uint8Array(8 * 2 * 8 * 8).map((_, i) => (i * 37) % 256),
  };
  const { graph } = await reestimateBatchNorm(model, { ...pixels, labels: new Uint8Array(8) }, { seed: 1 });
  const running = new Set(
    model.graph.nodes.flatMap((node) => (node.opType === 'BatchNormalization' ? node.inputs.slice(3) : [])),
  );
  expect(running.size).toBe(2);
  for (const [name, tensor] of model.graph.initializers) {
    const same = Buffer.from(graph.initializers.get(name)!.bytes).equals(tensor.bytes);
    expect(same).toBe(!running.has(name));
    expect(floatsOf(graph.initializers.get(name)!).length).toBe(elementCount(tensor.shape));
  }
  const plain = randomNetwork(['residual'], 'gap', 4);
  expect(await reestimateBatchNorm(plain, pixels, { seed: 1 })).toBe(plain);
});

function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
