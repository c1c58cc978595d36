import { expect, test } from 'vitest';
import { elementCount, float32Tensor } from '../base/tensor.ts';
import { GraphBuilder } from '../graph/build.ts';
import { sizesByWeights } from './open-sizes.ts';

/** Sizes of the input `x` of this rank, by axis. */
function sizesOf(rank: number, write: (build: GraphBuilder, x: string, weight: Weight) => string) {
  const build = new GraphBuilder('open');
  const weight = (...shape: number[]) =>
    build.constant(float32Tensor(shape, new Float32Array(elementCount(shape))));
  const x = build.input('x', 'float32', new Array(rank).fill(null));
  build.output(write(build, x, weight), 'float32');
  return Object.fromEntries(sizesByWeights(build.finish(), 'x', rank));
}

type Weight = (...shape: number[]) => string;

test('a convolution tells the channels, those of all its groups', () => {
  expect(sizesOf(4, (b, x, w) => b.op('Conv', [x, w(8, 3, 5, 5)]))).toEqual({ 1: 3 });
  expect(sizesOf(4, (b, x, w) => b.op('Conv', [x, w(8, 2, 3, 3)], { group: 4 }))).toEqual({ 1: 8 });
  expect(sizesOf(3, (b, x, w) => b.op('ConvTranspose', [x, w(6, 4, 3)]))).toEqual({ 1: 6 });
});

test('a product tells the features', () => {
  expect(sizesOf(3, (b, x, w) => b.op('MatMul', [x, w(12, 5)]))).toEqual({ 2: 12 });
  expect(sizesOf(2, (b, x, w) => b.op('Gemm', [x, w(5, 12)], { transB: 1 }))).toEqual({ 1: 12 });
  expect(sizesOf(2, (b, x, w) => b.op('Gemm', [x, w(12, 5)], { transA: 1 }))).toEqual({ 0: 12 });
});

test('normalisation and Transpose in between are followed', () => {
  const normalised = sizesOf(4, (b, x, w) => b.op('Conv', [b.op('Sub', [x, w(1, 1, 1)]), w(8, 3, 3, 3)]));
  expect(normalised).toEqual({ 1: 3 });
  expect(sizesOf(4, (b, x, w) => b.op('Relu', [b.op('Div', [x, w(3, 1, 1)])]))).toEqual({ 1: 3 });
  // Images with channels last: the convolution's axis 1 is the input's axis 3.
  const last = sizesOf(4, (b, x, w) =>
    b.op('Conv', [b.op('Transpose', [b.op('Cast', [x], { to: 1 })], { perm: [0, 3, 1, 2] }), w(8, 3, 3, 3)]),
  );
  expect(last).toEqual({ 3: 3 });
});

test('nothing is told where no weight reads the input, or its shape changes on the way', () => {
  expect(sizesOf(4, (b, x) => b.op('Relu', [x]))).toEqual({});
  expect(sizesOf(4, (b, x, w) => b.op('MatMul', [b.op('Flatten', [x]), w(12, 5)]))).toEqual({});
  expect(sizesOf(4, (b, x, w) => b.op('Conv', [x, w(8, 3, 5, 5)], {}, { domain: 'com.example' }))).toEqual(
    {},
  );
});
