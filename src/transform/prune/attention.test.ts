import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf, int64Tensor, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { maskEquivalence } from '../../port/verify/mask-equivalence.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { dependencyGroups, groupsOf } from './groups.ts';
import { propagateLabels } from './labels.ts';
import { fillWeights, inputsFor } from './networks.fixture.ts';
import { prune } from './prune.ts';

const [TOKENS, EMBEDDING, HEADS, WIDTH, HIDDEN] = [5, 12, 3, 4, 10];
/** As everywhere: float32 sums in another order. */
const TOLERANCE = 1e-4;

/** How exporters write the way from embeddings to queries, keys and values. */
const STYLES = [
  'separate',
  'separate, sizes computed',
  'fused, gathered',
  'fused, split',
  'fused, sliced',
  'einsum',
  'shared keys',
  'keys for groups of heads',
] as const;
type Style = (typeof STYLES)[number];
type Norm = 'none' | 'layer' | 'written out' | 'root mean square';

describe('attention loses whole heads', () => {
  test.each(STYLES)('%s', async (style) => {
    for (const batch of [2, 'N'] as const) {
      const model = transformer({ style, batch });
      const { groups } = dependencyGroups(foldConstants(model));
      const heads = style === 'keys for groups of heads' ? 2 : HEADS;
      expect(groups.map((group) => group.channels).sort((a, b) => a - b)).toEqual([heads, HIDDEN, EMBEDDING]);
      expect(groups.every((group) => group.inexact === undefined)).toBe(true);
      await expectMasked(model, 'heads');
      const { kept } = prune(model, { ratio: 0.4, align: 1, rounding: 'up' }).groups.find(
        (group) => group.channels === heads,
      )!;
      expect(kept).toBe(2);
    }
  });

  test('the scale of the scores stays that of the full width', () => {
    const pruned = prune(transformer({ style: 'separate' }), { ratio: 0.4, align: 1, rounding: 'up' });
    const { nodes, initializers } = pruned.model.graph;
    const scale = nodes.find((node) => node.opType === 'Div')!;
    expect(floatsOf(initializers.get(scale.inputs[1]!)!)).toEqual(Float32Array.of(Math.sqrt(WIDTH)));
  });
});

describe('attention loses width', () => {
  test.each(STYLES.filter((style) => !style.includes('keys')))('%s', async (style) => {
    const model = foldConstants(transformer({ style }));
    const { groups } = groupsOf(propagateLabels(model, { attention: 'width' }));
    // Queries and keys are united, values stand alone, unless one axis holds all three; one product makes one group.
    const isFused = style.startsWith('fused');
    const widths = style === 'fused, gathered' ? [WIDTH] : isFused ? [2 * WIDTH] : [WIDTH, WIDTH];
    const channels = groups.map((group) => group.channels);
    expect(channels.sort((a, b) => a - b)).toEqual([...widths, HIDDEN, EMBEDDING].sort((a, b) => a - b));
    await expectMasked(model, 'width');
  });
});

describe('normalisation over the embedding', () => {
  test.each(['layer', 'written out', 'root mean square'] as const)(
    '%s: the embedding is pruned, and said not to equal the masked network',
    async (norm) => {
      const model = transformer({ style: 'fused, split', norm });
      const { groups } = dependencyGroups(model);
      const embedding = groups.find((group) => group.channels === EMBEDDING)!;
      expect(embedding.inexact).toMatch(/normalises|mean and variance/);
      expect(groups.filter((group) => group.inexact !== undefined)).toEqual([embedding]);
      await expectMasked(model, 'heads');
      const result = prune(model, { ratio: 0.5, align: 1, rounding: 'down' });
      expect(result.groups.find((group) => group.channels === EMBEDDING)!.kept).toBe(EMBEDDING / 2);
      expect((await outputsOf(result.model)).every(Number.isFinite)).toBe(true);
    },
  );

  test('a mean over channels that is used otherwise keeps them', () => {
    const build = new GraphBuilder('mean');
    const x = build.op('MatMul', [build.input('x', 'float32', ['N', 4]), weight([4, 6], 1, build)]);
    const mean = build.op('ReduceMean', [x], { axes: [-1], keepdims: 1 });
    build.output(build.op('MatMul', [build.op('Mul', [x, mean]), weight([6, 2], 2, build)]), 'float32');
    const { groups, frozen } = dependencyGroups(modelOf(build.finish()));
    expect(groups).toEqual([]);
    expect(frozen.map(({ reason }) => reason).join()).toMatch(/over these channels/);
  });
});

