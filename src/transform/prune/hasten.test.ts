import fc from 'fast-check';
import { expect, test } from 'vitest';
import { allocate, costAt, type GroupChoices } from './allocate.ts';
import { engineTimeItems } from './engine-time.ts';
import { fastAllocations, goalProblem, hurryDefaults } from './goal.ts';
import { hasten, hastenDefaults } from './hasten.ts';
import { macItems, type WorkItem } from './network-work.ts';
import { randomNetwork } from './networks.fixture.ts';

const parts = fc.array(
  fc.record({
    work: fc.integer({ min: 1, max: 20 }),
    time: fc.integer({ min: 1, max: 20 }),
    loss: fc.tuple(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 50 })),
  }),
  { minLength: 2, maxLength: 6 },
);

test('work and loss stay within their bounds, and no block or pair of blocks would save more time', () => {
  let faster = 0;
  fc.assert(
    fc.property(parts, fc.integer({ min: 50, max: 95 }), (groups, percent) => {
      const choices: GroupChoices[] = groups.map(({ loss: [a, b] }, i) => ({
        key: String(i),
        kept: [8, 16, 24],
        loss: [a + b, b, 0],
      }));
      const itemsOf = (per: 'work' | 'time'): WorkItem[] =>
        groups.map((group, i) => ({ groups: [i], amount: (kept) => group[per] * kept[i]! }));
      const [work, time] = [itemsOf('work'), itemsOf('time')];
      const whole = groups.map(() => 24);
      const least = (costAt(work, whole) * percent) / 100;
      const start = allocate(choices, work, least, 'above');
      const bounds = { least, most: 1.1 * least, maxLoss: 1.5 * start.loss };
      fc.pre(start.cost <= bounds.most);
      const found = hasten(choices, start.kept, { work, time }, bounds);
      expect(found.isMet).toBe(true);
      expect(found.cost).toBeCloseTo(costAt(time, found.kept), 9);
      expect(found.cost).toBeLessThanOrEqual(costAt(time, start.kept));
      if (found.cost < costAt(time, start.kept)) faster++;

      const lossOf = (kept: readonly number[]) =>
        kept.reduce((sum, count, i) => sum + choices[i]!.loss[choices[i]!.kept.indexOf(count)]!, 0);
      expect(found.loss).toBeCloseTo(lossOf(found.kept), 9);
      const isBetter = (kept: readonly number[]) =>
        costAt(work, kept) >= bounds.least &&
        costAt(work, kept) <= bounds.most &&
        lossOf(kept) <= bounds.maxLoss &&
        costAt(time, kept) < found.cost * (1 - hastenDefaults.leastGain);
      for (const i of choices.keys())
        for (const j of choices.keys())
          for (const a of [8, 16, 24])
            for (const b of [8, 16, 24]) expect(isBetter(found.kept.with(i, a).with(j, b))).toBe(false);
    }),
    { numRuns: 60, seed: 4 },
  );
  expect(faster).toBeGreaterThan(15);
});

test.each([0.4, 0.6])(
  'at a share of %f of the work, allocations keep it and should take less time',
  (share) => {
    const model = randomNetwork(['projection', 'residual', 'concat', 'depthwise', 'conv'], 'gap', 4);
    const problem = goalProblem(model, { align: 2 });
    const { choices, work } = problem;
    const whole = choices.map(({ kept }) => kept.at(-1)!);
    const macs = macItems(work, whole);
    const least = share * costAt(macs, whole);
    const found = fastAllocations(problem, share);
    expect(found.length).toBeGreaterThan(0);
    for (const { kept } of found) {
      expect(costAt(macs, kept)).toBeGreaterThanOrEqual(least);
      for (const [group, count] of kept.entries()) expect(choices[group]!.kept).toContain(count);
    }
    const time = engineTimeItems(work, whole, 2, hurryDefaults.prices[0]);
    const fastest = Math.min(...found.map(({ kept }) => costAt(time, kept)));
    expect(fastest).toBeLessThanOrEqual(costAt(time, allocate(choices, macs, least, 'above').kept));
    expect(fastAllocations(problem, share)).toEqual(found);
  },
);
