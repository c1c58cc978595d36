import { type Allocation, allocate, Costs, type GroupChoices, lossOf } from './allocate.ts';
import type { WorkItem } from './network-work.ts';

/**
 * Widths whose cost is nearest to a budget, on either side of it. Where widths are fine enough, `allocate` ends within
 * `nearestDefaults.near` of it and loses least; where blocks are so coarse that it ends further off, groups are moved
 * alone and in pairs as long as that comes nearer, from where it ended and from networks whose groups all keep the same
 * share.
 * @param budget above 0
 */
export function allocateNearest(
  choices: readonly GroupChoices[],
  items: readonly WorkItem[],
  budget: number,
): NearestAllocation {
  const tried: Allocation[] = [];
  for (const side of ['above', 'below'] as const) tried.push(allocate(choices, items, budget, side));
  if (!tried.some(({ cost }) => distanceOf(cost, budget) <= nearestDefaults.near)) {
    const ends = tried.map(({ kept }) =>
      costsAt(
        choices,
        items,
        kept.map((count, group) => choices[group]!.kept.indexOf(count)),
      ),
    );
    for (const costs of ends) {
      approach(choices, costs, budget);
      tried.push(allocationAt(choices, costs));
    }
    tried.push(...levelAllocations(choices, items, budget));
  }
  const nearest = tried.reduce((best, other) => (isNearer(other.cost, best.cost, budget) ? other : best));
  const isAbove = nearest.cost >= budget;
  const across = tried
    .map(({ cost }) => cost)
    .filter((cost) => cost !== nearest.cost && cost >= budget !== isAbove)
    .reduce<number | undefined>(
      (best, cost) => (best === undefined || isNearer(cost, best, budget) ? cost : best),
      undefined,
    );
  return { ...nearest, across };
}

/** Widths whose cost is near a budget, each found from a network whose groups all keep about the same share. */
export function levelAllocations(
  choices: readonly GroupChoices[],
  items: readonly WorkItem[],
  budget: number,
): Allocation[] {
  const level = uniformStarts(choices).map((positions) => costsAt(choices, items, positions));
  level.sort((a, b) => distanceOf(a.total, budget) - distanceOf(b.total, budget));
  return level.slice(0, nearestDefaults.starts).map((costs) => {
    approach(choices, costs, budget);
    return allocationAt(choices, costs);
  });
}

export interface NearestAllocation extends Allocation {
  /** The nearest cost that was found on the other side of the budget, if any was. */
  readonly across?: number;
}

export const nearestDefaults = {
  /** Ratio to the budget, less 1, that is near enough to look no further. */
  near: 0.005,
  /** Networks of one share in all groups that the search also starts from, the nearest ones. */
  starts: 3,
  /** Shares that those networks are of. */
  levels: 40,
  /** Pairs of moves that are tried at most in one round; a network with more of them has fine steps anyway. */
  pairs: 200_000,
} as const;

/** Whether a cost is nearer to the budget than another, by their ratio; of two that are as near, the lower one is. */
export function isNearer(cost: number, other: number, budget: number): boolean {
  const difference = distanceOf(cost, budget) - distanceOf(other, budget);
  return Math.abs(difference) <= TIE ? cost < other : difference < 0;
}

/** |ln(cost / budget)|: twice as much is as far off as half. */
export function distanceOf(cost: number, budget: number): number {
  return Math.abs(Math.log(cost / budget));
}

/** Distances that differ by rounding only are the same. */
const TIE = 1e-9;

/** Positions at which all groups keep about the same share of their widths, each once. */
function uniformStarts(choices: readonly GroupChoices[]): number[][] {
  const starts = new Map<string, number[]>();
  for (let level = 1; level <= nearestDefaults.levels; level++) {
    const positions = choices.map(({ kept }) => {
      const wanted = (level / nearestDefaults.levels) * kept.at(-1)!;
      return kept.reduce(
        (best, count, at) => (Math.abs(count - wanted) < Math.abs(kept[best]! - wanted) ? at : best),
        0,
      );
    });
    starts.set(positions.join(), positions);
  }
  return [...starts.values()];
}

/** Moves one group, or where none helps two, to where the cost comes nearest to the budget, until nothing comes nearer. */
function approach(choices: readonly GroupChoices[], costs: Costs, budget: number): void {
  const moves = choices.flatMap(({ kept }, group) => kept.map((_, to) => ({ group, to })));
  while (distanceOf(costs.total, budget) > nearestDefaults.near) {
    let best: readonly (typeof moves)[number][] | undefined;
    let nearest = costs.total;
    const consider = (cost: number, ...moved: typeof moves) => {
      // A tie is no gain here: the search would go in circles.
      if (distanceOf(cost, budget) < distanceOf(nearest, budget) - TIE) [best, nearest] = [moved, cost];
    };
    for (const move of moves) consider(costs.total + costs.difference(move.group, move.to), move);
    if (best === undefined && moves.length ** 2 / 2 <= nearestDefaults.pairs) {
      for (const first of moves) {
        const at = costs.positions[first.group]!;
        if (first.to === at) continue;
        costs.move(first.group, first.to);
        for (const second of moves)
          if (second.group > first.group)
            consider(costs.total + costs.difference(second.group, second.to), first, second);
        costs.move(first.group, at);
      }
    }
    if (best === undefined) return;
    for (const { group, to } of best) costs.move(group, to);
  }
}

function costsAt(
  choices: readonly GroupChoices[],
  items: readonly WorkItem[],
  positions: readonly number[],
): Costs {
  const costs = new Costs(choices, items);
  for (const [group, at] of positions.entries()) costs.move(group, at);
  return costs;
}

function allocationAt(choices: readonly GroupChoices[], { positions, total }: Costs): Allocation {
  return {
    kept: positions.map((at, group) => choices[group]!.kept[at]!),
    cost: total,
    loss: lossOf(choices, positions),
    isMet: true,
  };
}
