import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { elementCount, float32Tensor, int64Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { propagateLabels } from '../transform/prune/labels.ts';
import { expandLabels } from './label-tensor.ts';
import { reshapeBlocks, settledTarget } from './reshape.ts';

describe('labels of a reshaped value', () => {
  test('stay those of the same elements, in order, in whatever way axes are merged and split', () => {
    fc.assert(
      fc.property(
        fc.constantFrom([2, 12], [1, 4, 6], [2, 3, 2, 2], [3, 8, 1, 2]),
        fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 4, maxLength: 4 }),
        fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 0, max: 3 }),
        (shape, order, factors, open) => {
          const build = new GraphBuilder('reshape');
          const x = build.input('x', 'float32', [...shape.slice(0, -1), 2]);
          const weight = build.constant(
            float32Tensor([2, shape.at(-1)!], new Float32Array(2 * shape.at(-1)!)),
          );
          const channels = build.op('MatMul', [x, weight]);
          const perm = shape.map((_, axis) => axis).sort((a, b) => order[a]! - order[b]! || a - b);
          const turned = build.op('Transpose', [channels], { perm });
          // Factors that divide what is left, then the rest: any shape with as many elements.
          let rest = elementCount(shape);
          const target = factors.filter((factor) => {
            if (rest % factor !== 0) return false;
            rest /= factor;
            return true;
          });
          const stated = [...target, rest];
          const asked = open < stated.length ? stated.with(open, -1) : stated;
          const y = build.op('Reshape', [turned, build.constant(int64Tensor(asked))]);
          build.output(y, 'float32');
          const { values, roots } = propagateLabels(modelOf(build.finish()));

          const before = expandLabels(
            values.get(turned)!,
            perm.map((axis) => shape[axis]!),
          )!.data;
          const after = expandLabels(values.get(y)!, stated)!.data;
          expect(Array.from(after, (label) => roots[label])).toEqual(
            Array.from(before, (label) => roots[label]),
          );
          // Whatever goes, what is left is a rectangle: labels depend on one axis alone.
          expect(values.get(y)!.shape.filter((size) => size > 1).length).toBeLessThanOrEqual(1);
        },
      ),
      { numRuns: 200, seed: 3 },
    );
  });

  test('need no size of the batch, nor of other axes that stay', () => {
    expect(reshapeBlocks(['N', 5, 48], ['N', 5, 3, 16])).toEqual([
      { from: [0], to: [0] },
      { from: [1], to: [1] },
      { from: [2], to: [2, 3] },
    ]);
    expect(reshapeBlocks(['N', 8, null, null], [null, 8, null, null])?.[0]).toEqual({
      from: [0, 1, 2, 3],
      to: [0, 1, 2, 3],
    });
    expect(reshapeBlocks([null, 8, 3, 3], [null, 72], new Set([0]))).toEqual([
      { from: [0], to: [0] },
      { from: [1, 2, 3], to: [1] },
    ]);
    expect(reshapeBlocks([null, 5, 12], [null, 12])).toEqual([
      { from: [0, 1], to: [0] },
      { from: [2], to: [1] },
    ]);
    expect(reshapeBlocks([2, 6], [5])).toBeUndefined();
  });
});

test('a target with names is told in numbers where ONNX can say so', () => {
  expect(settledTarget(['N', -1, 12, 64], ['N', 197, 768], true)).toEqual([0, -1, 12, 64]);
  expect(settledTarget([null, 197, 768], ['N', 197, 12, 64], true)).toEqual([-1, 197, 768]);
  expect(settledTarget(['N', 197, 768], ['N', 197, 12, 64], false)).toEqual([-1, 197, 768]);
  expect(settledTarget([null, -1, 768], ['N', 197, 768], true)).toBeUndefined();
  expect(settledTarget([null, 'T', 768], ['N', 197, 768], true)).toBeUndefined();
});
