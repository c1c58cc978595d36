import { expect, test } from 'vitest';
import { float32Tensor, int64Tensor, numbersOf } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import type { Model } from '../graph/model.ts';
import { ShapeError } from './errors.ts';
import { inferTypes } from './infer.ts';
import { recordFor } from './table.ts';

/** What exporters write for `x.view(x.size(0), -1)`: Reshape(x, Concat(Unsqueeze(Gather(Shape(x), 0)), [-1])). */
function viewModel(batch: string | number): Model {
  const b = new GraphBuilder('view');
  const x = b.input('x', 'float32', [batch, 3, 2, 2]);
  const size = b.op(
    'Gather',
    [b.op('Shape', [x]), b.constant(int64Tensor([0], []))],
    {},
    { outputs: ['size'] },
  );
  const target = b.op(
    'Concat',
    [b.op('Unsqueeze', [size, b.ints([0])]), b.ints([-1])],
    { axis: 0 },
    { outputs: ['target'] },
  );
  b.output(b.op('Reshape', [x, target], {}, { outputs: ['y'] }), 'float32');
  return modelOf(b.finish());
}

test('a dynamic batch keeps its name through shape arithmetic', () => {
  const { types, partials, constants } = inferTypes(viewModel('N'));
  expect(types.get('y')).toEqual({ dtype: 'float32', shape: ['N', 12] });
  expect(partials.get('target')?.elements).toEqual(['N', -1]);
  expect(constants.has('target')).toBe(false);
});

test('shape arithmetic over known sizes folds to constants', () => {
  const { types, constants } = inferTypes(viewModel(5));
  expect(types.get('y')?.shape).toEqual([5, 12]);
  expect(numbersOf(constants.get('target')!)).toEqual([5, -1]);
});

test('shapes given by the caller replace those of the file', () => {
  expect(inferTypes(viewModel('N'), { inputs: { x: [7, 3, 4, 4] } }).types.get('y')?.shape).toEqual([7, 48]);
});

test('an unknown operator gets the type that the file states, or none, and so does what follows', () => {
  const b = new GraphBuilder('unknown');
  const x = b.input('x', 'float32', [1, 2]);
  b.op('Relu', [b.op('Mystery', [x], {}, { domain: 'example', outputs: ['a'] })], {}, { outputs: ['b'] });
  const graph = b.finish();
  const blind = inferTypes(modelOf(graph)).types;
  expect([blind.has('a'), blind.has('b')]).toEqual([false, false]);

  const type = { dtype: 'float32', shape: [1, 9] } as const;
  const stated = { ...graph, valueInfos: new Map([['a', { name: 'a', type }]]) };
  expect(inferTypes(modelOf(stated)).types.get('b')).toEqual(type);
});

test('a layer behind an unknown operator has the rank and channels that its weight tells, where the file states nothing', () => {
  const b = new GraphBuilder('weights');
  const zeros = (...shape: number[]) =>
    b.constant(float32Tensor(shape, new Float32Array(shape.reduce((x, y) => x * y))));
  const unknown = () => b.op('Mystery', [], {}, { domain: 'example' });
  b.op('Conv', [unknown(), zeros(6, 2, 3, 3)], { group: 2 }, { outputs: ['conv'] });
  b.op('GlobalAveragePool', ['conv'], {}, { outputs: ['pool'] });
  b.op('Flatten', ['pool'], {}, { outputs: ['flat'] });
  b.op('ConvTranspose', [unknown(), zeros(4, 3, 3)], { group: 2 }, { outputs: ['up'] });
  b.op('Gemm', [unknown(), zeros(7, 3)], { transB: 1 }, { outputs: ['gemm'] });
  b.op('Gemm', [unknown(), zeros(7, 3)], {}, { outputs: ['turned'] });
  const graph = b.finish();
  const { types } = inferTypes(modelOf(graph));
  expect(types.get('conv')).toEqual({ dtype: 'float32', shape: ['conv:0', 6, 'conv:2', 'conv:3'] });
  expect(types.get('pool')?.shape).toEqual(['conv:0', 6, 1, 1]);
  expect(types.get('flat')?.shape).toEqual(['conv:0', 6]);
  expect(types.get('up')?.shape).toEqual(['up:0', 6, 'up:2']);
  expect(types.get('gemm')?.shape).toEqual(['gemm:0', 7]);
  expect(types.get('turned')?.shape).toEqual(['turned:0', 3]);

  const type = { dtype: 'float32', shape: [1, 6, 5, 5] } as const;
  const stated = { ...graph, valueInfos: new Map([['conv', { name: 'conv', type }]]) };
  expect(inferTypes(modelOf(stated)).types.get('conv')).toEqual(type);
});

