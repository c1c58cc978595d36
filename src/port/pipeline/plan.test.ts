import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CHAINS, checkRatios, coarseFirst, describeBranch, type PlanOptions, planBranches } from './plan.ts';

const DEFAULTS: PlanOptions = {
  bases: 1,
  ratios: [0.25, 0.5, 0.625, 0.75, 0.875],
  criteria: ['l2'],
  distilled: [false],
  chain: 'nearest',
};

const plans = fc.record({
  bases: fc.integer({ min: 1, max: 3 }),
  ratios: fc
    .uniqueArray(fc.integer({ min: 1, max: 99 }), { minLength: 0, maxLength: 8 })
    .map((numbers) => numbers.sort((a, b) => a - b).map((number) => number / 100)),
  criteria: fc.constantFrom(['l2'] as const, ['l2', 'taylor', 'fpgm'] as const),
  distilled: fc.constantFrom([false], [true], [false, true]),
  chain: fc.constantFrom(...CHAINS),
});

describe('a plan', () => {
  it('covers the range coarsely before it refines it', () => {
    // Half of 0.875 is 0.4375, nearest to it 0.5. 0.875 is 0.375 from it, 0.25 then 0.25 from 0 and 0.5; of 0.625 and
    // 0.75, both 0.125 from their neighbours, the one that comes first.
    expect(coarseFirst(DEFAULTS.ratios)).toEqual([0.5, 0.875, 0.25, 0.625, 0.75]);
    expect(coarseFirst([0.1, 0.2, 0.3])).toEqual([0.2, 0.1, 0.3]);
    expect(coarseFirst([])).toEqual([]);
  });

  it('prunes from the nearest variant that was made before, from the base, or in one line', () => {
    const parents = (chain: PlanOptions['chain']) => {
      const plan = planBranches({ ...DEFAULTS, chain });
      return plan.map(({ ratio, parent }) => [ratio, parent === undefined ? 0 : plan[parent]!.ratio]);
    };
    expect(parents('nearest')).toEqual([
      [0.5, 0],
      [0.875, 0.5],
      [0.25, 0],
      [0.625, 0.5],
      [0.75, 0.625],
    ]);
    expect(parents('base').every(([, parent]) => parent === 0)).toBe(true);
    expect(parents('previous')).toEqual([
      [0.25, 0],
      [0.5, 0.25],
      [0.625, 0.5],
      [0.75, 0.625],
      [0.875, 0.75],
    ]);
  });

  it('tries the second choices while it refines the first', () => {
    const plan = planBranches({ ...DEFAULTS, bases: 2, criteria: ['l2', 'fpgm'], distilled: [false, true] });
    expect(plan).toHaveLength(2 * 2 * 2 * 5);
    expect(plan.slice(0, 6).map((branch) => describeBranch(branch, plan))).toEqual([
      'ratio 0.5, l2, of base 1',
      'ratio 0.5, l2, distilled, of base 1',
      'ratio 0.5, fpgm, of base 1',
      'ratio 0.5, l2, of base 2',
      'ratio 0.875, l2, of base 1',
      'ratio 0.25, l2, of base 1',
    ]);
    const plain = planBranches(DEFAULTS);
    expect(describeBranch(plain[0]!, plain)).toBe('ratio 0.5');
  });

  it('holds every combination once, each after the one it is pruned from, within one base and criterion', () => {
    fc.assert(
      fc.property(plans, (options) => {
        const plan = planBranches(options);
        const { bases, ratios, criteria, distilled } = options;
        const kinds = plan.map(({ base, criterion, ratio, isDistilled }) =>
          [base, criterion, ratio, isDistilled].join(),
        );
        expect(new Set(kinds).size).toBe(bases * ratios.length * criteria.length * distilled.length);
        for (const [i, branch] of plan.entries()) {
          expect(branch.index).toBe(i);
          if (branch.parent === undefined) continue;
          const parent = plan[branch.parent]!;
          expect(parent.index).toBeLessThan(i);
          expect(parent.ratio).toBeLessThan(branch.ratio);
          const { base, criterion, isDistilled } = branch;
          expect(parent).toMatchObject({ base, criterion, isDistilled });
        }
      }),
    );
  });

  it('refuses ratios that do not ascend within (0, 1)', () => {
    for (const ratios of [[0.5, 0.25], [0.5, 0.5], [0], [1], [Number.NaN]])
      expect(() => checkRatios(ratios)).toThrow(/should ascend within \(0, 1\)/);
  });
});
