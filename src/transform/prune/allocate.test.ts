import fc from 'fast-check';
import { expect, test } from 'vitest';
import { allocate, choicesOf, costAt, type GroupChoices } from './allocate.ts';
import type { Group } from './groups.ts';
import type { WorkItem } from './network-work.ts';

function group(channels: number): Group {
  return {
    key: `g${channels}`,
    producers: [],
    channels,
    units: Int32Array.from({ length: channels }, (_, i) => i),
    members: [],
    couplings: [],
  };
}

/** The choices of a group whose channels have the given scores, of which none has to stay. */
function choices(scores: readonly number[], given: typeof options): GroupChoices {
  const order = Uint32Array.from(scores, (_, i) => i).sort((a, b) => scores[a]! - scores[b]!);
  return choicesOf(group(scores.length), Float64Array.from(scores), { order, staying: 0 }, given);
}

const options = { align: 8, maxRatio: 0.9, base: 20 };

test('a group may have its own width and the multiples below it, down to the largest ratio', () => {
  expect(choices(Array(20).fill(1), options).kept).toEqual([8, 16, 20]);
  expect(choices(Array(20).fill(1), { ...options, maxRatio: 0.5 }).kept).toEqual([16, 20]);
  expect(choices(Array(6).fill(1), options).kept).toEqual([6]);
});

test('what is lost is the saliency that goes, and more and more as the group empties', () => {
  // 20 channels of score 1: 4 gone are a share of 0.2, 20 · 0.2 / 0.8 = 5; 12 gone: 20 · 0.6 / 0.4 = 30.
  const { loss } = choices(Array(20).fill(1), options);
  expect(loss.map((value) => Number(value.toFixed(9)))).toEqual([30, 5, 0]);
  // The lowest go: 1 + 2 + 3 + 4 = 10 of 210.
  const rising = choices(
    Array.from({ length: 20 }, (_, i) => i + 1),
    options,
  );
  expect(rising.loss[1]).toBeCloseTo((210 * (10 / 210)) / (1 - 10 / 210), 9);
});

test('weights that are zero throughout rank no group above another', () => {
  const { loss } = choices(Array(20).fill(0), options);
  expect(loss[1]).toBeCloseTo(5, 9);
});

const curve = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 2, maxLength: 2 });
const problem = fc.array(fc.record({ loss: curve, cost: fc.integer({ min: 1, max: 20 }) }), {
  minLength: 1,
  maxLength: 5,
});

test('where costs are independent and widths few, the allocation is the best of all', () => {
  fc.assert(
    fc.property(problem, fc.integer({ min: 35, max: 100 }), (parts, percent) => {
      const widths: GroupChoices[] = parts.map(({ loss: [a, b] }, i) => ({
        key: String(i),
        kept: [8, 16, 24],
        loss: [a! + b!, b!, 0],
      }));
      const items: WorkItem[] = parts.map(({ cost }, i) => ({
        groups: [i],
        amount: (kept) => cost * kept[i]!,
      }));
      const budget = (percent * costAt(items, Array(parts.length).fill(24))) / 100;
      const found = allocate(widths, items, budget, 'below');
      let best = Number.POSITIVE_INFINITY;
      for (let code = 0; code < 3 ** parts.length; code++) {
        const picks = parts.map((_, i) => Math.floor(code / 3 ** i) % 3);
        const cost = costAt(
          items,
          picks.map((pick, i) => widths[i]!.kept[pick]!),
        );
        const loss = picks.reduce((sum, pick, i) => sum + widths[i]!.loss[pick]!, 0);
        if (cost <= budget) best = Math.min(best, loss);
      }
      expect(found.isMet).toBe(true);
      expect(found.cost).toBeLessThanOrEqual(budget);
      expect(found.loss).toBeCloseTo(best, 9);
    }),
    { numRuns: 300, seed: 3 },
  );
});

test('a plateau of the costs is crossed, and a budget that cannot be met says so', () => {
  const widths = [{ key: 'a', kept: [8, 16, 24], loss: [3, 1, 0] }];
  const items = [{ groups: [0], amount: (kept: ArrayLike<number>) => (kept[0]! > 8 ? 10 : 4) }];
  expect(allocate(widths, items, 5, 'below')).toMatchObject({ kept: [8], cost: 4, isMet: true });
  expect(allocate(widths, items, 3, 'below')).toMatchObject({ kept: [8], isMet: false });
  expect(allocate(widths, items, 5, 'above')).toMatchObject({ kept: [24], cost: 10, isMet: true });
});

test('savings are taken anew when a neighbour has become narrower', () => {
  // Cost a · b. Of two like groups both must shrink: halving one only leaves 0.5.
  const widths = ['a', 'b'].map((key) => ({
    key,
    kept: [8, 16, 24, 32],
    loss: [12, 32 / 3, 32 / 9, 0],
  }));
  const items = [{ groups: [0, 1], amount: (kept: ArrayLike<number>) => kept[0]! * kept[1]! }];
  const { kept, cost } = allocate(widths, items, 24 * 24, 'below');
  expect(kept).toEqual([24, 24]);
  expect(cost).toBe(576);
});
