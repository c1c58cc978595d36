import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { groupsOf } from './groups.ts';
import { propagateLabels } from './labels.ts';
import { maskable, maskChannels } from './mask.ts';
import { inputsFor, randomNetwork } from './networks.fixture.ts';
import { removeChannels } from './remove-channels.ts';

describe('the masked network', () => {
  test('is exact where no parameter reads the channels: both sides of a product of activations', async () => {
    const model = products();
    const propagation = propagateLabels(model);
    const { groups } = groupsOf(propagation);
    // Queries and keys are contracted with each other, so they are one group that no weight consumes.
    const group = groups.find(({ producers }) => producers.length === 2)!;
    expect(group.members.filter(({ direction }) => direction === 'in')).toEqual([]);
    const removed = [group.units[1]!, group.units[4]!];
    expect(await difference(model, removed)).toBeLessThan(1e-6);
  });

  test('is exact behind what makes something else of 0: a bias and Sigmoid', async () => {
    const model = randomNetwork(['bn-relu', 'bias', 'gate', 'conv'], 'gap', 5);
    for (const group of groupsOf(propagateLabels(model)).groups) {
      expect(await difference(model, [group.units[0]!])).toBeLessThan(1e-5);
    }
  });

  test('differs from the full network: what is masked is not read', async () => {
    const model = randomNetwork(['conv'], 'gap', 5);
    const propagation = propagateLabels(model);
    const [group] = groupsOf(propagation).groups;
    const masked = await run(maskChannels(propagation, [group!.units[0]!]), inputsFor(model, 1));
    const full = await run(model, inputsFor(model, 1));
    expect(worst(masked.logits!, full.logits!)).toBeGreaterThan(1e-3);
  });

  test('with masks as inputs answers for every set of channels as the one made for it', async () => {
    const model = randomNetwork(['residual', 'concat', 'depthwise'], 'flatten', 8);
    const propagation = propagateLabels(model);
    const oracle = maskable(propagation);
    for (const { units } of groupsOf(propagation).groups) {
      const feeds = inputsFor(model, 3);
      const removed = [units[0]!, units[2]!];
      const own = await run(maskChannels(propagation, removed), feeds);
      const shared = await run(oracle.model, { ...feeds, ...oracle.masks(removed) });
      expect(worst(shared.logits!, own.logits!)).toBeLessThan(1e-4);
    }
  });
});

/** Queries and keys of 6 channels each from [N, 3, 4], multiplied with each other, then with the values. */
function products(): Model {
  const random = seededRandom(9);
  const build = new GraphBuilder('products');
  const weight = (shape: number[]) =>
    build.constant(
      float32Tensor(
        shape,
        Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
      ),
    );
  const x = build.input('x', 'float32', ['N', 3, 4]);
  const queries = build.op('Sigmoid', [build.op('MatMul', [x, weight([4, 6])])]);
  const keys = build.op('Transpose', [build.op('MatMul', [x, weight([4, 6])])], { perm: [0, 2, 1] });
  const scores = build.op('Softmax', [build.op('MatMul', [queries, keys])], { axis: -1 });
  const mixed = build.op('MatMul', [scores, build.op('MatMul', [x, weight([4, 5])])]);
  build.output(build.op('MatMul', [mixed, weight([5, 2])], {}, { outputs: ['logits'] }), 'float32', [
    'N',
    3,
    2,
  ]);
  return modelOf(build.finish());
}

/** The largest difference between the network without channels and the one that masks them. */
async function difference(model: Model, removed: readonly number[]): Promise<number> {
  const propagation = propagateLabels(model);
  const feeds = inputsFor(model, 2);
  const pruned = await run(removeChannels(propagation, removed), feeds);
  const masked = await run(maskChannels(propagation, removed), feeds);
  return worst(pruned.logits!, masked.logits!);
}

async function run(model: Model, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const session = await Session.create(writeModel(model));
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

function worst(actual: Tensor, expected: Tensor): number {
  const [a, b] = [floatsOf(actual), floatsOf(expected)];
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0);
}