describe('products', () => {
  const run = async (make: (build: GraphBuilder, x: string) => string, widths: readonly number[]) => {
    const build = new GraphBuilder('product');
    const x = build.input('x', 'float32', [4, 7]);
    build.output(make(build, x), 'float32');
    const model = modelOf(build.finish());
    expect(dependencyGroups(model).groups.map((group) => group.channels)).toEqual(widths);
    await expectMasked(model, 'heads');
  };

  test('a weight on the left', () =>
    run(
      (build, x) =>
        build.op('MatMul', [
          weight([3, 6], 1, build),
          build.op('Relu', [build.op('MatMul', [weight([6, 4], 2, build), x])]),
        ]),
      [6],
    ));

  test('a Gemm that transposes both operands', () =>
    run(
      (build, x) => {
        const hidden = build.op('Gemm', [x, weight([6, 4], 1, build), weight([1, 6], 2, build)], {
          transA: 1,
          transB: 1,
        });
        // [7, 6] is transposed once more: its channels are contracted along the first axis of what A is stored as.
        const turned = build.op('Transpose', [hidden]);
        return build.op('Gemm', [turned, weight([6, 3], 3, build)], { transA: 1 });
      },
      [6],
    ));

  test('a sum in a Gemm', () =>
    run(
      (build, x) => {
        const other = build.op('MatMul', [x, weight([7, 6], 3, build)]);
        const hidden = build.op('Gemm', [x, weight([7, 6], 1, build), other]);
        return build.op('MatMul', [hidden, weight([6, 3], 2, build)]);
      },
      [6],
    ));
});

describe('channel shuffles', () => {
  test('whatever way the sizes are stated', async () => {
    for (const target of [
      [2, 2, 4, 3, 3],
      [0, 2, -1, 3, 3],
      [0, 2, 4, 3, 3],
      [0, -1, 4, 3, 3],
    ]) {
      const build = new GraphBuilder('shuffle');
      const image = build.input('image', 'float32', [2, 2, 3, 3]);
      const x = build.op('Conv', [image, weight([8, 2, 1, 1], 1, build)]);
      const rows = build.op('Reshape', [x, build.constant(int64Tensor(target))]);
      const columns = build.op('Transpose', [rows], { perm: [0, 2, 1, 3, 4] });
      const shuffled = build.op('Reshape', [columns, build.constant(int64Tensor([0, 8, 3, -1]))]);
      const bias = build.constant(spreadTensor([8, 1, 1], 5));
      const y = build.op('Conv', [build.op('Add', [shuffled, bias]), weight([2, 8, 1, 1], 2, build)]);
      build.output(y, 'float32');
      const model = modelOf(build.finish());
      expect(dependencyGroups(model).groups.map((group) => group.channels)).toEqual([4]);
      await expectMasked(model, 'heads');
    }
  });

  const light = sharedModel('models/light-shufflenet.onnx');
  test.skipIf(light === undefined)('light-shufflenet, before its softmax', async () => {
    const folded = foldConstants(light!);
    const softmax = folded.graph.nodes.find((node) => node.opType === 'Softmax')!;
    const graph = { ...folded.graph, outputs: [{ name: softmax.inputs[0]! }] };
    const model = fillWeights(blank({ ...folded, graph }), 3);
    const { maxRelativeError, isSensitive } = await maskEquivalence(model, {
      groups: 5,
      inputs: 2,
      seed: 2,
    });
    expect(maxRelativeError).toBeLessThan(TOLERANCE);
    expect(isSensitive).toBe(true);
    const { parameters } = prune(model, { ratio: 0.5, align: 1 });
    expect(parameters.after / parameters.before).toBeLessThan(0.4);
  });
});

describe('a vision transformer of 86 million parameters', () => {
  const vit = sharedModel('graphs/vit_b_16.onnx.gz');
  test.skipIf(vit === undefined)('keeps at 0.5 what a peer keeps', () => {
    const result = prune(vit!, { ratio: 0.5, align: 1, rounding: 'down', criterion: evenCriterion });
    const widths = new Set(result.groups.map((group) => `${group.channels} → ${group.kept}`));
    expect(widths).toEqual(new Set(['768 → 384', '12 → 6', '3072 → 1536']));
    // 22.051 million with every vector counted; the file stores equal ones once.
    expect(result.parameters.after / 22.051e6).toBeCloseTo(1, 2);
  });
});

