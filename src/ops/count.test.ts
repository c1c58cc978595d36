import { expect, test } from 'vitest';
import { float32Tensor, int64Tensor, tensorOf } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { countCost, countParameters, tryCountCost } from './count.ts';

const zeros = (...shape: number[]) =>
  float32Tensor(shape, new Float32Array(shape.reduce((a, b) => a * b, 1)));

function smallNetwork() {
  const b = new GraphBuilder('small');
  const image = b.input('image', 'float32', ['N', 3, 8, 8]);
  const scaled = b.op('Sub', [image, b.initializer('normalize/mean', zeros(1, 3, 1, 1))]);
  const conv = b.op('Conv', [scaled, b.initializer('w', zeros(4, 3, 3, 3)), b.initializer('b', zeros(4))], {
    strides: [2, 2],
    pads: [1, 1, 1, 1],
  });
  const flat = b.op('Reshape', [conv, b.initializer('shape', int64Tensor([0, -1]))]);
  const logits = b.op('Gemm', [flat, b.initializer('fc', zeros(64, 10))]);
  b.output(logits, 'float32');
  return modelOf(b.finish());
}

test('counts multiply-accumulates at batch 1 and learnt parameters', () => {
  const { macs, parameters, byNode } = countCost(smallNetwork());
  // Convolution: 4 · 4 · 4 outputs, each over 3 · 3 · 3 inputs; product: 64 · 10.
  expect(macs).toBe(64 * 27 + 640);
  expect([...byNode]).toEqual([
    [1, 64 * 27],
    [3, 640],
  ]);
  // Neither the pixel normalisation nor the integer shape was learnt.
  expect(parameters).toBe(4 * 27 + 4 + 640);
});

test('counts at the shapes that the caller gives', () => {
  const { macs } = countCost(smallNetwork(), { inputs: { image: [3, 3, 8, 8] } });
  expect(macs).toBe(3 * (64 * 27 + 640));
});

test('takes an open batch as 1, and leaves what hangs on other open sizes uncounted', () => {
  const network = (shape: readonly (number | string)[]) => {
    const b = new GraphBuilder('open');
    const x = b.input('image', 'float32', shape);
    b.output(b.op('Conv', [x, b.initializer('w', zeros(4, 3, 3, 3))]), 'float32');
    return modelOf(b.finish());
  };
  expect(countCost(network(['batch', 3, 5, 5])).macs).toBe(9 * 4 * 27);
  expect(() => countCost(network(['batch', 3, 'height', 'width']))).toThrow(
    /Conv.*cannot be counted.*\[1, 3, height, width\].*--shape image=1,3,224,224/,
  );
  const inputs = { image: [1, 3, 5, 5] };
  expect(countCost(network(['batch', 3, 'height', 'width']), { inputs }).macs).toBe(9 * 4 * 27);
});

test('counts recurrent layers, and refuses what multiplies inside a subgraph', () => {
  const b = new GraphBuilder('steps');
  const x = b.input('x', 'float32', [7, 'batch', 3]);
  b.ops('GRU', [x, b.initializer('w', zeros(2, 15, 3)), b.initializer('r', zeros(2, 15, 5))], {
    hidden_size: 5,
    direction: 'bidirectional',
  });
  // Seven steps in two directions: 15 rows of 3 features and of a state of 5.
  expect(countCost(modelOf(b.finish())).macs).toBe(7 * 2 * 15 * (3 + 5));

  const branch = new GraphBuilder('branch');
  branch.output(branch.op('MatMul', ['x', b.initializer('m', zeros(3, 2))]), 'float32');
  const value = { kind: 'graph', value: branch.finish() } as const;
  b.op('If', [b.input('condition', 'bool', [])], { then_branch: value, else_branch: value });
  const branched = modelOf(b.finish());
  expect(() => countCost(branched)).toThrow(/If.*cannot be counted.*inside a subgraph/);
  // No shape of an input would help.
  expect(tryCountCost(branched)).toEqual({ uncounted: expect.not.stringContaining('--shape') });
});

test('images that poolings shrink to nothing are told as such, with how to give others where they are open', () => {
  const network = (side: number | string) => {
    const b = new GraphBuilder('small');
    const x = b.op('MaxPool', [b.input('image', 'float32', ['N', 3, 8, side])], { kernel_shape: [4, 4] });
    b.output(b.op('Conv', [x, b.initializer('w', zeros(4, 3, 1, 1))]), 'float32');
    return modelOf(b.finish());
  };
  expect(tryCountCost(network('W'), { inputs: { image: [1, 3, 8, 2] } })).toEqual({
    uncounted: expect.stringMatching(/MaxPool.*too small for the kernel\.$/),
  });
  expect(tryCountCost(network('W'), { inputs: { image: [1, 3, 2, 'W'] } })).toEqual({
    uncounted: expect.stringMatching(/MaxPool.*too small.*--shape image=1,3,2,224\.$/),
  });
  expect(tryCountCost(network('W'), { inputs: { image: [1, 3, 8, 8] } })).toMatchObject({ macs: 5 * 5 * 12 });
});

test('only trained values count as parameters: integers of weights do, their scales and zero points do not', () => {
  const b = new GraphBuilder('integers');
  const integers = (...shape: number[]) =>
    tensorOf('int8', shape, new Int8Array(shape.reduce((product, size) => product * size, 1)));
  const x = b.input('x', 'float32', ['N', 3, 4, 4]);
  const stored = b.initializer('w', integers(6, 3, 1, 1));
  const dequantized = (scale: string) =>
    b.op('DequantizeLinear', [
      stored,
      b.initializer(scale, zeros(6)),
      b.initializer(`${scale}/zero`, integers(6)),
    ]);
  const y = b.op('Add', [
    b.op('Conv', [x, dequantized('a'), b.initializer('bias', zeros(6))]),
    b.op('Conv', [x, dequantized('b')]),
  ]);
  const zero = b.initializer('y/zero', tensorOf('uint8', [], new Uint8Array(1)));
  const scale = b.initializer('y/scale', zeros());
  const q = b.op('QuantizeLinear', [y, scale, zero]);
  const weights = [
    b.initializer('v', integers(6, 5)),
    b.initializer('v/scale', zeros(5)),
    b.initializer('v/zero', integers(5)),
  ];
  b.output(b.op('QLinearMatMul', [q, scale, zero, ...weights, scale, zero]), 'uint8');
  // w is shared by two convolutions.
  expect(countParameters(modelOf(b.finish()))).toBe(18 + 6 + 30);
});

test('refuses to count what has no shape', () => {
  const b = new GraphBuilder('blind');
  const x = b.op('Mystery', [b.input('x', 'float32', [1, 3])], {}, { domain: 'example' });
  b.output(b.op('MatMul', [x, b.initializer('w', zeros(3, 2))]), 'float32');
  expect(() => countCost(modelOf(b.finish()))).toThrow(/MatMul.*cannot be counted/);
});
