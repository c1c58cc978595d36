import { expect, test } from 'vitest';
import { dependencyGroups } from '../../transform/prune/groups.ts';
import { fpgmCriterion } from '../../transform/prune/importance/fpgm.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';
import { fpgmByEngine } from './fpgm.ts';

const network = randomNetwork(['bn-relu', 'residual', 'depthwise', 'concat', 'split'], 'flatten', 4);

test.each(['out', 'out+in'] as const)(
  'with members %s the engine gives the scores of plain arithmetic',
  async (members) => {
    const byEngine = await fpgmByEngine(network, { members, leastSteps: 0 });
    const plain = fpgmCriterion({ members });
    for (const group of dependencyGroups(network).groups) {
      const [actual, expected] = [byEngine.scores(group), plain.scores(group)];
      expect(actual.length).toBe(expected.length);
      for (const [i, score] of expected.entries()) expect(actual[i]).toBeCloseTo(score, 5);
    }
  },
);

test('it can be stopped', async () => {
  const options = { leastSteps: 0, signal: AbortSignal.abort() };
  await expect(fpgmByEngine(network, options)).rejects.toMatchObject({ code: 'aborted' });
});