test.each(['Conv', 'ConvTranspose'])(
  'a %s that states another kernel than its weight has is refused',
  (opType) => {
    const network = (kernel: number[]) => {
      const b = new GraphBuilder('kernel');
      const w = b.constant(float32Tensor([2, 2, 3, 1], new Float32Array(12)));
      b.op(opType, [b.input('x', 'float32', ['N', 2, 'H', 'W']), w], { kernel_shape: kernel });
      return modelOf(b.finish());
    };
    expect(() => inferTypes(network([3, 1]))).not.toThrow();
    expect(() => inferTypes(network([1, 3]))).toThrow(ShapeError);
    expect(() => inferTypes(network([1, 3]))).toThrow(/a kernel of \[3, 1\], the node states \[1, 3\]/);
  },
);

test('operators of other domains are not mistaken for standard ones', () => {
  const b = new GraphBuilder('domains');
  const x = b.input('x', 'float32', [1]);
  b.op('Relu', [x], {}, { domain: 'example' });
  b.op('Relu', [x], {}, { domain: 'ai.onnx' });
  const [foreign, standard] = b.finish().nodes;
  expect(recordFor(foreign!)).toBeUndefined();
  expect(recordFor(standard!)?.schema.name).toBe('Relu');
});

test.each([
  [
    'Add',
    [
      [2, 3],
      [2, 4],
    ],
    {},
    1,
  ],
  [
    'Concat',
    [
      [2, 3],
      [3, 3],
    ],
    { axis: 1 },
    1,
  ],
  ['Flatten', [[2, 3]], { axis: 5 }, 0],
  ['Transpose', [[2, 3]], { perm: [0, 0] }, 0],
  ['PRelu', [[2, 3], [2]], {}, 1],
] as const)(
  '%s of shapes that do not fit is refused, naming the input',
  (name, shapes, attributes, input) => {
    const b = new GraphBuilder('bad');
    b.op(
      name,
      shapes.map((shape, i) => b.input(`x${i}`, 'float32', shape)),
      attributes,
      { name: 'culprit' },
    );
    const infer = () => inferTypes(modelOf(b.finish()));
    expect(infer).toThrow(ShapeError);
    expect(infer).toThrow(new RegExp(`culprit.*input ${input} \\("x${input}"\\)`));
  },
);

test.each([
  ['Reshape', [2, 3], int64Tensor([4, -1]), {}],
  ['Reshape', [2, 3], int64Tensor([7]), {}],
  ['Reshape', [2, 3], int64Tensor([0, 0, 0]), {}],
  ['Split', [2, 5], int64Tensor([2, 2]), { axis: 1 }],
  ['Squeeze', [2, 3], int64Tensor([1]), {}],
  ['Pad', [2, 3], int64Tensor([1, 1]), {}],
  ['Pad', [2, 3], int64Tensor([-2, 0, -1, 0]), {}],
] as const)('%s of %j by constants that do not fit is refused', (name, shape, constant, attributes) => {
  const b = new GraphBuilder('bad');
  b.op(name, [b.input('x', 'float32', shape), b.constant(constant)], attributes, {
    outputs: name === 'Split' ? 2 : 1,
  });
  expect(() => inferTypes(modelOf(b.finish()))).toThrow(ShapeError);
});

test('a size without a name is the same wherever it comes to', () => {
  const b = new GraphBuilder('unnamed');
  const x = b.input('x', 'float32', [null, 4, 6]);
  const batch = b.op('Slice', [b.op('Shape', [b.op('Relu', [x])]), b.ints([0]), b.ints([1])]);
  const target = b.op('Concat', [batch, b.ints([-1])], { axis: 0 });
  const flat = b.op('Reshape', [x, target]);
  b.op('Add', [b.op('Relu', [flat]), flat], {}, { outputs: ['y'] });
  const { types } = inferTypes(modelOf(b.finish()));
  expect(types.get('x')?.shape).toEqual(['x:0', 4, 6]);
  expect(types.get('y')?.shape).toEqual(['x:0', 24]);
});

test('an expansion that keeps sizes where it is told -1 is known next to a batch of any size', () => {
  // What exporters write for x.expand(batch, -1, -1): -1 gives way to 1, at which the value's own size is taken.
  const b = new GraphBuilder('expand');
  const x = b.input('x', 'float32', ['N', 3, 4, 4]);
  const token = b.initializer('token', float32Tensor([1, 1, 6], new Float32Array(6)));
  const batch = b.op('Slice', [b.op('Shape', [x]), b.ints([0]), b.ints([1])]);
  const asked = b.op('Concat', [batch, b.ints([-1, -1])], { axis: 0 });
  const minus = b.op('Mul', [
    b.op('ConstantOfShape', [b.ints([3])], { value: int64Tensor([1]) }),
    b.op('Constant', [], { value_int: -1 }),
  ]);
  const ones = b.op('ConstantOfShape', [b.ints([3])], { value: int64Tensor([1]) });
  const sizes = b.op('Where', [b.op('Equal', [asked, minus]), ones, asked]);
  b.op('Expand', [token, sizes], {}, { outputs: ['y'] });
  const { types, partials } = inferTypes(modelOf(b.finish()));
  expect(partials.get(sizes)?.elements).toEqual(['N', 1, 1]);
  expect(types.get('y')?.shape).toEqual(['N', 1, 6]);
});

