import { describe, expect, test } from 'vitest';
import { elementCount, float32Tensor } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { dependencyGroups } from './groups.ts';
import type { Criterion } from './importance/criterion.ts';
import { alignmentOf, prune } from './prune.ts';

/** A chain of 1×1 convolutions of the given widths, then a classifier. Group i is keyed `conv<i>`. */
function chain(...widths: readonly number[]): Model {
  const build = new GraphBuilder('chain');
  let x = build.input('image', 'float32', ['N', 1, 2, 2]);
  let from = 1;
  const ones = (shape: readonly number[]) =>
    build.constant(float32Tensor(shape, new Float32Array(elementCount(shape)).fill(1)));
  for (const [i, to] of widths.entries()) {
    x = build.op('Conv', [x, ones([to, from, 1, 1])], {}, { outputs: [`conv${i}`] });
    from = to;
  }
  const flat = build.op('Flatten', [build.op('GlobalAveragePool', [x])]);
  build.output(build.op('Gemm', [flat, ones([from, 2])]), 'float32', ['N', 2]);
  return modelOf(build.finish());
}

/** Channel c of group i scores `scores[i] + c`. */
const scoring = (...scores: readonly number[]): Criterion => ({
  name: 'given',
  scores: ({ key, channels }) =>
    Float64Array.from({ length: channels }, (_, c) => scores[Number(key.replace('conv', ''))]! + c),
});
const keptOf = (...given: Parameters<typeof prune>) => prune(...given).groups.map((group) => group.kept);

describe('global scope', () => {
  test('takes the lowest scores of the whole network until the share of channels is gone', () => {
    // 20 channels, 10 to go. Scores 0…9 and 4.5…13.5: the ten lowest are 0 … 7 (0, 1, …, 6, 7 → 7 or 8 of the first).
    const criterion = scoring(0, 4.5);
    const kept = keptOf(chain(10, 10), { ratio: 0.5, scope: 'global', align: 1, criterion });
    // 0, 1, 2, 3, 4, 4.5, 5, 5.5, 6, 6.5: seven of the first group, three of the second.
    expect(kept).toEqual([3, 7]);
  });

  test('counts channels, not weights, and counts them from the network before any pruning', () => {
    const options = { scope: 'global', align: 1, criterion: scoring(0, 100) } as const;
    const once = prune(chain(10, 30), { ...options, ratio: 0.1 });
    expect(once.groups.map((group) => group.kept)).toEqual([6, 30]);
    expect(keptOf(once.model, { ...options, ratio: 0.2 })).toEqual([2, 30]);
  });

  test('leaves every group its share of the cap, and at least one channel', () => {
    const criterion = scoring(0, 100);
    const options = { scope: 'global', align: 1, criterion } as const;
    // All 10 of the first group score lowest; at most 9 may go by default, 5 with a cap of 0.5.
    expect(keptOf(chain(10, 10), { ...options, ratio: 0.6 })).toEqual([1, 7]);
    expect(keptOf(chain(10, 10), { ...options, ratio: 0.4, maxRatio: 0.5 })).toEqual([5, 7]);
    expect(keptOf(chain(2, 8), { ...options, ratio: 0.5, maxRatio: 0.99 })).toEqual([1, 4]);
    expect(() => prune(chain(10, 10), { ...options, ratio: 0.95 })).toThrow(
      /no group may lose more than 0\.9/,
    );
  });

  test('keeps multiples of the alignment, and takes whole blocks by their mean score', () => {
    const criterion = scoring(0, 6);
    // Blocks of 8 out of 16 and 20 channels; 20 goes to 16 first, by 4. Means: 3.5, 11.5; 7.5 (4 wide), 13.5, 21.5.
    // 18 of 36 channels: 8, then 4 (12), then 8 (20: the nearest, 2 off rather than 6).
    const kept = keptOf(chain(16, 20), { ratio: 0.5, scope: 'global', align: 8, criterion });
    expect(kept).toEqual([8, 8]);
    const fewer = keptOf(chain(16, 20), { ratio: 0.5, scope: 'global', align: 8, rounding: 'up', criterion });
    expect(fewer).toEqual([8, 16]);
  });
});

test('plain widths keep int(n · (1 − r)), as the peer', () => {
  expect(keptOf(chain(15, 58, 7), { ratio: 0.5, align: 1 })).toEqual([7, 29, 3]);
  expect(keptOf(chain(10, 2), { ratio: 0.7, align: 1 })).toEqual([3, 1]);
});

test('kept counts by group override the ratio, and must be possible', () => {
  const keep = (kept: Record<string, number>) =>
    keptOf(chain(8, 8, 8), { ratio: 0.5, align: 1, kept: new Map(Object.entries(kept)) });
  expect(keep({ conv0: 8, conv2: 1 })).toEqual([8, 4, 1]);
  expect(() => keep({ conv0: 9 })).toThrow(/from 1 to 8/);
  expect(() => keep({ conv0: 0 })).toThrow(/from 1 to 8/);
  expect(() => keep({ nowhere: 4 })).toThrow(/no such group/);
});

test('a score that is not a number is an error with the place', () => {
  const criterion: Criterion = {
    name: 'nan',
    scores: ({ channels }) => new Float64Array(channels).fill(Number.NaN),
  };
  expect(() => prune(chain(4), { ratio: 0.5, align: 1, criterion })).toThrow(
    /Channels of conv0 .*not a number/,
  );
});

test('a unit several channels wide is kept at a smaller multiple', () => {
  const [group] = dependencyGroups(chain(8)).groups;
  expect(alignmentOf(group!, 8)).toBe(8);
  // Four units of two slices in every kernel, as attention heads own whole stretches.
  const wide = { ...group!, channels: 4 };
  expect(alignmentOf(wide, 8)).toBe(4);
  expect(alignmentOf(wide, 1)).toBe(1);
});
