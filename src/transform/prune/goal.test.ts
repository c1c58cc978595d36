import { expect, test } from 'vitest';
import { InvalidArgumentError } from '../../base/errors.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { countCost, countParameters } from '../../ops/count.ts';
import { formatGoal, parseGoal, pruneToShare } from './goal.ts';
import { distanceOf, nearestDefaults } from './nearest.ts';
import { Net } from './net.fixture.ts';
import { randomNetwork } from './networks.fixture.ts';
import { prune } from './prune.ts';

test('goals are read as people write them, and written so that they read the same', () => {
  expect(parseGoal('flops=0.5')).toEqual({ kind: 'flops', share: 0.5 });
  expect(parseGoal(' params = 30% ')).toEqual({ kind: 'params', share: 0.3 });
  expect(parseGoal('throughput=40/s')).toEqual({ kind: 'throughput', perSecond: 40 });
  expect(parseGoal('throughput=40')).toEqual({ kind: 'throughput', perSecond: 40 });
  expect(parseGoal('latency=5ms')).toEqual({ kind: 'latency', latencyMs: 5 });
  expect(parseGoal('latency=1.5s')).toEqual({ kind: 'latency', latencyMs: 1500 });
  expect(parseGoal('latency=250us')).toEqual({ kind: 'latency', latencyMs: 0.25 });
  for (const text of ['flops=0.25', 'params=0.3', 'throughput=40/s', 'latency=5ms'])
    expect(formatGoal(parseGoal(text))).toBe(text);
});

test.each([
  '',
  'flops',
  'flops=',
  'flops=0',
  'flops=1',
  'flops=2',
  'flops=-0.5',
  'flops=0.5/s',
  'params=0..5',
  'throughput=0',
  'throughput=40ms',
  'latency=5',
  'latency=0ms',
  'latency=5/s',
  'speed=3',
])('"%s" is no goal, and the refusal shows one', (text) => {
  expect(() => parseGoal(text)).toThrow(InvalidArgumentError);
  expect(() => parseGoal(text)).toThrow(/(flops|params|throughput|latency)=[0-9.]+/);
});

const layers = ['projection', 'residual', 'concat', 'depthwise', 'conv'] as const;

test.each([
  { kind: 'flops', share: 0.5 },
  { kind: 'flops', share: 0.2 },
  { kind: 'params', share: 0.35 },
] as const)(
  '$kind=$share ends as near to the share as blocks allow: one block more or less of any group is further off',
  (goal) => {
    const model = randomNetwork(layers, 'flatten', 4);
    const before = writeModel(model);
    const align = 2;
    const result = pruneToShare(model, goal, { align });
    const sizeOf = (pruned: typeof model) =>
      goal.kind === 'flops' ? countCost(pruned).macs : countParameters(pruned);
    const share = sizeOf(result.model) / sizeOf(model);
    expect(result.share).toBe(share);
    const near = 1 + nearestDefaults.near;
    expect(result.acrossShare === undefined || result.acrossShare < goal.share !== share < goal.share).toBe(
      true,
    );
    expect(writeModel(model)).toEqual(before);

    let tried = 0;
    for (const { key, channels, kept } of result.groups) {
      expect(kept === channels || kept % align === 0).toBe(true);
      // The largest ratio leaves a tenth, rounded up to a block.
      const least = Math.max(1, Math.ceil((channels * 0.1) / align) * align);
      for (const next of [kept - (kept % align || align), Math.min(channels, kept + align)]) {
        if (next < least || next === kept) continue;
        const widths = new Map(result.groups.map((group) => [group.key, group.kept]));
        const other = prune(model, { ratio: 0, align, kept: widths.set(key, next) }).model;
        const distance = distanceOf(sizeOf(other) / sizeOf(model), goal.share);
        expect(distance > distanceOf(share, goal.share) || distance <= Math.log(near)).toBe(true);
        tried++;
      }
    }
    expect(tried).toBeGreaterThan(2);
  },
);

