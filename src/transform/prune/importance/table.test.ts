import { describe, expect, test } from 'vitest';
import { float32Tensor } from '../../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../../graph/build.ts';
import type { Model } from '../../../graph/model.ts';
import { dependencyGroups, type Group } from '../groups.ts';
import type { GroupOptions } from './criterion.ts';
import { CRITERIA, weightCriterion } from './table.ts';

/** Filters of one weight each on one input channel, `x` of them, then (optionally) BatchNormalization, then a classifier. */
function network(
  weights: readonly number[],
  options: { gamma?: readonly number[]; dense?: number } = {},
): Model {
  const build = new GraphBuilder('net');
  const count = weights.length;
  let x = build.op(
    'Conv',
    [
      build.input('image', 'float32', ['N', 2, 2, 2]),
      build.initializer(
        'w',
        float32Tensor(
          [count, 2, 1, 1],
          weights.flatMap((w) => [w, w]),
        ),
      ),
    ],
    {},
    { outputs: ['conv'] },
  );
  if (options.gamma !== undefined) {
    const zeros = build.floats(options.gamma.map(() => 0));
    const gamma = build.initializer('gamma', float32Tensor([count], options.gamma));
    x = build.op('BatchNormalization', [x, gamma, zeros, zeros, build.floats(options.gamma.map(() => 1))]);
  }
  const flat = build.op('Flatten', [build.op('GlobalAveragePool', [x])]);
  const dense = new Float32Array(count * 2).fill(options.dense ?? 1);
  build.output(build.op('Gemm', [flat, build.constant(float32Tensor([count, 2], dense))]), 'float32', [
    'N',
    2,
  ]);
  return modelOf(build.finish());
}

const groupOf = (model: Model): Group => dependencyGroups(model).groups[0]!;
const RAW: GroupOptions = { normalise: 'none' };

describe('group scores', () => {
  // Out: filters [w, w], L1 2w. In: rows of the classifier [3, 3], L1 6.
  const model = network([1, 2, 4], { dense: 3 });
  const scores = (options: GroupOptions) => [...weightCriterion('l1', model, options).scores(groupOf(model))];

  test('members are reduced as asked', () => {
    expect(scores({ ...RAW, reduce: 'sum' })).toEqual([8, 10, 14]);
    expect(scores({ ...RAW, reduce: 'mean' })).toEqual([4, 5, 7]);
    expect(scores({ ...RAW, reduce: 'max' })).toEqual([6, 6, 8]);
    expect(scores({ ...RAW, reduce: 'prod' })).toEqual([12, 24, 48]);
    expect(scores({ ...RAW, reduce: 'first' })).toEqual([2, 4, 8]);
    expect(scores({ ...RAW, members: 'out', reduce: 'sum' })).toEqual([2, 4, 8]);
  });

  test('scores are normalised as asked, by the mean unless told otherwise', () => {
    expect(scores({ members: 'out', normalise: 'max' })).toEqual([0.25, 0.5, 1]);
    const [a, b, c] = scores({ members: 'out' });
    expect([a, b, c].map((score) => score! * (14 / 3))).toEqual([2, 4, 8].map((s) => expect.closeTo(s, 10)));
  });

  test('options that do not exist are refused with those that do', () => {
    expect(() => scores({ reduce: 'median' as 'mean' })).toThrow(/mean, sum, max, prod, first/);
    expect(() => scores({ members: 'in' as 'out' })).toThrow(/out, out\+in/);
    expect(() => scores({ normalise: 'l2' as 'mean' })).toThrow(/mean, none, max/);
  });

  test('L2 takes the root for each member before members are added', () => {
    const l2 = weightCriterion('l2', model, { ...RAW, reduce: 'sum' }).scores(groupOf(model));
    for (const [i, w] of [1, 2, 4].entries()) expect(l2[i]).toBeCloseTo(w * Math.SQRT2 + 3 * Math.SQRT2, 6);
  });
});

test('fpgm adds up the distances to all other filters, between weights and not their squares', () => {
  // √2 · |difference|: −4 and 4 are far apart, their squares would coincide. Nearest to the others is 3.
  const weights = [-4, 3, 4, 9];
  const model = network(weights);
  const scores = weightCriterion('fpgm', model, { ...RAW, members: 'out' }).scores(groupOf(model));
  for (const [i, w] of weights.entries()) {
    const expected = weights.reduce((sum, other) => sum + Math.SQRT2 * Math.abs(w - other), 0);
    expect(scores[i]).toBeCloseTo(expected, 5);
  }
  expect(scores.indexOf(Math.min(...scores))).toBe(1);
});

describe('slim', () => {
  test('ranks by the size of the BatchNormalization scale alone', () => {
    const model = network([9, 1, 5], { gamma: [-0.5, 2, 0.1] });
    const scores = weightCriterion('slim', model, RAW).scores(groupOf(model));
    for (const [i, expected] of [0.5, 2, 0.1].entries()) expect(scores[i]).toBeCloseTo(expected, 6);
  });

  test('needs BatchNormalization and says what to do without', () => {
    expect(() => weightCriterion('slim', network([1, 2]))).toThrow(
      expect.objectContaining({
        code: 'unsupported',
        message: expect.stringMatching(/unfolded.*l1 or fpgm/),
      }),
    );
  });
});

test('random scores follow from seed and group', () => {
  const model = network([1, 2, 3]);
  const group = groupOf(model);
  const scores = (seed: number, of = group) => [...weightCriterion('random', model, { seed }).scores(of)];
  expect(scores(1)).toEqual(scores(1));
  expect(scores(1)).not.toEqual(scores(2));
  expect(scores(1)).not.toEqual(scores(1, { ...group, key: 'another' }));
});

test('names without a criterion, and criteria that need data, are refused with what to do', () => {
  const model = network([1, 2]);
  expect(() => weightCriterion('l3' as 'l2', model)).toThrow(new RegExp(CRITERIA.join(', ')));
  expect(() => weightCriterion('taylor', model)).toThrow(/needs data/);
});
