import { expect, test } from 'vitest';
import { float32Tensor, int64Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model, Shape } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { spread } from '../../ops/op-cases.fixture.ts';
import { maskEquivalence } from '../../port/verify/mask-equivalence.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { rankingsOf } from './allocate.ts';
import { groupsOf } from './groups.ts';
import { propagateLabels } from './labels.ts';
import { networkWork } from './network-work.ts';
import { prune } from './prune.ts';

/*
 * Networks that leave sizes open, as exporters write them with dynamic axes: what they compute with sizes keeps no
 * channel from being pruned.
 */

test('attention that merges an open batch with its heads loses whole heads', async () => {
  const [tokens, width, heads] = [5, 12, 3];
  const b = new GraphBuilder('attention');
  const x = b.input('x', 'float32', ['batch', tokens, 4]);
  const embedded = b.op('Transpose', [b.op('MatMul', [x, weight(b, [4, width], 1)])], { perm: [1, 0, 2] });
  const batch = sizeOf(b, embedded, 1);
  const merged = b.op('Mul', [batch, b.ints([heads])]);
  // [tokens, batch, width] to [batch · heads, tokens, width / heads], as multi-head attention of PyTorch does it.
  const split = (seed: number) => {
    const projected = b.op('MatMul', [embedded, weight(b, [width, width], seed)]);
    const target = joined(b, b.ints([tokens]), merged, b.ints([width / heads]));
    return b.op('Transpose', [b.op('Reshape', [projected, target])], { perm: [1, 0, 2] });
  };
  const [q, k, v] = [split(2), split(3), split(4)];
  const scores = b.op('MatMul', [q, b.op('Transpose', [k], { perm: [0, 2, 1] })]);
  const mixed = b.op('Transpose', [b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }), v])], {
    perm: [1, 0, 2],
  });
  const rows = b.op('Reshape', [mixed, joined(b, b.op('Mul', [batch, b.ints([tokens])]), b.ints([width]))]);
  const out = b.op('Gemm', [rows, weight(b, [width, 2], 5)]);
  b.output(b.op('Reshape', [out, joined(b, b.ints([tokens]), batch, b.ints([2]))]), 'float32');
  const model = modelOf(b.finish());

  const { groups } = groupsOf(propagateLabels(foldConstants(model)));
  expect(groups.map(({ channels }) => channels).sort((a, z) => a - z)).toEqual([heads, width]);
  await expectMasked(model, { x: [1, tokens, 4] }, { x: [3, tokens, 4] });
});

test('a channel shuffle of an image of any size loses the same of every row', async () => {
  const b = new GraphBuilder('shuffle');
  const image = b.input('image', 'float32', ['batch', 2, 'height', 'width']);
  const x = convolution(b, image, [12, 2], 1, 2);
  const sizes = [0, 2, 3].map((axis) => sizeOf(b, x, axis));
  const rows = b.op('Reshape', [x, joined(b, sizes[0]!, b.ints([3]), b.ints([4]), sizes[1]!, sizes[2]!)]);
  const turned = b.op('Transpose', [rows], { perm: [0, 2, 1, 3, 4] });
  const shuffled = b.op('Reshape', [turned, joined(b, sizes[0]!, b.ints([12]), sizes[1]!, sizes[2]!)]);
  b.output(convolution(b, shuffled, [2, 12], 2), 'float32');
  const model = modelOf(b.finish());

  expect(groupsOf(propagateLabels(foldConstants(model))).groups.map(({ channels }) => channels)).toEqual([4]);
  await expectMasked(model, { image: [1, 2, 6, 9] }, { image: [2, 2, 8, 4] });
});

