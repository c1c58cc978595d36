import { describe, expect, test } from 'vitest';
import { type BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, type Tensor, tensorOf } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { type Model, type Shape, withGraph } from '../../graph/model.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import { halfPrecision } from '../../transform/passes/half-precision.fixture.ts';
import { compensationSites } from '../../transform/prune/compensate.ts';
import { propagateLabels } from '../../transform/prune/labels.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';
import { prune } from '../../transform/prune/prune.ts';
import { pruneToGoal } from '../goal.ts';
import { MASK_TOLERANCE, maskEquivalence, relativeError } from './mask-equivalence.ts';
import { verify } from './verify.ts';

const network = randomNetwork(['bn-relu', 'residual', 'depthwise', 'concat', 'gate'], 'flatten', 4);

describe('mask equivalence', () => {
  test('holds for random groups, with the same error for the same seed', async () => {
    const first = await maskEquivalence(network, { groups: 12, inputs: 3, seed: 1 });
    expect(first).toMatchObject({ groups: 12, inputs: 3, skipped: 0, isSensitive: true });
    expect(first.maxRelativeError).toBeLessThan(MASK_TOLERANCE);
    expect(await maskEquivalence(network, { groups: 12, inputs: 3, seed: 1 })).toEqual(first);
  });

  test('compares the pruned network on the channels that it lost, and notices wrong ones', async () => {
    const options = { groups: 1, inputs: 3, seed: 1 };
    const right = prune(network, { ratio: 0.5, align: 1 });
    const { delivered } = await verify(right.reference, { ...options, delivered: right });
    expect(delivered!.inputs).toBe(3);
    expect(delivered!.maxRelativeError).toBeLessThan(MASK_TOLERANCE);
    // As many channels of every group, but others.
    const other = prune(network, { ratio: 0.5, align: 1, criterion: 'random', seed: 7 });
    const wrong = await verify(right.reference, { ...options, delivered: { ...right, model: other.model } });
    expect(wrong.delivered!.maxRelativeError).toBeGreaterThan(0.01);
    expect(await maskEquivalence(network, options)).not.toHaveProperty('delivered');
  });

  test('compares a compensated network with the compensated full one', async () => {
    const propagation = propagateLabels(network);
    const means = new Map(
      compensationSites(propagation).map((value) => {
        const channels = propagation.values.get(value)!.shape[1]!;
        return [value, Float64Array.from({ length: channels }, (_, i) => 0.1 * (i + 1))] as const;
      }),
    );
    const result = prune(network, { ratio: 0.5, align: 1, means });
    const options = { groups: 1, inputs: 3, seed: 1, delivered: result };
    const { delivered } = await maskEquivalence(result.reference, options);
    expect(delivered!.maxRelativeError).toBeLessThan(MASK_TOLERANCE);
    const plain = await maskEquivalence(network, options);
    expect(plain.delivered!.maxRelativeError).toBeGreaterThan(MASK_TOLERANCE);
  });

  test('runs in a worker thread with progress, and stops when asked', async () => {
    const seen: number[] = [];
    const options = { groups: 4, inputs: 2, seed: 1 };
    const result = await verify(network, { ...options, onProgress: ({ done }) => seen.push(done) });
    expect(result).toEqual(await maskEquivalence(network, options));
    expect(seen).toEqual([1, 2, 3, 4, 5]);
    const stopped = verify(network, { ...options, signal: AbortSignal.abort() });
    await expect(stopped).rejects.toMatchObject({ code: 'aborted' } satisfies Partial<BonsaiError>);
  });

  test('says when removing channels does not change the outputs, so that nothing was shown', async () => {
    const initializers = new Map(
      [...network.graph.initializers].map(([name, tensor]): [string, Tensor] => [
        name,
        tensor.dtype === 'float32' ? { ...tensor, bytes: new Uint8Array(tensor.bytes.length) } : tensor,
      ]),
    );
    const zeroed = withGraph(network, { ...network.graph, initializers });
    expect(await maskEquivalence(zeroed, { groups: 2, inputs: 2, seed: 1 })).toMatchObject({
      maxRelativeError: 0,
      isSensitive: false,
    });
  });

  test('compares networks in 16-bit floats in float32, so that their own rounding does not hide a wrong slice', async () => {
    const half = halfPrecision(foldConstants(network));
    const pruned = prune(half, { ratio: 0.5, align: 1 });
    expect(pruned.model.graph.inputs[0]!.type?.dtype).toBe('float16');
    const { groups, ...rest } = await verify(pruned.reference, { groups: 3, seed: 1, delivered: pruned });
    expect(groups).toBe(3);
    expect(rest).toMatchObject({ isSensitive: true, skipped: 0 });
    expect(rest.maxRelativeError).toBeLessThan(MASK_TOLERANCE);
    expect(rest.delivered!.maxRelativeError).toBeLessThan(MASK_TOLERANCE);
  });

  test('says the same where outputs depend on the inputs but hardly on the channels', async () => {
    const [logits] = network.graph.outputs;
    const build = new GraphBuilder('drowned', { ...network.graph, outputs: [] });
    // Differences of the logits are far below the rounding of what they are added to.
    const [image] = network.graph.inputs;
    const loud = build.op('Mul', [build.op('ReduceMean', [image!.name], { keepdims: 0 }), build.scalar(1e9)]);
    build.output(build.op('Add', [logits!.name, loud]), 'float32');
    const drowned = withGraph(network, build.finish());
    expect(await maskEquivalence(drowned, { groups: 2, inputs: 2, seed: 1 })).toMatchObject({
      isSensitive: false,
    });
  });

  test('leaves out groups over which a mean is taken, and says so where there are no others', async () => {
    const both = normalised(true);
    expect(await maskEquivalence(both, { groups: 3, inputs: 2, seed: 1 })).toMatchObject({ skipped: 1 });
    expect(await maskEquivalence(normalised(false), { groups: 3, inputs: 2, seed: 1 })).toEqual({
      groups: 0,
      inputs: 2,
      maxRelativeError: 0,
      skipped: 1,
      isSensitive: false,
    });
    const build = new GraphBuilder('plain');
    build.output(build.op('Relu', [build.input('x', 'float32', ['N', 3])]), 'float32');
    await expect(maskEquivalence(modelOf(build.finish()), { groups: 3, seed: 1 })).rejects.toMatchObject({
      code: 'empty_group',
    });
  });

  test('takes open channels from the weights, and says which sizes it tried where they are still wrong', async () => {
    const [image] = network.graph.inputs;
    const opened = (shape: Shape) =>
      withGraph(network, {
        ...network.graph,
        inputs: [{ ...image!, type: { dtype: 'float32', shape } }],
        valueInfos: new Map(),
      });
    const options = { groups: 3, inputs: 2, seed: 1 };
    const { maxRelativeError } = await maskEquivalence(opened(['N', 'C', 8, 8]), options);
    expect(maxRelativeError).toBeLessThan(MASK_TOLERANCE);
    // Flatten and Gemm behind it take no other size of image than the network's own.
    const wrong = maskEquivalence(opened(['N', 'C', 'H', 'W']), options);
    await expect(wrong).rejects.toThrow(/tried \(--shape image=1,2,64,64\): give sizes/);
  });

  test('holds for a quantised network, whose fused kernels would round differently', async () => {
    const { maxRelativeError, isSensitive } = await maskEquivalence(quantised(), { groups: 6, seed: 1 });
    expect(maxRelativeError).toBeLessThan(MASK_TOLERANCE);
    expect(isSensitive).toBe(true);
  });

  test('cannot be led astray by values that lie between two steps of a quantised network', async () => {
    // Every second sum is half a step, but for the rounding of floats, which depends on what is summed.
    const integers = quantised({ input: 0.1, weight: 0.05, largest: 1, sums: [0.01, 0.001, 0.0001] });
    const right = prune(integers, { ratio: 0.5, align: 1 });
    for (let seed = 1; seed <= 3; seed++) {
      const options = { groups: 6, seed, delivered: right };
      const { maxRelativeError, isSensitive, delivered } = await maskEquivalence(right.reference, options);
      expect(isSensitive).toBe(true);
      expect(maxRelativeError).toBeLessThan(1e-5);
      expect(delivered!.maxRelativeError).toBeLessThan(1e-5);
    }
    // A wrong slice still is one.
    const other = prune(integers, { ratio: 0.5, align: 1, criterion: 'random', seed: 7 });
    const wrong = { groups: 1, seed: 1, delivered: { ...right, model: other.model } };
    const { delivered } = await maskEquivalence(right.reference, wrong);
    expect(delivered!.maxRelativeError).toBeGreaterThan(0.01);
  });

  test('is blind to names: inputs and channels may be called like what every object inherits', async () => {
    for (const [input, layer] of [
      ['constructor', 'toString'],
      ['toString', '__proto__'],
      ['__proto__', 'constructor'],
    ] as const) {
      const b = new GraphBuilder('names');
      const image = b.input(input, 'float32', ['batch', 2, 'height', 'width']);
      const weight = float32Tensor(
        [4, 2, 3, 3],
        Float32Array.from({ length: 72 }, (_, i) => Math.sin(i)),
      );
      const wide = b.op('Conv', [image, b.constant(weight)], { pads: [1, 1, 1, 1] }, { outputs: [layer] });
      const back = float32Tensor(
        [2, 4, 1, 1],
        Float32Array.from({ length: 8 }, (_, i) => Math.cos(i)),
      );
      b.output(b.op('Conv', [b.op('Relu', [wide]), b.constant(back)]), 'float32');
      const delivered = prune(modelOf(b.finish()), { ratio: 0.5, align: 1 });
      expect(delivered.groups.map(({ kept }) => kept)).toEqual([2]);
      for (const shapes of [undefined, { [input]: [1, 2, 5, 6] }]) {
        const options = { groups: 2, inputs: 2, seed: 1, delivered, shapes };
        const { maxRelativeError, ...rest } = await maskEquivalence(delivered.reference, options);
        expect(maxRelativeError).toBeLessThan(MASK_TOLERANCE);
        expect(rest.delivered!.maxRelativeError).toBeLessThan(MASK_TOLERANCE);
      }
      const goal = { kind: 'params', share: 0.5 } as const;
      expect((await pruneToGoal(modelOf(b.finish()), goal, { align: 1 })).groups[0]!.kept).toBe(2);
    }
  });

  test('refuses counts that are not positive', async () => {
    for (const wrong of [{ groups: 0 }, { inputs: 1.5 }]) {
      await expect(maskEquivalence(network, { groups: 1, seed: 1, ...wrong })).rejects.toThrow(
        InvalidArgumentError,
      );
    }
  });
});

