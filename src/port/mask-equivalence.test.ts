import { describe, expect, test } from 'vitest';
import { type BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import { elementCount, float32Tensor, type Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { type Model, withGraph } from '../graph/model.ts';
import { compensationSites } from '../transform/prune/compensate.ts';
import { propagateLabels } from '../transform/prune/labels.ts';
import { randomNetwork } from '../transform/prune/networks.fixture.ts';
import { prune } from '../transform/prune/prune.ts';
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

  test('says when the outputs do not depend on the inputs, so that nothing was shown', async () => {
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

  test('leaves out groups over which a mean is taken, and refuses where there are no others', async () => {
    const both = normalised(true);
    expect(await maskEquivalence(both, { groups: 3, inputs: 2, seed: 1 })).toMatchObject({ skipped: 1 });
    await expect(maskEquivalence(normalised(false), { groups: 3, seed: 1 })).rejects.toMatchObject({
      code: 'empty_group',
    });
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