/** Zero weights have no norm to rank by. */
const evenCriterion = {
  name: 'even',
  scores: ({ channels }: { readonly channels: number }) => new Float64Array(channels).fill(1),
};

async function expectMasked(model: Model, attention: 'heads' | 'width'): Promise<void> {
  const folded = foldConstants(model);
  const found = await maskEquivalence(folded, { groups: 8, inputs: 3, seed: 1, attention });
  expect(found.isSensitive).toBe(true);
  expect(found.maxRelativeError).toBeLessThan(TOLERANCE);
}

async function outputsOf(model: Model): Promise<Float32Array> {
  const session = await Session.create(writeModel(model));
  try {
    return floatsOf(Object.values(await session.run(inputsFor(model, 1)))[0]!);
  } finally {
    await session.release();
  }
}

/** Tokens → embedding → attention → two layers, each with a residual → mean over tokens → logits. */
function transformer(options: { style: Style; norm?: Norm; batch?: 2 | 'N' }): Model {
  const { style, norm = 'none', batch = 'N' } = options;
  const build = new GraphBuilder('transformer');
  let seed = 1;
  const linear = (x: string, from: number, to: number) =>
    build.op('Add', [
      build.op('MatMul', [x, weight([from, to], seed++, build)]),
      build.constant(spreadTensor([to], seed++)),
    ]);
  const shaped = (x: string, target: readonly number[]) =>
    build.op('Reshape', [x, build.constant(int64Tensor(target))]);
  const turned = (x: string, perm: readonly number[]) => build.op('Transpose', [x], { perm });

  const tokens = build.input('tokens', 'float32', [batch, TOKENS, 6]);
  let x = linear(tokens, 6, EMBEDDING);
  x = build.op('Add', [x, build.constant(spreadTensor([1, TOKENS, EMBEDDING], 90))]);

  const inner = HEADS * WIDTH;
  const normal = normalised(build, x, norm);
  const computed = (last: readonly number[]) => {
    const size = build.op('Gather', [build.op('Shape', [normal]), build.constant(int64Tensor([0]))], {
      axis: 0,
    });
    return build.op('Concat', [size, build.constant(int64Tensor(last))], { axis: 0 });
  };
  const split = (value: string, heads = HEADS) =>
    style === 'separate, sizes computed'
      ? build.op('Reshape', [value, computed([-1, heads, WIDTH])])
      : shaped(value, [0, TOKENS, heads, WIDTH]);
  const parts = (): [string, string, string] => {
    const fused = () => linear(normal, EMBEDDING, 3 * inner);
    switch (style) {
      case 'fused, gathered': {
        const stacked = turned(shaped(fused(), [0, TOKENS, 3, HEADS, WIDTH]), [2, 0, 1, 3, 4]);
        const part = (i: number) =>
          build.op('Gather', [stacked, build.constant(int64Tensor([i], []))], { axis: 0 });
        return [part(0), part(1), part(2)];
      }
      case 'fused, split': {
        const sizes = build.constant(int64Tensor([inner, inner, inner]));
        const [q, k, v] = build.ops('Split', [fused(), sizes], { axis: -1 }, { outputs: 3 });
        return [split(q!), split(k!), split(v!)];
      }
      case 'fused, sliced': {
        const all = fused();
        const slice = (i: number) =>
          build.op('Slice', [
            all,
            ...[[i * inner], [(i + 1) * inner], [2]].map((at) => build.constant(int64Tensor(at))),
          ]);
        return [split(slice(0)), split(slice(1)), split(slice(2))];
      }
      case 'shared keys': {
        // One head of keys and values for all queries.
        const one = () => shaped(linear(normal, EMBEDDING, WIDTH), [0, TOKENS, 1, WIDTH]);
        return [split(linear(normal, EMBEDDING, inner)), one(), one()];
      }
      case 'keys for groups of heads': {
        // Two heads of keys, each for two of four heads of queries.
        const repeated = () => {
          const few = split(linear(normal, EMBEDDING, 2 * WIDTH), 2);
          const more = build.op('Unsqueeze', [few, build.constant(int64Tensor([3]))]);
          const target = build.constant(int64Tensor([1, 1, 1, 2, 1]));
          return shaped(build.op('Expand', [more, target]), [0, TOKENS, 4, WIDTH]);
        };
        return [split(linear(normal, EMBEDDING, 4 * WIDTH), 4), repeated(), repeated()];
      }
      default: {
        const one = () => split(linear(normal, EMBEDDING, inner));
        return [one(), one(), one()];
      }
    }
  };
  const [q, k, v] = parts();
  const scale = build.constant(float32Tensor([], [Math.sqrt(WIDTH)]));
  const attended = () => {
    if (style === 'einsum') {
      const scores = build.op('Einsum', [q, k], { equation: 'bthd,bshd->bhts' });
      const weights = build.op('Softmax', [build.op('Div', [scores, scale])], { axis: -1 });
      return build.op('Einsum', [weights, v], { equation: 'bhts,bshd->bthd' });
    }
    const heads = turned(q, [0, 2, 1, 3]);
    const scores = build.op('MatMul', [build.op('Div', [heads, scale]), turned(k, [0, 2, 3, 1])]);
    const weights = build.op('Softmax', [scores], { axis: -1 });
    return turned(build.op('MatMul', [weights, turned(v, [0, 2, 1, 3])]), [0, 2, 1, 3]);
  };
  const width = style === 'keys for groups of heads' ? 4 * WIDTH : inner;
  const merged =
    style === 'separate, sizes computed'
      ? build.op('Reshape', [attended(), computed([-1, width])])
      : shaped(attended(), [0, TOKENS, width]);
  x = build.op('Add', [linear(merged, width, EMBEDDING), x]);
  const hidden = build.op('Relu', [linear(normalised(build, x, norm), EMBEDDING, HIDDEN)]);
  x = build.op('Add', [x, linear(hidden, HIDDEN, EMBEDDING)]);
  const mean = build.op('ReduceMean', [x], { axes: [1], keepdims: 0 });
  build.output(linear(mean, EMBEDDING, 3), 'float32');
  return modelOf(build.finish());
}

