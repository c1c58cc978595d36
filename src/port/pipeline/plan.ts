import { InvalidArgumentError } from '../../base/errors.ts';
import type { Criterion } from '../../transform/prune/importance/criterion.ts';
import type { CriterionName } from '../../transform/prune/importance/table.ts';

/** One variant that is to be made: which base is pruned how far by what, and how it is repaired. */
export interface Branch {
  /** Position in the plan. */
  readonly index: number;
  /** Which of the bases. */
  readonly base: number;
  readonly criterion: CriterionName | Criterion;
  /** Share of channels removed, relative to the base. */
  readonly ratio: number;
  /** Fine-tuned towards the teacher's answers as well as the labels. */
  readonly isDistilled: boolean;
  /** Position of the branch whose variant it is pruned from; absent: the base. */
  readonly parent?: number;
}

export interface PlanOptions {
  /** How many bases there are. */
  readonly bases: number;
  /** Ascending, each in (0, 1). */
  readonly ratios: readonly number[];
  readonly criteria: readonly (CriterionName | Criterion)[];
  /** Without, with, or both, in the order of preference. */
  readonly distilled: readonly boolean[];
  readonly chain: Chain;
}

/**
 * What a variant is pruned from. `nearest`: the most pruned variant of the same base and criterion that comes before it
 * in the plan and keeps more, so that steps are short though the coarse ratios come first; `base`: the base, so that
 * variants do not depend on each other; `previous`: the variant of the next smaller ratio, which takes the shortest
 * steps and has to begin with the smallest ratio.
 */
export const CHAINS = ['nearest', 'base', 'previous'] as const;
export type Chain = (typeof CHAINS)[number];

/**
 * Every combination of base, criterion, ratio and distillation, the most useful first: a plan that is cut short anywhere
 * has covered the whole range of ratios coarsely before it refines it, and has tried each second choice (the next
 * criterion, the next base) about as soon as it refines the first. A branch comes after the one it is pruned from.
 */
export function planBranches(options: PlanOptions): readonly Branch[] {
  const { bases, criteria, distilled, chain } = options;
  checkRatios(options.ratios);
  const ratios = chain === 'previous' ? options.ratios : coarseFirst(options.ratios);
  const wanted: { rank: number; base: number; criterion: number; distillation: number; cost: number }[] = [];
  for (const rank of ratios.keys())
    for (let base = 0; base < bases; base++)
      for (const criterion of criteria.keys())
        for (const distillation of distilled.keys())
          wanted.push({
            rank,
            base,
            criterion,
            distillation,
            cost: levelOf(rank) + base + criterion + distillation,
          });
  // The sort is stable, so that branches of equal worth stay in the order of their ratios.
  wanted.sort((a, b) => a.cost - b.cost);
  const places = new Map(wanted.map((entry, index) => [placeOf(entry), index]));
  return wanted.map(({ rank, base, criterion, distillation }, index) => {
    const parentRank = parentOf(ratios, rank, chain);
    const parent =
      parentRank === undefined
        ? undefined
        : places.get(placeOf({ rank: parentRank, base, criterion, distillation }));
    return {
      index,
      base,
      criterion: criteria[criterion]!,
      ratio: ratios[rank]!,
      isDistilled: distilled[distillation]!,
      ...(parent !== undefined && { parent }),
    };
  });
}

/**
 * Ratios in the order in which they are worth most: the one in the middle of the range, then always the one that lies
 * farthest from all before it and from the base. 0.25, 0.5, 0.625, 0.75, 0.875 → 0.5, 0.875, 0.25, 0.625, 0.75.
 */
export function coarseFirst(ratios: readonly number[]): number[] {
  const left = [...ratios];
  const chosen = [0];
  const take = (score: (ratio: number) => number) => {
    const best = left.reduce((a, b) => (score(b) > score(a) + TIE ? b : a));
    left.splice(left.indexOf(best), 1);
    chosen.push(best);
  };
  if (left.length > 0) {
    const middle = Math.max(...left) / 2;
    // Of two that are as near, the larger: what is below is nearer to the base, which is there.
    take((ratio) => -Math.abs(ratio - middle) + (ratio > middle ? 2 * TIE : 0));
  }
  while (left.length > 0) take((ratio) => Math.min(...chosen.map((other) => Math.abs(ratio - other))));
  return chosen.slice(1);
}

/** Distances that differ by less are the same: 0.3 - 0.2 and 0.2 - 0.1 are not quite equal as floats. */
const TIE = 1e-9;

/** How finely a ratio divides the range: the first is coarse, the next two are finer, the next four finer still. */
function levelOf(rank: number): number {
  return Math.floor(Math.log2(rank + 1));
}

function parentOf(ratios: readonly number[], rank: number, chain: Chain): number | undefined {
  switch (chain) {
    case 'base':
      return undefined;
    case 'previous':
      return rank === 0 ? undefined : rank - 1;
    case 'nearest': {
      let parent: number | undefined;
      for (let before = 0; before < rank; before++) {
        const isWider = ratios[before]! < ratios[rank]!;
        if (isWider && (parent === undefined || ratios[before]! > ratios[parent]!)) parent = before;
      }
      return parent;
    }
    default:
      throw new InvalidArgumentError(
        `There is no chain "${String(chain satisfies never)}"; there are ${CHAINS.join(', ')}.`,
      );
  }
}

function placeOf(entry: {
  readonly rank: number;
  readonly base: number;
  readonly criterion: number;
  readonly distillation: number;
}): string {
  const { rank, base, criterion, distillation } = entry;
  return [rank, base, criterion, distillation].join();
}

/** The criterion's name, whichever form it is given in. */
export function nameOfCriterion(criterion: CriterionName | Criterion): string {
  return typeof criterion === 'string' ? criterion : criterion.name;
}

/**
 * A branch in words, such as `ratio 0.5, taylor, distilled, of base 2`. What all branches of the plan share is left out.
 */
export function describeBranch(branch: Branch, plan: readonly Branch[]): string {
  const { ratio, criterion, isDistilled, base } = branch;
  const differs = (of: (other: Branch) => unknown) => plan.some((other) => of(other) !== of(branch));
  return [
    `ratio ${ratio}`,
    ...(differs((other) => nameOfCriterion(other.criterion)) ? [nameOfCriterion(criterion)] : []),
    ...(isDistilled && differs((other) => other.isDistilled) ? ['distilled'] : []),
    ...(differs((other) => other.base) ? [`of base ${base + 1}`] : []),
  ].join(', ');
}

/** @throws InvalidArgumentError for shares that do not ascend within (0, 1) */
export function checkRatios(ratios: readonly number[]): void {
  let before = 0;
  for (const ratio of ratios) {
    if (!(ratio > before && ratio < 1)) {
      throw new InvalidArgumentError(
        `The pruning ratios are ${ratios.join(', ')}; they should ascend within (0, 1).`,
      );
    }
    before = ratio;
  }
}
