import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Session } from '../../engine/session.ts';
import { checkModel } from '../../graph/check.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { countParameters } from '../../ops/count.ts';
import { maskEquivalence } from '../../port/verify/mask-equivalence.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { inputsFor, LAYERS, type Layer, randomNetwork } from './networks.fixture.ts';
import { prune } from './prune.ts';

/** Random networks of all kinds of layers. More runs, with other seeds: BONSAI_PROPERTY_RUNS=5000 BONSAI_PROPERTY_SEED=2. */
const RUNS = Number(process.env.BONSAI_PROPERTY_RUNS ?? 40);
const SEED = Number(process.env.BONSAI_PROPERTY_SEED ?? 1);
const TOLERANCE = 1e-4;

const networks = fc.record({
  layers: fc.array(fc.constantFrom(...LAYERS), { minLength: 1, maxLength: 6 }),
  head: fc.constantFrom('gap' as const, 'flatten' as const),
  seed: fc.integer({ min: 1, max: 1e6 }),
});

describe('on random networks', () => {
  test('every kind of layer is valid and leaves something to prune', async () => {
    for (const layer of LAYERS) {
      const model = randomNetwork([layer], 'gap', 3);
      expect([layer, await runs(model)]).toEqual([layer, true]);
      const { groups } = prune(model, { ratio: 0.5, align: 1 });
      expect([layer, groups.length > 0]).toEqual([layer, true]);
    }
  });

  test('a pruned network is sound, smaller and runs', async () => {
    await fc.assert(
      fc.asyncProperty(networks, fc.double({ min: 0, max: 0.95, noNaN: true }), async (network, ratio) => {
        const model = randomNetwork(network.layers as Layer[], network.head, network.seed);
        const { model: pruned, parameters } = prune(model, { ratio, align: 1 });
        checkModel(pruned);
        expect(countParameters(pruned)).toBe(parameters.after);
        expect(parameters.after).toBeLessThanOrEqual(parameters.before);
        expect(await runs(pruned)).toBe(true);
      }),
      { numRuns: RUNS, seed: SEED },
    );
  });

  test('a pruned network computes what the masked one computes', async () => {
    await fc.assert(
      fc.asyncProperty(networks, async ({ layers, head, seed }) => {
        // The first convolution alone can always be compared, unless a layer that mixes channels follows.
        const model = foldConstants(randomNetwork(['conv', 'conv', ...(layers as Layer[])], head, seed));
        const { maxRelativeError } = await maskEquivalence(model, { seed, groups: 4, inputs: 2 });
        expect(maxRelativeError).toBeLessThan(TOLERANCE);
      }),
      { numRuns: RUNS, seed: SEED },
    );
  });
});

async function runs(model: Parameters<typeof writeModel>[0]): Promise<boolean> {
  const session = await Session.create(writeModel(model));
  try {
    const outputs = await session.run(inputsFor(model, 1));
    return Object.keys(outputs).length > 0;
  } finally {
    await session.release();
  }
}