function normalised(build: GraphBuilder, x: string, norm: Norm): string {
  const scale = build.constant(spreadTensor([EMBEDDING], 70));
  const shift = build.constant(spreadTensor([EMBEDDING], 71));
  const mean = (value: string) => build.op('ReduceMean', [value], { axes: [-1], keepdims: 1 });
  const two = () => build.constant(float32Tensor([], [2]));
  const deviation = (value: string) =>
    build.op('Sqrt', [
      build.op('Add', [mean(build.op('Pow', [value, two()])), build.constant(float32Tensor([], [1e-5]))]),
    ]);
  switch (norm) {
    case 'none':
      return x;
    case 'layer':
      return build.op('LayerNormalization', [x, scale, shift], { axis: -1 });
    case 'written out': {
      const centred = build.op('Sub', [x, mean(x)]);
      const normal = build.op('Div', [centred, deviation(centred)]);
      return build.op('Add', [build.op('Mul', [normal, scale]), shift]);
    }
    case 'root mean square':
      return build.op('Mul', [build.op('Div', [x, deviation(x)]), scale]);
    default:
      return norm satisfies never;
  }
}

function weight(shape: readonly number[], seed: number, build: GraphBuilder): string {
  return build.constant(spreadTensor(shape, seed), 'w');
}

function spreadTensor(shape: readonly number[], seed: number): Tensor {
  const random = seededRandom(seed);
  return float32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => 0.6 * random.normal()),
  );
}

/** Weights that the file fills with one value are set to 0, so that `fillWeights` takes them. */
function blank(model: Model): Model {
  const initializers = new Map(model.graph.initializers);
  for (const [name, tensor] of initializers) {
    if (tensor.dtype !== 'float32' || elementCount(tensor.shape) < 16) continue;
    const [first, ...others] = floatsOf(tensor);
    if (others.every((value) => value === first)) {
      initializers.set(name, { ...tensor, bytes: new Uint8Array(tensor.bytes.length) });
    }
  }
  return { ...model, graph: { ...model.graph, initializers } };
}

function sharedModel(path: string): Model | undefined {
  const file = join(process.env.BONSAI_SHARED ?? '../shared', path);
  if (!existsSync(file)) return undefined;
  const bytes = readFileSync(file);
  return readModel(path.endsWith('.gz') ? gunzipSync(bytes) : bytes);
}