test('groups of channels that are normalised in an image of any size lose the same as in one of a known size', async () => {
  const network = (shape: Shape) => {
    const b = new GraphBuilder('group normalisation');
    const x = convolution(b, b.input('image', 'float32', shape), [12, 2], 1, 2);
    const ones = b.constant(float32Tensor([3], new Float32Array(3).fill(1)));
    const zeros = b.constant(float32Tensor([3], new Float32Array(3)));
    const rows = b.op('Reshape', [x, b.ints([0, 3, -1])]);
    const normal = b.op('InstanceNormalization', [rows, ones, zeros]);
    const sizes = [0, 2, 3].map((axis) => sizeOf(b, x, axis));
    const back = b.op('Reshape', [normal, joined(b, sizes[0]!, b.ints([12]), sizes[1]!, sizes[2]!)]);
    const y = b.op('Relu', [b.op('Mul', [back, weight(b, [12, 1, 1], 2)])]);
    b.output(convolution(b, y, [2, 12], 3), 'float32');
    return modelOf(b.finish());
  };
  const fixed = [2, 2, 7, 9];
  const open = network(['batch', 2, 'height', 'width']);
  const both = [open, network(fixed)].map((model) => prune(model, { ratio: 0.5, align: 1 }));
  expect(both.map(({ groups }) => groups)).toEqual([both[1]!.groups, both[1]!.groups]);
  // Three groups of 4 channels that lose 2 each.
  expect(both[0]!.groups.map(({ channels, kept }) => [channels, kept])).toEqual([[4, 2]]);
  const image = spread(fixed, 4, -1, 1);
  const results = [];
  for (const { model } of both) {
    const session = await Session.create(writeModel(model));
    results.push(await session.run({ image }));
    await session.release();
  }
  expect(results[0]).toEqual(results[1]);

  // The widths of the normalised rows follow in the estimate of work as well.
  const inputs = { image: fixed };
  const folded = foldConstants(open);
  const propagation = propagateLabels(folded);
  const { groups } = groupsOf(propagation);
  const rankings = rankingsOf(propagation, groups, [Float64Array.of(1, 2, 3, 4)]);
  const { nodes } = networkWork(propagation, groups, rankings, inputs);
  const work = nodes.reduce((sum, { macs }) => sum + macs([2]), 0);
  expect(work).toBe(both[1]!.macs!.after);
});

test('other operators than a normalisation keep the channels of rows of an unknown length', () => {
  const b = new GraphBuilder('rows');
  const x = convolution(b, b.input('image', 'float32', ['batch', 2, 'height', 'width']), [12, 2], 1);
  const rows = b.op('Reshape', [x, b.ints([0, 3, -1])]);
  b.output(b.op('ReduceSum', [b.op('Softmax', [rows], { axis: -1 }), b.ints([-1])]), 'float32');
  const { groups, frozen } = groupsOf(propagateLabels(foldConstants(modelOf(b.finish()))));
  expect(groups).toEqual([]);
  expect(frozen[0]!.reason).toContain('mixes channels with sizes unknown here');
});

test('an image that is resized to the size of another one loses channels', async () => {
  const b = new GraphBuilder('skip');
  const image = b.input('image', 'float32', ['batch', 2, 'height', 'width']);
  const skip = convolution(b, image, [6, 2], 1);
  const deep = convolution(b, skip, [8, 6], 2, 2);
  const cut = (value: string, from: number, to: number) =>
    b.op('Slice', [b.op('Shape', [value]), b.ints([from]), b.ints([to]), b.ints([0])]);
  const sizes = b.op('Concat', [cut(deep, 0, 2), cut(skip, 2, 4)], { axis: 0 });
  const up = b.op('Resize', [deep, '', '', sizes], { mode: 'nearest' });
  b.output(convolution(b, b.op('Concat', [skip, up], { axis: 1 }), [2, 14], 3), 'float32');
  const model = modelOf(b.finish());

  expect(groupsOf(propagateLabels(foldConstants(model))).groups.map(({ channels }) => channels)).toEqual([
    6, 8,
  ]);
  await expectMasked(model, { image: [1, 2, 7, 5] }, { image: [2, 2, 8, 8] });
});

test('a Shape of which the count of channels is computed with keeps them', () => {
  const b = new GraphBuilder('counting');
  const image = b.input('image', 'float32', ['batch', 2, 'height', 'width']);
  const x = convolution(b, image, [6, 2], 1, 2);
  const total = b.op('Cast', [b.op('ReduceProd', [b.op('Shape', [x])], { keepdims: 0 })], { to: 1 });
  b.output(convolution(b, b.op('Div', [x, total]), [2, 6], 2), 'float32');
  expect(
    groupsOf(propagateLabels(foldConstants(modelOf(b.finish())))).groups.map(({ channels }) => channels),
  ).toEqual([]);
});

