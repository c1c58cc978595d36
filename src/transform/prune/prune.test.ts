import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf, tensorOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { dependencyGroups, type Group, groupsOf } from './groups.ts';
import { weightCriterion } from './importance/table.ts';
import { inspect } from './inspect.ts';
import { propagateLabels } from './labels.ts';
import { maskChannels } from './mask.ts';
import { fillWeights, inputsFor, LAYERS, randomNetwork, sharedModel } from './networks.fixture.ts';
import { keptChannels, prune, pruningOf } from './prune.ts';
import { removeChannels } from './remove-channels.ts';

/** The bar for a pruned network against the masked one: float32 sums in another order, nothing more. */
const TOLERANCE = 1e-4;

describe('a pruned network computes what the masked one computes', () => {
  test('on random small networks, for random channels', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...LAYERS), { minLength: 1, maxLength: 7 }),
        fc.constantFrom('gap' as const, 'flatten' as const),
        fc.integer({ min: 1, max: 1e6 }),
        async (layers, head, seed) => {
          const model = foldConstants(randomNetwork(layers, head, seed));
          expect(groupsOf(propagateLabels(model)).groups.length).toBeGreaterThan(0);
          expect(await maskDifference(model, seed, 2)).toBeLessThan(TOLERANCE);
        },
      ),
      { numRuns: 60, seed: 7 },
    );
  });

  for (const path of [
    'graphs/resnet18.bn.onnx.gz',
    'graphs/densenet121.bn.onnx.gz',
    'graphs/mobilenet_v2.bn.onnx.gz',
    'graphs/vgg11_bn.bn.onnx.gz',
    'models/resnet20-cifar10-torch2.onnx',
    'models/squeezenet-cifar10-tf2onnx.onnx',
    'models/mnist-8-cntk.onnx',
    'models/ultraface-rfb-320.onnx',
  ]) {
    const model = sharedModel(path);
    test.skipIf(model === undefined)(`on ${path}`, async () => {
      expect(await maskDifference(fillWeights(model!, 3), 11, 1)).toBeLessThan(TOLERANCE);
    });
  }
});

describe('parameters in unusual places', () => {
  const random = seededRandom(3);
  const weight = (shape: readonly number[]) =>
    float32Tensor(
      shape,
      Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
    );
  const head = (build: GraphBuilder, x: string, channels: number) => {
    const flat = build.op('Flatten', [build.op('GlobalAveragePool', [x])]);
    build.output(build.op('Gemm', [flat, build.constant(weight([channels, 2]))]), 'float32', ['N', 2]);
    return modelOf(build.finish());
  };

  test('a kernel that two convolutions share stays one kernel', async () => {
    const build = new GraphBuilder('tied');
    const stem = build.op('Conv', [
      build.input('image', 'float32', ['N', 1, 4, 4]),
      build.constant(weight([6, 1, 1, 1])),
    ]);
    const tied = build.initializer('tied', weight([6, 6, 1, 1]));
    const model = head(
      build,
      build.op('Conv', [build.op('Relu', [build.op('Conv', [stem, tied])]), tied]),
      6,
    );
    const { groups } = dependencyGroups(model);
    expect(groups).toHaveLength(1);
    expect(await maskDifference(model, 4, 2)).toBeLessThan(TOLERANCE);
    const pruned = prune(model, { ratio: 0.5, align: 1 }).model.graph;
    expect(pruned.initializers.get('tied')!.shape).toEqual([3, 3, 1, 1]);
  });

  test('a kernel in a Constant node is sliced like an initialiser', async () => {
    const build = new GraphBuilder('constant');
    const kernel = build.op('Constant', [], { value: weight([6, 1, 1, 1]) });
    const model = head(build, build.op('Conv', [build.input('image', 'float32', ['N', 1, 4, 4]), kernel]), 6);
    expect(await maskDifference(model, 4, 2)).toBeLessThan(TOLERANCE);
    const { graph } = prune(model, { ratio: 0.5, align: 1 }).model;
    expect(graph.nodes.map((node) => node.opType)).not.toContain('Constant');
  });

  test('channels that a subgraph reads stay', () => {
    const build = new GraphBuilder('branches');
    const image = build.input('image', 'float32', ['N', 1, 4, 4]);
    const x = build.op('Conv', [image, build.constant(weight([6, 1, 1, 1]))]);
    const branch = (name: string) => {
      const inner = new GraphBuilder(name);
      inner.node({
        name,
        opType: 'Relu',
        domain: '',
        inputs: [x],
        outputs: [name],
        attributes: new Map(),
        docString: '',
      });
      inner.output(name, 'float32');
      return { kind: 'graph', value: inner.finish() } as const;
    };
    const condition = build.constant(tensorOf('bool', [], Uint8Array.of(1)));
    build.op('If', [condition], { then_branch: branch('then'), else_branch: branch('else') });
    const { groups, frozen } = dependencyGroups(head(build, x, 6));
    expect(groups).toEqual([]);
    expect(frozen[0]?.reason).toContain('inside a subgraph');
  });
});

