import { expect, test } from 'vitest';
import { countParameters } from '../ops/count.ts';
import { randomCriterion } from '../transform/prune/importance/random.ts';
import { randomNetwork } from '../transform/prune/networks.fixture.ts';
import { type PruneResult, prune, pruningOf } from '../transform/prune/prune.ts';
import { pruneIteratively } from './prune-iteratively.ts';
import { MASK_TOLERANCE, maskEquivalence } from './verify/mask-equivalence.ts';

const model = randomNetwork(['bn-relu', 'conv', 'residual', 'conv'], 'gap', 3);
const options = { ratio: 0.5, align: 1, schedule: 'agp', iterations: 3 } as const;

test('rounds follow the schedule, each scoring, pruning, re-estimating and fine-tuning what the one before left', async () => {
  const log: string[] = [];
  const sizes: number[] = [];
  const result = await pruneIteratively(model, options, {
    criterion: async (network, { iteration }) => {
      log.push(`score ${iteration}`);
      sizes.push(countParameters(network));
      return randomCriterion(iteration);
    },
    reestimate: async (network, { iteration }) => {
      log.push(`estimate ${iteration}`);
      return network;
    },
    fineTune: async (network, { iteration, ratio }) => {
      log.push(`tune ${iteration} at ${ratio.toFixed(3)}`);
      return { ...network, docString: `tuned ${iteration}` };
    },
    onRound: ({ iteration }, { groups }) => log.push(`kept ${iteration}: ${groups.length} groups`),
  });
  const groups = result.groups.length;
  // 0.5 · (1 − (1 − t/3)³): 19/54, 13/27, 1/2.
  expect(log).toEqual(
    [0.352, 0.481, 0.5].flatMap((ratio, i) => [
      `score ${i + 1}`,
      `estimate ${i + 1}`,
      `tune ${i + 1} at ${ratio.toFixed(3)}`,
      `kept ${i + 1}: ${groups} groups`,
    ]),
  );
  expect(sizes).toEqual(sizes.toSorted((a, b) => b - a));
  expect(result.model.docString).toBe('tuned 3');
  const direct = prune(model, { ratio: options.ratio, align: options.align });
  const widths = ({ key, channels, kept, removed }: PruneResult['groups'][number]) => {
    expect(removed).toHaveLength(channels - kept);
    return { key, channels, kept };
  };
  expect(result.groups.map(widths)).toEqual(direct.groups.map(widths));
  expect(result.parameters).toEqual(direct.parameters);
  expect(result.macs).toEqual(direct.macs);
  expect(pruningOf(result.model)?.ratio).toBe(0.5);
});

test('what all rounds together removed is told in positions of the network given', async () => {
  const result = await pruneIteratively(model, options, {
    criterion: async (_, { iteration }) => randomCriterion(iteration),
  });
  const { delivered } = await maskEquivalence(result.reference, {
    groups: 1,
    inputs: 3,
    seed: 1,
    delivered: result,
  });
  expect(delivered!.maxRelativeError).toBeLessThan(MASK_TOLERANCE);
});

test('groups that are to stay whole do so in every round', async () => {
  const [first] = prune(model, { ratio: 0.5, align: 1 }).groups;
  const kept = new Map([[first!.key, first!.channels]]);
  const { groups } = await pruneIteratively(model, { ...options, kept });
  expect(groups.map(({ channels, kept }) => kept === channels)).toEqual(groups.map((_, i) => i === 0));
});

test('a pruned network goes on from its ratio; an abort stops between rounds', async () => {
  const ratios: number[] = [];
  const started = prune(model, { ratio: 0.3, align: 1 }).model;
  await pruneIteratively(
    started,
    { ...options, schedule: 'linear', iterations: 2 },
    {
      onRound: ({ ratio }) => ratios.push(ratio),
    },
  );
  expect(ratios).toEqual([expect.closeTo(0.4, 12), 0.5]);
  const stop = new AbortController();
  const stopped = pruneIteratively(
    model,
    { ...options, signal: stop.signal },
    { onRound: () => stop.abort() },
  );
  await expect(stopped).rejects.toMatchObject({
    code: 'aborted',
    message: expect.stringContaining('round 2 of 3'),
  });
});