test('heads that are repeated for queries of an open batch go with them', async () => {
  const b = new GraphBuilder('grouped queries');
  const x = b.input('x', 'float32', ['batch', 3, 4]);
  const batch = sizeOf(b, x, 0);
  const parts = (value: string, heads: number) =>
    b.op('Transpose', [b.op('Reshape', [value, joined(b, batch, b.ints([3, heads, 2]))])], {
      perm: [0, 2, 1, 3],
    });
  const repeated = (seed: number) => {
    const shared = parts(b.op('MatMul', [x, weight(b, [4, 4], seed)]), 2);
    const wide = b.op('Unsqueeze', [shared, b.ints([2])]);
    const copies = b.op('Expand', [wide, joined(b, batch, b.ints([2, 2, 3, 2]))]);
    return b.op('Reshape', [copies, joined(b, batch, b.ints([4, 3, 2]))]);
  };
  const q = parts(b.op('MatMul', [x, weight(b, [4, 8], 1)]), 4);
  const scores = b.op('MatMul', [q, b.op('Transpose', [repeated(2)], { perm: [0, 1, 3, 2] })]);
  const mixed = b.op('MatMul', [b.op('Softmax', [scores], { axis: -1 }), repeated(3)]);
  const rows = b.op('Reshape', [
    b.op('Transpose', [mixed], { perm: [0, 2, 1, 3] }),
    joined(b, batch, b.ints([3, 8])),
  ]);
  b.output(b.op('MatMul', [rows, weight(b, [8, 2], 4)]), 'float32');
  const model = modelOf(b.finish());

  expect(groupsOf(propagateLabels(foldConstants(model))).groups.map(({ channels }) => channels)).toEqual([2]);
  await expectMasked(model, { x: [1, 3, 4] }, { x: [3, 3, 4] });
});

test('channels next to stored zeros, or to a grid of positions, can go', async () => {
  const b = new GraphBuilder('grid');
  const image = b.input('image', 'float32', ['batch', 2, 4, 4]);
  const x = convolution(b, image, [6, 2], 1);
  const zeros = b.constant(float32Tensor([1, 3, 4, 4], new Float32Array(48)), 'zeros');
  const rows = b.op('Expand', [
    b.constant(spread([1, 1, 4, 1], 2, -1, 1), 'rows'),
    joined(b, sizeOf(b, x, 0), b.ints([1, 4, 4])),
  ]);
  const batches = b.op('Expand', [zeros, joined(b, sizeOf(b, x, 0), b.ints([3, 4, 4]))]);
  b.output(convolution(b, b.op('Concat', [x, batches, rows], { axis: 1 }), [2, 10], 3), 'float32');
  const model = modelOf(b.finish());
  expect(groupsOf(propagateLabels(foldConstants(model))).groups.map(({ channels }) => channels)).toEqual([6]);
  await expectMasked(model, { image: [1, 2, 4, 4] }, { image: [3, 2, 4, 4] });

  const s = new GraphBuilder('zeros');
  const photo = s.input('image', 'float32', [1, 2, 4, 4]);
  const narrow = convolution(s, photo, [3, 2], 1);
  const stored = s.constant(float32Tensor([1, 4, 4, 4], new Float32Array(64)), 'zeros');
  const wide = s.op('Add', [convolution(s, photo, [7, 2], 2), s.op('Concat', [narrow, stored], { axis: 1 })]);
  s.output(convolution(s, s.op('Relu', [wide]), [2, 7], 3), 'float32');
  const shortcut = modelOf(s.finish());
  const { groups, frozen } = groupsOf(propagateLabels(shortcut));
  expect(groups.reduce((sum, { channels }) => sum + channels, 0)).toBe(7);
  expect(frozen.every(({ reason }) => reason.includes('output of the graph'))).toBe(true);
  await expectMasked(shortcut, {});
});

/** Compares pruned with masked networks at each of the shapes; what is pruned has to load and fold as well. */
async function expectMasked(
  model: Model,
  ...shapes: readonly Readonly<Record<string, Shape>>[]
): Promise<void> {
  const folded = foldConstants(model);
  for (const at of shapes) {
    const { maxRelativeError, isSensitive } = await maskEquivalence(folded, {
      seed: 1,
      groups: 4,
      inputs: 2,
      shapes: at,
    });
    expect(isSensitive).toBe(true);
    expect(maxRelativeError).toBeLessThan(1e-4);
  }
  const { parameters } = prune(model, { ratio: 0.5, align: 1 });
  expect(parameters.after).toBeLessThan(parameters.before);
}

function weight(b: GraphBuilder, shape: readonly number[], seed: number): string {
  return b.constant(spread(shape, seed, -1, 1), 'w');
}

function convolution(
  b: GraphBuilder,
  x: string,
  widths: readonly number[],
  seed: number,
  stride = 1,
): string {
  return b.op('Conv', [x, weight(b, [...widths, 3, 3], seed)], {
    pads: [1, 1, 1, 1],
    strides: [stride, stride],
  });
}

/** One size of a value as exporters ask for it: a scalar that becomes a vector again. */
function sizeOf(b: GraphBuilder, value: string, axis: number): string {
  const size = b.op('Gather', [b.op('Shape', [value]), b.constant(int64Tensor([axis], []), 'axis')]);
  return b.op('Unsqueeze', [size, b.ints([0])]);
}

function joined(b: GraphBuilder, ...sizes: readonly string[]): string {
  return b.op('Concat', sizes, { axis: 0 });
}
