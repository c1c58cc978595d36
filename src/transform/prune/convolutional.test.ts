import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  elementCount,
  float32Tensor,
  floatsOf,
  numbersOf,
  type Tensor,
  tensorOf,
} from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { intAttribute } from '../../graph/attributes.ts';
import { modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { maskEquivalence } from '../../port/verify/mask-equivalence.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { dependencyGroups, groupsOf } from './groups.ts';
import { propagateLabels } from './labels.ts';
import { Net } from './net.fixture.ts';
import { prune } from './prune.ts';
import { removeChannels } from './remove-channels.ts';

/** Float32 sums in another order, nothing more. */
const TOLERANCE = 1e-4;

describe('networks of other exporters, half of every group gone', () => {
  // What stays, and what asks for it: nothing else may be frozen.
  const expected: Readonly<Record<string, readonly [node: string, reason: string][]>> = {
    'unet-small': [['/final_conv/Conv', 'there is a single channel']],
    'ultraface-rfb-320': [
      // Two scores and four numbers of a box for each anchor, at four scales.
      ...['317', '363', '403', '435'].map((node) => [node, 'Softmax normalises'] as [string, string]),
      ...['331', '377', '417', '447'].map((node) => [node, 'is an output of the graph'] as [string, string]),
    ],
    'mobilenetv3-ppocr-cls': [['MatMul_0', 'Softmax normalises']],
    'squeezenet-cifar10-tf2onnx': [['squeezenet/conv10/BiasAdd', 'Softmax normalises']],
  };
  for (const [name, stays] of Object.entries(expected)) {
    const file = join(process.env.BONSAI_SHARED ?? '../shared', 'models', `${name}.onnx`);
    test.skipIf(!existsSync(file))(name, async () => {
      const model = foldConstants(readModel(readFileSync(file)));
      const { groups, frozen, model: pruned } = prune(model, { ratio: 0.5, align: 1 });
      expect(frozen.map(({ node, reason }) => [node, stays.find(([n]) => n === node)?.[1], reason])).toEqual(
        stays.map(([node, reason]) => [node, reason, expect.stringContaining(reason)]),
      );
      for (const { channels, kept } of groups) expect(Math.abs(kept - channels / 2)).toBeLessThanOrEqual(0.5);
      await (await Session.create(writeModel(pruned))).release();
      const small = Object.fromEntries(
        model.graph.inputs.map(({ name: input, type }) => [
          input,
          type!.shape!.map((size, axis) => (typeof size === 'number' ? size : axis === 0 ? 1 : 32)),
        ]),
      );
      const { maxRelativeError } = await maskEquivalence(model, {
        seed: 3,
        groups: 4,
        inputs: 1,
        shapes: small,
      });
      expect(maxRelativeError).toBeLessThan(TOLERANCE);
    });
  }
});

describe('grouped convolutions', () => {
  test('lose the same channels of every group, inputs and outputs apart, and keep their groups', async () => {
    const net = new Net();
    const trunk = net.conv(net.image([3, 6, 6]), 3, 12);
    // 12 channels in 3 groups of 4; 6 filters in 3 groups of 2.
    const grouped = net.build.op('Conv', [trunk, net.kernel([6, 4, 3, 3]), net.vector(6)], {
      group: 3,
      pads: [1, 1, 1, 1],
    });
    const model = net.close(grouped, 6);
    const { groups } = dependencyGroups(model);
    expect(groups.map((group) => group.channels)).toEqual([4, 2]);
    const pruned = prune(model, { ratio: 0.5, align: 1 }).model.graph;
    const node = pruned.nodes.find(({ attributes }) => attributes.has('group'))!;
    expect(intAttribute(node, 'group')).toBe(3);
    expect(pruned.initializers.get(node.inputs[1]!)!.shape).toEqual([3, 2, 3, 3]);
    expect(await worstError(model)).toBeLessThan(TOLERANCE);
  });

  test('of a residual block with a bottleneck (ResNeXt) go with what the sum couples', async () => {
    const net = new Net();
    const trunk = net.conv(net.image([3, 6, 6]), 3, 8);
    const inner = net.build.op('Relu', [net.conv(trunk, 8, 12)]);
    const grouped = net.build.op('Conv', [inner, net.kernel([12, 3, 3, 3])], {
      group: 4,
      pads: [1, 1, 1, 1],
    });
    const sum = net.build.op('Add', [trunk, net.conv(net.build.op('Relu', [grouped]), 12, 8)]);
    const model = net.close(net.build.op('Relu', [sum]), 8);
    expect(dependencyGroups(model).groups.map((group) => group.channels)).toEqual([8, 3, 3]);
    expect(await worstError(model)).toBeLessThan(TOLERANCE);
  });
});

describe('a network in channels-last order behind Transposes', () => {
  test('prunes along the last axis, biases, gates and depthwise kernels included', async () => {
    const net = new Net();
    const { build } = net;
    const toFirst = (x: string) => build.op('Transpose', [x], { perm: [0, 3, 1, 2] });
    const toLast = (x: string) => build.op('Transpose', [x], { perm: [0, 2, 3, 1] });
    const image = build.input('image', 'float32', ['N', 8, 8, 3]);
    const stem = build.op('Conv', [toFirst(image), net.kernel([6, 3, 3, 3])], { pads: [1, 1, 1, 1] });
    // The bias is added in channels-last order, as Keras has it.
    const biased = build.op('Relu', [build.op('Add', [toLast(stem), net.vector(6)])]);
    const depthwise = build.op('Conv', [toFirst(biased), net.kernel([6, 1, 3, 3])], {
      group: 6,
      pads: [1, 1, 1, 1],
    });
    const scaled = build.op('Mul', [toLast(depthwise), net.vector(6)]);
    const mean = build.op('ReduceMean', [scaled], { axes: [1, 2], keepdims: 1 });
    const gate = build.op('Sigmoid', [
      build.op('MatMul', [
        build.op('Relu', [build.op('MatMul', [mean, net.matrix([6, 4])])]),
        net.matrix([4, 6]),
      ]),
    ]);
    const gated = build.op('Concat', [build.op('Mul', [scaled, gate]), biased], { axis: 3 });
    const flat = build.op('Reshape', [gated, build.ints([-1, 8 * 8 * 12])]);
    build.output(build.op('MatMul', [flat, net.matrix([768, 5])], {}, { outputs: ['logits'] }), 'float32');
    const model = modelOf(build.finish());
    const { groups, frozen } = dependencyGroups(model);
    expect(frozen.map(({ node }) => node)).toEqual(['logits']);
    expect(groups.map((group) => group.channels)).toEqual([6, 4]);
    expect(await worstError(model)).toBeLessThan(TOLERANCE);
    const pruned = prune(model, { ratio: 0.5, align: 1 }).model;
    await (await Session.create(writeModel(pruned))).release();
  });
});

describe('a GroupNormalization written out (before opset 18)', () => {
  test('keeps its groups; what stays is normalised among itself', async () => {
    const net = new Net();
    const { build } = net;
    const [channels, rows] = [8, 2];
    const weights = net.random(8 * 3, [channels, 3, 1, 1]);
    const scale = net.random(1, [channels, 1, 1]);
    const x = build.op('Conv', [net.image([3, 4, 4]), build.constant(weights)]);
    const parts = build.op('Reshape', [x, build.ints([0, rows, -1])]);
    const ones = build.constant(float32Tensor([rows], [1, 1]));
    const zeros = build.constant(float32Tensor([rows], [0, 0]));
    const normal = build.op('InstanceNormalization', [parts, ones, zeros]);
    const whole = build.op('Reshape', [normal, build.ints([0, channels, 4, 4])]);
    const y = build.op('Mul', [whole, build.constant(scale)]);
    const model = net.close(y, channels);

    const propagation = propagateLabels(model);
    const { groups } = groupsOf(propagation);
    expect(groups.map((group) => group.channels)).toEqual([channels / rows]);
    expect(groups[0]!.inexact).toContain('mean and variance');
    // Channels 1 and 3 of each group go: in all 1, 3, 5, 7 of 8.
    const pruned = removeChannels(propagation, [groups[0]!.units[1]!, groups[0]!.units[3]!]);
    const kept = [0, 2, 4, 6];
    const feeds = { image: net.random(1, [2, 3, 4, 4]) };
    const head = floatsOf(model.graph.initializers.get(net.head)!);
    const [actual] = Object.values(await runModel(pruned, feeds));
    expect(
      distance(floatsOf(actual!), groupNormReference(feeds.image, weights, scale, head, kept)),
    ).toBeLessThan(TOLERANCE);
  });
});

describe('weights in 8-bit integers behind DequantizeLinear', () => {
  test('are sliced where they are stored, with the scales of their channels', async () => {
    const net = new Net();
    const { build } = net;
    const quantized = (x: string) => {
      const parameters = [build.scalar(0.05), build.constant(tensorOf('uint8', [], Uint8Array.of(128)))];
      return build.op('DequantizeLinear', [build.op('QuantizeLinear', [x, ...parameters]), ...parameters]);
    };
    const weight = (shape: readonly number[], name: string) => {
      const values = Int8Array.from({ length: elementCount(shape) }, (_, i) => ((i * 37) % 251) - 125);
      const scales = Float32Array.from({ length: shape[0]! }, (_, i) => 0.002 + 0.0005 * i);
      const zeros = tensorOf('int8', [shape[0]!], new Int8Array(shape[0]!).fill(1));
      return build.op(
        'DequantizeLinear',
        [
          build.initializer(name, tensorOf('int8', shape, values)),
          build.initializer(`${name}/scale`, float32Tensor([shape[0]!], scales)),
          build.initializer(`${name}/zero`, zeros),
        ],
        { axis: 0 },
      );
    };
    let x = quantized(net.image([3, 6, 6]));
    x = quantized(build.op('Relu', [build.op('Conv', [x, weight([8, 3, 3, 3], 'first')])]));
    x = quantized(build.op('Relu', [build.op('Conv', [x, weight([6, 8, 3, 3], 'second')])]));
    const model = net.close(x, 6);
    expect(dependencyGroups(model).groups.map((group) => group.channels)).toEqual([8, 6]);
    expect(await worstError(model)).toBeLessThan(TOLERANCE);
    const { initializers } = prune(model, { ratio: 0.5, align: 1 }).model.graph;
    const shapes = ['first', 'first/scale', 'first/zero', 'second', 'second/scale'].map((name) => {
      const { dtype, shape } = initializers.get(name)!;
      return [dtype, ...shape];
    });
    expect(shapes).toEqual([
      ['int8', 4, 3, 3, 3],
      ['float32', 4],
      ['int8', 4],
      ['int8', 3, 4, 3, 3],
      ['float32', 3],
    ]);
  });
});

test('a part of a group that is cut off keeps a channel, however low it scores', async () => {
  const net = new Net();
  const { build } = net;
  // The first half of the filters is a hundredth of the second.
  const filters = floatsOf(net.random(3, [8, 3, 1, 1])).map((value, i) => (i < 4 * 3 ? 0.01 * value : value));
  const x = build.op('Conv', [net.image([3, 4, 4]), build.constant(float32Tensor([8, 3, 1, 1], filters))]);
  const [low, high] = build.ops('Split', [x, build.ints([4, 4])], { axis: 1 }, { outputs: 2 });
  const pooled = build.op('MaxPool', [low], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] });
  const model = net.close(build.op('Concat', [high, pooled], { axis: 1 }), 8);
  const { groups, model: pruned } = prune(model, { ratio: 0.5, align: 1, criterion: 'l1' });
  expect(groups.map(({ channels, kept }) => [channels, kept])).toEqual([[8, 4]]);
  const split = pruned.graph.nodes.find((node) => node.opType === 'Split')!;
  expect(numbersOf(pruned.graph.initializers.get(split.inputs[1]!)!)).toEqual([1, 3]);
  await runModel(pruned, { image: net.random(1, [1, 3, 4, 4]) });
});

