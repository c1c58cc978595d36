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

test('sizes that are computed from data stay unknown', () => {
  const b = new GraphBuilder('dynamic');
  const x = b.input('x', 'float32', [2, 6]);
  const target = b.input('target', 'int64', [3]);
  b.op('Reshape', [x, target], {}, { outputs: ['y'] });
  expect(inferTypes(modelOf(b.finish())).types.get('y')?.shape).toEqual([null, null, null]);
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