describe('the relative error', () => {
  const of = (...values: number[]) => ({ y: float32Tensor([values.length], values) });

  test('is the largest difference over the largest value', () => {
    expect(relativeError(of(1, 2, 4), of(1, 2, 5))).toBeCloseTo(0.2, 6);
    expect(relativeError(of(1, -8), of(1, -8))).toBe(0);
  });

  test('is infinite where shapes or kinds of numbers differ, and 0 where both are the same non-number', () => {
    expect(relativeError(of(1), of(1, 1))).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError(of(Number.NaN, 1), of(1, 1))).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError(of(Number.NaN, 1), of(Number.NaN, 1))).toBe(0);
    expect(relativeError(of(1e-3), of(0))).toBe(Number.POSITIVE_INFINITY);
    expect(relativeError({}, of(1))).toBe(Number.POSITIVE_INFINITY);
  });
});

/** x·A → LayerNormalization → ·B; with a hidden layer behind it that is not normalised. */
function normalised(withHidden: boolean): Model {
  const build = new GraphBuilder('normalised');
  const weight = (shape: number[], at: number) =>
    build.constant(
      float32Tensor(
        shape,
        Float32Array.from({ length: elementCount(shape) }, (_, i) => Math.sin(at + 1.7 * i)),
      ),
    );
  let x = build.op('MatMul', [build.input('x', 'float32', ['N', 3, 4]), weight([4, 8], 0)]);
  x = build.op('LayerNormalization', [x, weight([8], 1), weight([8], 2)], { axis: -1 });
  if (withHidden) x = build.op('Relu', [build.op('MatMul', [x, weight([8, 6], 3)])]);
  const y = build.op('MatMul', [x, weight([withHidden ? 6 : 8, 2], 4)]);
  build.output(y, 'float32', ['N', 3, 2]);
  return modelOf(build.finish());
}