test.each([
  ['Equal', -1, 0],
  ['Less', -1, 0],
  ['Greater', -1, 1],
  ['GreaterOrEqual', 0, undefined],
  ['Equal', 4, undefined],
] as const)('%s of a named size and %d is %s', (name, constant, expected) => {
  const b = new GraphBuilder('compare');
  const batch = b.op('Shape', [b.input('x', 'float32', ['N'])]);
  b.op(name, [batch, b.ints([constant])], {}, { outputs: ['y'] });
  const { constants } = inferTypes(modelOf(b.finish()));
  expect(constants.get('y')?.bytes[0]).toBe(expected);
});

test('sizes that are computed from data are named after their place alone', () => {
  const b = new GraphBuilder('dynamic');
  const x = b.input('x', 'float32', [2, 6]);
  const target = b.input('target', 'int64', [3]);
  b.op('Reshape', [x, target], {}, { outputs: ['y'] });
  expect(inferTypes(modelOf(b.finish())).types.get('y')?.shape).toEqual(['y:0', 'y:1', 'y:2']);
});

test('what both branches of an If, or all turns of a Loop, have in common is known', () => {
  const b = new GraphBuilder('subgraphs');
  const x = b.input('x', 'float32', ['N', 4, 6]);
  const inner = (name: string, opType: string, inputs: readonly string[], attributes = {}) => {
    const branch = new GraphBuilder(name);
    branch.output(branch.op(opType, inputs, attributes, { outputs: ['inner'] }), 'float32');
    return { kind: 'graph', value: branch.finish() } as const;
  };
  const condition = b.input('condition', 'bool', []);
  const part = b.op('Slice', [x, b.ints([0]), b.input('end', 'int64', [1]), b.ints([2])]);
  b.op(
    'If',
    [condition],
    { then_branch: inner('then', 'Relu', [x]), else_branch: inner('else', 'Neg', [part]) },
    { outputs: ['either'] },
  );
  const loop = (opType: string, inputs: readonly string[], outputs: readonly string[]) => {
    const body = new GraphBuilder('body');
    body.input('turn', 'int64', []);
    body.input('goes on', 'bool', []);
    body.input('state', 'float32', [null, null, null]);
    body.output(body.op('Identity', ['goes on']), 'bool');
    body.output(body.op(opType, inputs, opType === 'Concat' ? { axis: 2 } : {}), 'float32');
    body.output(body.op('ReduceSum', ['state'], { keepdims: 0 }), 'float32');
    b.ops('Loop', ['', condition, x], { body: { kind: 'graph', value: body.finish() } }, { outputs });
  };
  loop('Relu', ['state'], ['same', 'sums']);
  loop('Concat', ['state', 'state'], ['longer', 'others']);
  const { types } = inferTypes(modelOf(b.finish()));
  expect(types.get('either')?.shape).toEqual(['N', 4, 'either:2']);
  expect(types.get('same')?.shape).toEqual(['N', 4, 6]);
  expect(types.get('sums')?.shape).toEqual(['sums:0']);
  expect(types.get('longer')?.shape).toEqual(['N', 4, 'longer:2']);
});

test('a sparse constant has no type, and what uses it none either', () => {
  const b = new GraphBuilder('sparse');
  b.input('x', 'float32', [2]);
  const sparse = b.op('Constant', [], { sparse_value: { kind: 'opaque', value: { onnx: undefined } } });
  b.op('Add', ['x', sparse], {}, { outputs: ['y'] });
  const { types, constants } = inferTypes(modelOf(b.finish()));
  expect(types.has(sparse) || types.has('y') || constants.has(sparse)).toBe(false);
});

test('initialisers pass through Identity and Constant without being copied', () => {
  const b = new GraphBuilder('share');
  const weight = float32Tensor([2000], new Float32Array(2000));
  b.op('Identity', [b.initializer('w', weight)], {}, { outputs: ['same'] });
  b.op('Constant', [], { value: weight }, { outputs: ['c'] });
  const { constants } = inferTypes(modelOf(b.finish()));
  expect(constants.get('same')).toBe(weight);
  expect(constants.get('c')).toBe(weight);
});