test('where blocks are coarse, the nearest share is taken, below the goal too, and the one across it is told', () => {
  const net = new Net();
  const model = net.close(net.conv(net.conv(net.image([3, 8, 8]), 3, 16), 16, 16), 16);
  // Both layers have 8 or 16 channels: 1, about a half in two ways, or 0.27 of the work.
  const left = (share: number) => pruneToShare(model, { kind: 'flops', share }, { align: 8 });
  const narrow = left(0.3);
  expect(narrow.groups.map(({ kept }) => kept)).toEqual([8, 8]);
  expect(narrow.share).toBeCloseTo(countCost(narrow.model).macs / countCost(model).macs, 12);
  expect(narrow.share).toBeLessThan(0.3);
  expect(narrow.acrossShare).toBeGreaterThan(0.4);
  const wide = left(0.9);
  expect([wide.share, wide.acrossShare! < 0.7]).toEqual([1, true]);
});

test('groups named to stay whole do, and the others meet the goal; where nothing is left the refusal says why', () => {
  const model = randomNetwork(layers, 'gap', 4);
  const { groups } = pruneToShare(model, { kind: 'flops', share: 0.7 }, { align: 1 });
  const taken = groups.find(({ channels, kept }) => kept < channels)!;
  const spared = pruneToShare(
    model,
    { kind: 'flops', share: 0.7 },
    { align: 1, whole: new Set([taken.key]) },
  );
  expect(spared.groups.find(({ key }) => key === taken.key)?.kept).toBe(taken.channels);
  expect(distanceOf(spared.share, 0.7)).toBeLessThan(0.05);
  expect(() =>
    pruneToShare(
      model,
      { kind: 'flops', share: 0.7 },
      { align: 1, whole: new Set(groups.map(({ key }) => key)) },
    ),
  ).toThrow(/1\.000 is left.*leave fewer groups whole/);
});

test.each([
  [{ kind: 'macs', share: 0.5 }, /the kind "macs"; there are flops, params/],
  [{ kind: 'latency', latencyMs: 5 }, /the kind "latency"; there are flops, params/],
  [{ kind: 'flops', share: '0.5x' }, /`share` of the goal is 0\.5x/],
  [{ kind: 'params', share: 1 }, /a number above 0 and below 1/],
  [undefined, /the kind "undefined"/],
])('what a caller without types gives as a goal of a share is checked: %o', (goal, message) => {
  const ask = () => pruneToShare(randomNetwork(['conv'], 'gap', 1), goal as never, { align: 1 });
  expect(ask).toThrow(InvalidArgumentError);
  expect(ask).toThrow(message);
});

test('a share below what the narrowest widths have is refused with the share that they have', () => {
  const model = randomNetwork(layers, 'gap', 4);
  expect(() => pruneToShare(model, { kind: 'flops', share: 0.001 }, { align: 1 })).toThrow(/0\.\d+ is left/);
  expect(() => pruneToShare(model, { kind: 'flops', share: 0.5 }, { maxRatio: 1 })).toThrow(
    InvalidArgumentError,
  );
  expect(() => pruneToShare(model, { kind: 'flops', share: 0.5 }, { align: 0 })).toThrow(
    InvalidArgumentError,
  );
});

test('a share of the parameters needs no sizes; one of the work names those that are open', () => {
  const closed = randomNetwork(['conv', 'residual', 'conv'], 'gap', 4);
  const [image] = closed.graph.inputs;
  const shape = ['N', 2, 'H', 'W'];
  const inputs = [{ ...image!, type: { dtype: 'float32' as const, shape } }];
  const open = { ...closed, graph: { ...closed.graph, inputs, valueInfos: new Map() } };
  const goal = { kind: 'params', share: 0.4 } as const;
  const [actual, expected] = [open, closed].map((model) => pruneToShare(model, goal, { align: 1 }));
  expect(actual!.groups).toEqual(expected!.groups);
  expect(() => pruneToShare(open, { kind: 'flops', share: 0.4 }, { align: 1 })).toThrow(
    /cannot be counted.*--shape image=1,2,224,224/,
  );
});