/**
 * Three convolutions between QuantizeLinear and DequantizeLinear, their weights stored as int8.
 * @param steps of the input, the weights (integers up to `largest`) and their sums
 */
function quantised(
  { input, weight, largest, sums } = { input: 0.03, weight: 0.01, largest: 127, sums: [0.07, 0.07, 0.07] },
): Model {
  const build = new GraphBuilder('quantised');
  const random = seededRandom(5);
  const zero = build.constant(tensorOf('int8', [], new Int8Array(1)));
  const rounded = (x: string, step: number) => {
    const scale = build.scalar(step);
    return build.op('DequantizeLinear', [build.op('QuantizeLinear', [x, scale, zero]), scale, zero]);
  };
  const layer = (x: string, from: number, to: number, step: number) => {
    const weights = Int8Array.from(
      { length: to * from * 9 },
      () => random.integer(2 * largest + 1) - largest,
    );
    const stored = build.constant(tensorOf('int8', [to, from, 3, 3], weights));
    const w = build.op('DequantizeLinear', [stored, build.scalar(weight), zero]);
    return rounded(build.op('Conv', [x, w], { pads: [1, 1, 1, 1] }), step);
  };
  let x = rounded(build.input('x', 'float32', ['N', 3, 8, 8]), input);
  for (const [i, step] of sums.entries()) x = layer(x, [3, 16, 16][i]!, [16, 16, 4][i]!, step);
  build.output(build.op('GlobalAveragePool', [x]), 'float32', ['N', 4, 1, 1]);
  return modelOf(build.finish());
}