async function worstError(model: Model): Promise<number> {
  const { maxRelativeError } = await maskEquivalence(model, { seed: 11, groups: 6, inputs: 2 });
  return maxRelativeError;
}

async function runModel(model: Model, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const session = await Session.create(writeModel(model));
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

/** In float64: a 1 x 1 convolution, the kept channels normalised in two groups, scale, maximum over space, product. */
function groupNormReference(
  image: Tensor,
  weights: Tensor,
  scale: Tensor,
  head: Float32Array,
  kept: readonly number[],
): number[] {
  const [x, w, s] = [floatsOf(image), floatsOf(weights), floatsOf(scale)];
  const positions = 16;
  const epsilon = 1e-5;
  return Array.from({ length: image.shape[0]! }, (_, n) => {
    const maps = kept.map((channel) =>
      Array.from({ length: positions }, (_, at) =>
        [0, 1, 2].reduce((sum, c) => sum + w[channel * 3 + c]! * x[(n * 3 + c) * positions + at]!, 0),
      ),
    );
    const half = kept.length / 2;
    const tops = kept.map((channel, i) => {
      const group = maps.slice(i < half ? 0 : half, i < half ? half : kept.length).flat();
      const mean = group.reduce((a, b) => a + b) / group.length;
      const variance = group.reduce((sum, value) => sum + (value - mean) ** 2, 0) / group.length;
      return Math.max(
        ...maps[i]!.map((value) => (s[channel]! * (value - mean)) / Math.sqrt(variance + epsilon)),
      );
    });
    return Array.from({ length: 5 }, (_, k) =>
      tops.reduce((sum, top, i) => sum + top * head[kept[i]! * 5 + k]!, 0),
    );
  }).flat();
}

/** The largest difference over the largest value. */
function distance(a: ArrayLike<number>, b: readonly number[]): number {
  const largest = b.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
  return b.reduce((worst, value, i) => Math.max(worst, Math.abs(value - a[i]!)), 0) / largest;
}