describe('half of the channels, plainly rounded, leave as many parameters as Torch-Pruning', () => {
  // Millions, from PRUNING.md section 6: exact, as they depend on shapes alone.
  const peer = {
    resnet18: [11.69, 3.056],
    densenet121: [7.979, 2.275],
    mobilenet_v2: [3.505, 1.222],
    vgg11_bn: [15.906, 4.044],
    cifar_resnet56: [0.856, 0.215],
    cifar_densenet121: [6.956, 1.763],
  } as const;
  for (const [name, [before, after]] of Object.entries(peer)) {
    const model = sharedModel(`graphs/${name}.bn.onnx.gz`);
    test.skipIf(model === undefined)(name, () => {
      const result = prune(model!, { ratio: 0.5, align: 1, rounding: 'down' });
      expect(trainedMillions(model!)).toBeCloseTo(before, 3);
      expect(trainedMillions(result.model)).toBeCloseTo(after, 3);
    });
  }
});

describe('dependency groups', () => {
  test('a residual sum couples its branches, the inside of the block stays apart, the classifier is frozen', () => {
    const { groups, frozen } = dependencyGroups(randomNetwork(['residual'], 'gap', 1));
    expect(groups.map((group) => group.producers)).toEqual([['conv', 'conv_2'], ['conv_1']]);
    expect(frozen).toEqual([{ node: 'logits', reason: 'logits: is an output of the graph' }]);
  });

  test('a concat does not couple its branches', () => {
    const { groups } = dependencyGroups(randomNetwork(['concat', 'conv'], 'gap', 1));
    expect(groups.map((group) => group.producers)).toEqual([['conv'], ['conv_1'], ['conv_2']]);
  });

  test('after Flatten a channel owns a column of the classifier for each position', () => {
    const { groups } = dependencyGroups(randomNetwork([], 'flatten', 1));
    const columns = groups[0]!.members.find((member) => member.opType === 'Gemm')!;
    expect(columns.direction).toBe('in');
    expect([...columns.units].slice(0, 64)).toEqual(Array(64).fill(0));
  });

  test('an operator without a coupling rule freezes what reaches it and says so', () => {
    const { groups, frozen } = dependencyGroups(
      chain((build, x) => build.op('Mystery', [x], {}, { domain: 'com.example' })),
    );
    expect(groups).toEqual([]);
    expect(frozen[0]).toMatchObject({
      node: 'conv',
      reason: expect.stringContaining('Mystery has no coupling rule'),
    });
  });
});

