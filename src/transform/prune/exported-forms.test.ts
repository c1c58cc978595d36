import { describe, expect, test } from 'vitest';
import { float32Tensor, int64Tensor } from '../../base/tensor.ts';
import { type GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { maskEquivalence } from '../../port/verify/mask-equivalence.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { dependencyGroups } from './groups.ts';
import { Net } from './net.fixture.ts';
import { prune } from './prune.ts';

/*
 * Forms in which exporters write what has no operator of its own, or in which networks use one: each leaves as many
 * channels to prune as it should, and what stays computes what the masked network computes.
 */

/** Float32 sums in another order, nothing more. */
const TOLERANCE = 1e-4;

test('a gate that is expanded as what it scales keeps no channel', async () => {
  const net = new Net();
  const { build } = net;
  const x = net.conv(net.image([3, 6, 6]), 3, 8);
  const mask = build.op('Sigmoid', [build.op('Conv', [x, net.kernel([1, 8, 1, 1])], {}, { name: 'mask' })]);
  const expanded = build.op('Expand', [mask, build.op('Shape', [x])]);
  const model = net.close(net.conv(build.op('Mul', [x, expanded]), 8, 6), 6);
  const { channels, frozen } = await pruned(model);
  expect(channels).toEqual([8, 6]);
  // The one channel of the mask lies over all others.
  expect(frozen).toEqual(['mask', 'logits']);
});

test.each<[string, (build: GraphBuilder, x: string) => string]>([
  ['ReduceL2', (build, x) => build.op('ReduceL2', [x], { axes: [1], keepdims: 1 })],
  [
    'ReduceSum of squares',
    (build, x) => {
      const squares = build.op('Pow', [x, build.scalar(2)]);
      return build.op('Sqrt', [build.op('ReduceSum', [squares, build.constant(int64Tensor([1]))])]);
    },
  ],
  [
    'ReduceSum of integers',
    (build, x) => {
      const positive = build.op('Cast', [build.op('Greater', [x, build.scalar(0)])], { to: 7 });
      const count = build.op('ReduceSum', [positive, build.constant(int64Tensor([1]))]);
      return build.op('Cast', [count], { to: 1 });
    },
  ],
])('channels divided by their norm keep none, and are compared: %s', async (_, norm) => {
  const net = new Net();
  const { build } = net;
  const x = net.conv(net.image([3, 6, 6]), 3, 8);
  const above = build.op('Clip', [norm(build, x), build.scalar(0.01)]);
  const unit = build.op('Div', [x, build.op('Expand', [above, build.op('Shape', [x])])]);
  const scale = build.constant(net.random(2, [1, 8, 1, 1]));
  const model = net.close(net.conv(build.op('Mul', [unit, scale]), 8, 6), 6);
  const { channels, frozen } = await pruned(model);
  expect(channels).toEqual([8, 6]);
  expect(frozen).toEqual(['logits']);
});

test('features and class weights that are normalised before their product (ArcFace) leave the features to prune', async () => {
  const net = new Net();
  const { build } = net;
  const unit = (x: string): string => {
    const norm = build.op('ReduceL2', [x], { axes: [1], keepdims: 1 });
    const above = build.op('Clip', [norm, build.scalar(1e-4)]);
    return build.op('Div', [x, build.op('Expand', [above, build.op('Shape', [x])])]);
  };
  const x = build.op('Flatten', [build.op('GlobalAveragePool', [net.conv(net.image([3, 6, 6]), 3, 8)])]);
  const classes = build.op('Transpose', [unit(net.matrix([5, 8]))], { perm: [1, 0] });
  build.output(build.op('MatMul', [unit(x), classes], {}, { outputs: ['logits'] }), 'float32', ['N', 5]);
  const { channels, frozen } = await pruned(modelOf(build.finish()));
  expect(channels).toEqual([8]);
  expect(frozen).toEqual(['logits']);
});

test('tensors of zeros and ones like another keep no channel, whatever the batch', async () => {
  const net = new Net();
  const { build } = net;
  const x = net.conv(net.image([3, 6, 6]), 3, 8);
  const [ones, zeros] = [{ value: float32Tensor([1], [1]) }, {}].map((value) =>
    build.op('ConstantOfShape', [build.op('Shape', [x])], value),
  );
  const positive = build.op('Max', [build.op('Add', [x, ones]), zeros]);
  const chosen = build.op('Where', [build.op('Greater', [x, zeros]), positive, zeros]);
  const { channels, frozen } = await pruned(net.close(net.conv(chosen, 8, 6), 6));
  expect(channels).toEqual([8, 6]);
  expect(frozen).toEqual(['logits']);
});

test('zeros that are joined to an image follow its channels, along whichever axis', async () => {
  const net = new Net();
  const { build } = net;
  const x = net.conv(net.image([3, 6, 6]), 3, 8);
  const batch = build.op('Gather', [build.op('Shape', [x]), build.ints([0])]);
  const zeros = (sizes: readonly number[]) =>
    build.op('ConstantOfShape', [build.op('Concat', [batch, build.ints(sizes)], { axis: 0 })]);
  const taller = build.op('Concat', [zeros([8, 1, 6]), x], { axis: 2 });
  const deeper = build.op('Concat', [taller, zeros([4, 7, 6])], { axis: 1 });
  // The last four channels of the second convolution meet zeros that can go with them.
  const sum = build.op('Add', [deeper, net.conv(taller, 8, 12)]);
  const { channels, frozen } = await pruned(net.close(net.conv(sum, 12, 6), 6));
  expect(channels).toEqual([8, 4, 6]);
  expect(frozen).toEqual(['logits']);
});

test('channels of which the maximum is taken go together', async () => {
  const net = new Net();
  const { build } = net;
  const x = net.conv(net.image([3, 6, 6]), 3, 12);
  const parts = build.op('Reshape', [x, build.ints([0, 4, 3, 6, 6])]);
  const maxout = build.op('ReduceMax', [parts], { axes: [2], keepdims: 0 });
  const { channels, frozen } = await pruned(net.close(net.conv(maxout, 4, 6), 6));
  expect(channels).toEqual([4, 6]);
  expect(frozen).toEqual(['logits']);
});

test('channels that a written-out pixel shuffle lays out in space go together', async () => {
  const net = new Net();
  const { build } = net;
  const x = net.conv(net.image([3, 4, 4]), 3, 20);
  const parts = build.op('Reshape', [x, build.ints([-1, 5, 2, 2, 4, 4])]);
  const turned = build.op('Transpose', [parts], { perm: [0, 1, 4, 2, 5, 3] });
  const larger = build.op('Reshape', [turned, build.ints([-1, 5, 8, 8])]);
  const { channels, frozen } = await pruned(net.close(net.conv(larger, 5, 6), 6));
  expect(channels).toEqual([5, 6]);
  expect(frozen).toEqual(['logits']);
});

test('a standardised weight is cut along filters and inputs', async () => {
  const net = new Net();
  const { build } = net;
  const x = net.conv(net.image([3, 6, 6]), 3, 8);
  const mean = (value: string) => build.op('ReduceMean', [value], { axes: [1, 2, 3] });
  const weight = net.kernel([6, 8, 3, 3]);
  const centred = build.op('Sub', [weight, mean(weight)]);
  const deviation = build.op('Sqrt', [mean(build.op('Pow', [centred, build.scalar(2)]))]);
  const standard = build.op('Div', [centred, build.op('Add', [deviation, build.scalar(1e-5)])]);
  const y = build.op('Relu', [build.op('Conv', [x, standard])]);
  const { channels, frozen } = await pruned(net.close(y, 6));
  expect(channels).toEqual([8, 6]);
  expect(frozen).toEqual(['logits']);
});

test('padding in space by amounts that are computed keeps no channel', async () => {
  const net = new Net();
  const { build } = net;
  const image = build.input('image', 'float32', ['N', 3, 'height', 'width']);
  const whole = net.conv(image, 3, 4);
  const halved = build.op('MaxPool', [net.conv(whole, 4, 8)], { kernel_shape: [2, 2], strides: [2, 2] });
  const doubled = build.op('ConvTranspose', [halved, net.kernel([8, 6, 2, 2])], { strides: [2, 2] });
  const sizeOf = (value: string, axis: number) =>
    build.op('Gather', [build.op('Shape', [value]), build.constant(int64Tensor([axis]))]);
  const missing = (axis: number) => build.op('Sub', [sizeOf(whole, axis), sizeOf(doubled, axis)]);
  // As PyTorch writes it: the last axis first, begin and end in turn, and then turned around.
  const none = build.ints([0]);
  const amounts = build.op('Concat', [none, missing(3), none, missing(2), none, none, none, none], {
    axis: 0,
  });
  const pairs = build.op('Reshape', [amounts, build.ints([-1, 2])]);
  const reversed = build.op('Slice', [
    pairs,
    build.ints([-1]),
    build.ints([-(2 ** 31)]),
    none,
    build.ints([-1]),
  ]);
  const pads = build.op('Reshape', [build.op('Transpose', [reversed], { perm: [1, 0] }), build.ints([-1])]);
  const joined = build.op('Concat', [whole, build.op('Pad', [doubled, pads])], { axis: 1 });
  const model = net.close(net.conv(joined, 10, 5), 5);
  const { channels, frozen } = await pruned(model, { image: [1, 3, 7, 9] });
  expect(channels).toEqual([4, 8, 6, 5]);
  expect(frozen).toEqual(['logits']);
});

test('channels that are divided by their mean may go, which changes the mean', () => {
  const net = new Net();
  const { build } = net;
  const x = net.conv(net.image([3, 6, 6]), 3, 8);
  // Global response normalisation, as in ConvNeXt V2.
  const norm = build.op('ReduceL2', [x], { axes: [2, 3] });
  const mean = build.op('Add', [build.op('ReduceMean', [norm], { axes: [1] }), build.scalar(1e-6)]);
  const scaled = build.op('Mul', [x, build.op('Div', [norm, mean])]);
  const { groups } = dependencyGroups(foldConstants(net.close(net.conv(scaled, 8, 6), 6)));
  expect(groups.map(({ channels, inexact }) => [channels, inexact !== undefined])).toEqual([
    [8, true],
    [6, false],
  ]);
});

describe('a network over positions loses its hidden widths, and its channels', () => {
  const positions = 16;
  /** Image, an embedding of patches, [N, channels, positions]. */
  const embedded = (net: Net) => {
    const embedding = net.build.op('Conv', [net.image([3, 8, 8]), net.kernel([12, 3, 2, 2])], {
      strides: [2, 2],
    });
    return net.build.op('Reshape', [embedding, net.build.ints([0, 12, positions])]);
  };
  const close = (net: Net, x: string): Model => {
    const mean = net.build.op('ReduceMean', [x], { axes: [2], keepdims: 0 });
    net.build.output(
      net.build.op('MatMul', [mean, net.matrix([12, 5])], {}, { outputs: ['logits'] }),
      'float32',
    );
    return modelOf(net.build.finish());
  };

  test('as matrix products (MLP-Mixer)', async () => {
    const net = new Net();
    const { build } = net;
    let x = embedded(net);
    const hidden = build.op('Sigmoid', [
      build.op('MatMul', [x, net.matrix([positions, 10])], {}, { name: 'up' }),
    ]);
    x = build.op('Add', [x, build.op('MatMul', [hidden, net.matrix([10, positions])], {}, { name: 'down' })]);
    const turned = build.op('Transpose', [x], { perm: [0, 2, 1] });
    const wide = build.op('Relu', [build.op('MatMul', [turned, net.matrix([12, 7])])]);
    const back = build.op('Transpose', [build.op('MatMul', [wide, net.matrix([7, 12])])], {
      perm: [0, 2, 1],
    });
    const model = close(net, build.op('Add', [x, back]));
    const { channels, frozen } = await pruned(model);
    expect(channels).toEqual([12, 7, 10]);
    expect(frozen).toEqual(['logits', 'down']); // The positions themselves stay.
    const { groups, model: half } = prune(model, { ratio: 0.5, align: 1 });
    expect(groups.map(({ producers, kept }) => [producers.includes('up'), kept])).toEqual([
      [false, 6],
      [false, 3],
      [true, 5],
    ]);
    const up = half.graph.nodes.find(({ name }) => name === 'up')!;
    expect(half.graph.initializers.get(up.inputs[1]!)!.shape).toEqual([positions, 5]);
  });

  test('as convolutions over positions (gMLP)', async () => {
    const net = new Net();
    const { build } = net;
    const x = build.op('Transpose', [embedded(net)], { perm: [0, 2, 1] });
    const hidden = build.op('Relu', [build.op('Conv', [x, net.kernel([10, positions, 1]), net.vector(10)])]);
    const mixed = build.op('Conv', [hidden, net.kernel([positions, 10, 1])], {}, { name: 'down' });
    const model = close(net, build.op('Transpose', [build.op('Mul', [x, mixed])], { perm: [0, 2, 1] }));
    const { channels, frozen } = await pruned(model);
    expect(channels).toEqual([12, 10]);
    expect(frozen).toEqual(['logits', 'down']);
  });

  test('unless one node counts both', async () => {
    const net = new Net();
    const { build } = net;
    const hidden = build.op('MatMul', [embedded(net), net.matrix([positions, 10])], {}, { name: 'up' });
    const square = build.op('Relu', [build.op('Reshape', [hidden, build.ints([-1, 12, 10, 1])])]);
    const flat = build.op('Squeeze', [square, build.ints([3])]);
    const model = close(net, build.op('MatMul', [flat, net.matrix([10, positions])], {}, { name: 'down' }));
    const { channels, frozen } = await pruned(model);
    expect(channels).toEqual([12]);
    expect(frozen).toEqual(['logits', 'up', 'down']);
  });
});

/** Groups and frozen producers of a folded network, which is compared with its masked forms first. */
async function pruned(
  model: Model,
  shapes?: Readonly<Record<string, readonly number[]>>,
): Promise<{ readonly channels: readonly number[]; readonly frozen: readonly string[] }> {
  const folded = foldConstants(model);
  const delivered = prune(folded, { ratio: 0.5, align: 1 });
  const verified = await maskEquivalence(folded, { seed: 11, groups: 6, inputs: 2, delivered, shapes });
  expect(verified.isSensitive).toBe(true);
  expect(verified.maxRelativeError).toBeLessThan(TOLERANCE);
  expect(verified.delivered?.maxRelativeError).toBeLessThan(TOLERANCE);
  const { groups, frozen } = dependencyGroups(folded);
  return { channels: groups.map((group) => group.channels), frozen: frozen.map(({ node }) => node) };
}