describe('prune', () => {
  test('leaves its input alone and drops what is no longer used', () => {
    const model = randomNetwork(['bn-relu', 'residual', 'concat'], 'flatten', 5);
    const before = writeModel(model);
    const { parameters, macs, model: pruned } = prune(model, { ratio: 0.5, align: 1 });
    expect(writeModel(model)).toEqual(before);
    expect(parameters.after).toBeLessThan(parameters.before);
    expect(macs!.after).toBeLessThan(macs!.before);
    const used = new Set(pruned.graph.nodes.flatMap((node) => node.inputs));
    for (const name of pruned.graph.initializers.keys()) expect(used).toContain(name);
  });

  test('the ratio counts from the network before any pruning, however many steps it took', () => {
    const model = chain((_, x) => x, 40);
    const direct = prune(model, { ratio: 0.5, align: 1 });
    const stepwise = prune(prune(model, { ratio: 0.2, align: 1 }).model, { ratio: 0.5, align: 1 });
    expect(direct.groups.map((group) => group.kept)).toEqual([20]);
    expect(stepwise.groups.map((group) => group.kept)).toEqual([20]);
    expect(pruningOf(stepwise.model)).toMatchObject({ ratio: 0.5, criterion: 'l2', channels: { conv: 40 } });
  });

  test('the least important channels go', () => {
    // Channel c of the 4 weighs c + 1, so half of them are gone: the first two.
    const model = chain(
      (_, x) => x,
      4,
      (c) => c + 1,
    );
    for (const criterion of ['l1', 'l2'] as const) {
      const { model: pruned } = prune(model, { ratio: 0.5, align: 1, criterion });
      const kernel = floatsOf(pruned.graph.initializers.get('w')!);
      expect([...new Set(kernel)]).toEqual([3, 4]);
    }
  });

  test('a vector that nodes of different groups share is cloned, the shared original stays for who needs it whole', () => {
    const build = new GraphBuilder('shared');
    const random = seededRandom(2);
    const weight = (shape: number[]) =>
      float32Tensor(
        shape,
        Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
      );
    const bias = build.initializer('bias', weight([4]));
    let x = build.input('image', 'float32', ['N', 1, 4, 4]);
    x = build.op('Conv', [x, build.constant(weight([4, 1, 1, 1])), bias]);
    x = build.op('Conv', [x, build.constant(weight([4, 4, 1, 1])), bias]);
    x = build.op('Flatten', [build.op('GlobalAveragePool', [x])]);
    build.output(build.op('Gemm', [x, build.constant(weight([4, 4])), bias]), 'float32', ['N', 4]);
    const { model } = prune(modelOf(build.finish()), { ratio: 0.5, align: 1 });
    const biases = model.graph.nodes
      .filter((node) => node.inputs.length === 3)
      .map((node) => model.graph.initializers.get(node.inputs[2]!)!);
    expect(biases.map((tensor) => tensor.shape)).toEqual([[2], [2], [4]]);
  });

  test('bad ratios, alignments and criteria are refused, as is a network with nothing to prune', () => {
    const model = chain((_, x) => x);
    for (const ratio of [-0.1, 1, 1.5, Number.NaN])
      expect(() => prune(model, { ratio })).toThrow(InvalidArgumentError);
    expect(() => prune(model, { ratio: 0.5, align: 0 })).toThrow(InvalidArgumentError);
    expect(() => prune(model, { ratio: 0.5, criterion: 'l3' as 'l2' })).toThrow(/l1, l2/);
    expect(() => prune(model, { ratio: 0.5, rounding: 'zz' as 'up' })).toThrow(/nearest, down, up/);
    const frozen = chain((build, x) => build.op('Mystery', [x], {}, { domain: 'com.example' }));
    expect(() => prune(frozen, { ratio: 0.5 })).toThrow(
      expect.objectContaining({ code: 'empty_group' }) as BonsaiError,
    );
  });

  test.each([
    [null, /prune takes its options as an object such as .*ratio: 0\.5.*, got null/],
    [undefined, /got undefined/],
    [{ ratio: '0.5' }, /ratio is "0\.5"; it should be a number of at least 0/],
    [{ ratio: 0.5, maxRatio: '0.9' }, /\(--max-ratio\) is "0\.9"; it should be a number/],
    [{ ratio: 0.5, reduce: 'max' }, /no option "reduce"; there are ratio, .*Say importance: \{ reduce/],
    [{ ratio: 0.5, importance: { reduce: 'most' } }, /reduce is "most".*mean, sum, max/],
    [{ ratio: 0.5, importance: { members: 'in' } }, /members is "in".*out, out\+in/],
    [{ ratio: 0.5, importance: { normalise: 'l2' }, criterion: 'random' }, /normalise is "l2".*mean, none/],
    [{ ratio: 0.5, importance: { normalize: 'none' } }, /no option "normalize".*Say normalise/],
    [{ ratio: 0.5, importance: null }, /got null/],
    [{ ratio: 0.5, kept: { a: 1 } }, /"kept" is no Map/],
    [{ ratio: 0.5, inputs: { picture: [1, 1, 4, 4] } }, /no input "picture"; its inputs are "image"/],
    [{ ratio: 0.5, inputs: { image: [1, 1, 4] } }, /"image" is \[.*\]; .* is \[1, 1, 4\]\. Expected 4 sizes/],
    [{ ratio: 0.5, inputs: { image: [1, 1, 4, Number.NaN] } }, /positive whole numbers, NaN is none/],
  ])('options that are none are refused: %j', (options, complaint) => {
    const call = () =>
      prune(
        chain((_, x) => x),
        options as never,
      );
    expect(call).toThrow(InvalidArgumentError);
    expect(call).toThrow(complaint);
  });

  test('what is no network is named as such', () => {
    expect(() => prune(null as never, { ratio: 0.5 })).toThrow(/takes a network .*got null/);
    expect(() => prune(Promise.resolve() as never, { ratio: 0.5 })).toThrow(/await it.*got a promise/);
    expect(() =>
      inspect(
        chain((_, x) => x),
        null as never,
      ),
    ).toThrow(InvalidArgumentError);
  });

  test('criteria that give no list, or another number of scores than channels', () => {
    const model = randomNetwork(['conv', 'conv'], 'gap', 2);
    const by = (scores: unknown) =>
      prune(model, {
        ratio: 0.5,
        align: 1,
        criterion: { name: 'mine', scores: () => scores as Float64Array },
      });
    expect(() => by(new Float64Array(1))).toThrow(
      /"mine" gave 1 scores for the \d+ channels of conv.*one score for each/,
    );
    expect(() => by(null)).toThrow(/"mine" gave null/);
    expect(() => by(undefined)).toThrow(InvalidArgumentError);
    expect(() => prune(model, { ratio: 0.5, criterion: null as never })).toThrow(
      /neither a name nor an object/,
    );
    // Plain lists are as good.
    const listed = {
      name: 'mine',
      scores: ({ channels }: Group) => Array.from({ length: channels }, (_, i) => i),
    };
    const { groups } = prune(model, { ratio: 0.5, align: 1, criterion: listed as never });
    expect(groups[0]!.removed).toEqual([0, 1]);
  });

  test('a network whose sizes are open is pruned all the same; its work is counted at sizes that the caller gives', () => {
    const fixed = chain((_, x) => x);
    const image = { name: 'image', type: { dtype: 'float32' as const, shape: ['N', 1, 'H', 'W'] } };
    const open = { ...fixed, graph: { ...fixed.graph, inputs: [image] } };
    expect(prune(open, { ratio: 0.5, align: 1 })).toMatchObject({ parameters: { before: 44, after: 22 } });
    const { macs, uncounted } = prune(open, { ratio: 0.5, align: 1 });
    expect(macs).toBeUndefined();
    expect(uncounted).toMatch(/Conv.*"image" leaves sizes open, \[1, 1, H, W\].*--shape image=1,1,224,224/);
    const sized = prune(open, { ratio: 0.5, align: 1, inputs: { image: [1, 1, 4, 4] } });
    // 4 filters of 9 weights at 2 x 2 positions, then 4 x 2: 144 + 8.
    expect(sized.macs).toEqual({ before: 152, after: 76 });
  });

  test('removing frozen channels, or all channels of a layer, is refused', () => {
    const propagation = propagateLabels(chain((_, x) => x));
    const [group] = groupsOf(propagation).groups;
    expect(() => removeChannels(propagation, group!.units)).toThrow(
      expect.objectContaining({ code: 'empty_group' }) as BonsaiError,
    );
    const [frozen] = propagation.frozen.keys();
    expect(() => removeChannels(propagation, [frozen!])).toThrow(/cannot be removed/);
  });
});

test('kept counts are the nearest multiple of the block, at least one block, at most all', () => {
  // 64 · 0.7 = 44.8 → 5.6 blocks → 6; 10 · 0.5 = 5 → 0.6 → 1 block; 6 channels are less than a block.
  expect(keptChannels(64, 0.3, 8, 'nearest')).toBe(48);
  expect(keptChannels(64, 0.3, 8, 'down')).toBe(40);
  expect(keptChannels(64, 0.3, 8, 'up')).toBe(48);
  expect(keptChannels(10, 0.5, 8, 'nearest')).toBe(8);
  expect(keptChannels(6, 0.5, 8, 'nearest')).toBe(6);
  expect(keptChannels(10, 0.7, 1, 'up')).toBe(3);
  expect(keptChannels(10, 0.99, 1, 'down')).toBe(1);
});

describe('importance', () => {
  const network = chain(
    (_, x) => x,
    3,
    (c) => c + 1,
  );
  const [group] = dependencyGroups(network).groups;
  test('scores are relative to the group', () => {
    for (const norm of ['l1', 'l2'] as const) {
      const scores = weightCriterion(norm, network).scores(group!);
      expect(scores.reduce((sum, score) => sum + score) / 3).toBeCloseTo(1, 12);
    }
  });
  test('out-slices alone are the norms of the filters', () => {
    // Filters of 9 equal weights 1, 2, 3: both norms are proportional to 1 : 2 : 3, of mean 2.
    const scores = weightCriterion('l2', network, { members: 'out' }).scores(group!);
    for (const [i, expected] of [0.5, 1, 1.5].entries()) expect(scores[i]).toBeCloseTo(expected, 6);
  });
});

/** Conv (3 x 3, `channels` wide) → something → global pooling → Gemm. */
function chain(
  middle: (build: GraphBuilder, x: string) => string,
  channels = 4,
  weightOf: (channel: number) => number = (c) => (c % 3) + 0.5,
): Model {
  const build = new GraphBuilder('chain');
  const image = build.input('image', 'float32', ['N', 1, 4, 4]);
  const kernel = Float32Array.from({ length: channels * 9 }, (_, i) => weightOf(Math.floor(i / 9)));
  const x = build.op('Conv', [image, build.initializer('w', float32Tensor([channels, 1, 3, 3], kernel))]);
  const flat = build.op('Flatten', [build.op('GlobalAveragePool', [middle(build, x)])]);
  const dense = build.constant(float32Tensor([channels, 2], new Float32Array(channels * 2).fill(1)));
  build.output(build.op('Gemm', [flat, dense]), 'float32', ['N', 2]);
  return modelOf(build.finish(), { extraOpsets: [{ domain: 'com.example', version: 1 }] });
}

/** Largest difference between the pruned and the masked network, relative to the largest output, over some inputs. */
async function maskDifference(model: Model, seed: number, inputs: number): Promise<number> {
  const propagation = propagateLabels(model);
  const random = seededRandom(seed);
  const removed = groupsOf(propagation).groups.flatMap(({ units, inexact }) => {
    if (inexact !== undefined) return []; // Masking is no oracle for these.
    const doomed = [...units].filter(() => random.uniform() < 0.4);
    return doomed.length === units.length ? doomed.slice(1) : doomed;
  });
  const pruned = await Session.create(writeModel(removeChannels(propagation, removed)));
  const masked = await Session.create(writeModel(maskChannels(propagation, removed)));
  let worst = 0;
  for (let i = 0; i < inputs; i++) {
    const feeds = inputsFor(model, seed + i);
    const [actual, expected] = [await pruned.run(feeds), await masked.run(feeds)];
    for (const [name, tensor] of Object.entries(expected)) {
      const [a, b] = [floatsOf(actual[name]!), floatsOf(tensor)];
      const scale = b.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
      expect(scale).toBeGreaterThan(0);
      for (let at = 0; at < b.length; at++) worst = Math.max(worst, Math.abs(a[at]! - b[at]!) / scale);
    }
  }
  await pruned.release();
  await masked.release();
  return worst;
}

/**
 * Parameters as training frameworks count them: without BatchNorm's running statistics, and once for each use,
 * because exporters merge equal vectors (vgg11_bn's zero biases of one width are one initialiser).
 */
function trainedMillions(model: Model): number {
  let count = 0;
  for (const node of model.graph.nodes) {
    for (const [input, name] of node.inputs.entries()) {
      const tensor = model.graph.initializers.get(name);
      const isStatistic = node.opType === 'BatchNormalization' && input >= 3;
      if (tensor?.dtype === 'float32' && !isStatistic) count += elementCount(tensor.shape);
    }
  }
  return count / 1e6;
}
