import { InvalidArgumentError } from '../../base/errors.ts';

/**
 * One choice from each group, so that the losses add up to as little as possible while the costs stay within the
 * budget: the multiple-choice knapsack. Keeps, group by group, every partial selection that no other beats in both
 * cost and loss (the dynamic programme of Nemhauser and Ullmann 1969), so it is exact while there are at most
 * `maxStates` of those. Beyond, selections whose losses differ by less than a bucket's width are represented by the
 * cheapest; what that may cost in all is `gap`.
 * @param groups the choices of each group, with costs and losses that are finite (they may be negative)
 * @returns undefined where even the cheapest choices exceed the budget
 * @throws InvalidArgumentError for a group without choices or a figure that is not finite
 */
export function chooseWithin(
  groups: readonly (readonly Choice[])[],
  budget: number,
  options: KnapsackOptions = {},
): Selection | undefined {
  const { maxStates = knapsackDefaults.maxStates } = options;
  const cheapest = groups.map((choices, index) => {
    if (choices.length === 0)
      throw new InvalidArgumentError(`Group ${index} of the knapsack has no choices.`);
    for (const { cost, loss } of choices) {
      if (!Number.isFinite(cost) || !Number.isFinite(loss))
        throw new InvalidArgumentError(
          `Group ${index} of the knapsack has a choice of cost ${cost} and loss ${loss}; both should be finite.`,
        );
    }
    return Math.min(...choices.map(({ cost }) => cost));
  });
  let room = budget - cheapest.reduce((sum, cost) => sum + cost, 0);
  // Sums of float64 in another order differ in the last digits; a selection that fits exactly should be found.
  const slack = COST_TOLERANCE * Math.abs(budget);
  if (room < -slack) return undefined;
  room += slack;

  let states: State[] = [{ cost: 0, loss: 0, pick: -1, before: undefined }];
  let gap = 0;
  for (const [index, choices] of groups.entries()) {
    const extended: State[] = [];
    for (const before of states) {
      for (const [pick, choice] of choices.entries()) {
        const cost = before.cost + choice.cost - cheapest[index]!;
        if (cost <= room) extended.push({ cost, loss: before.loss + choice.loss, pick, before });
      }
    }
    extended.sort((a, b) => a.cost - b.cost || a.loss - b.loss);
    states = [];
    for (const state of extended)
      if (states.length === 0 || state.loss < states.at(-1)!.loss) states.push(state);
    if (states.length > maxStates) {
      const width = (states[0]!.loss - states.at(-1)!.loss) / (maxStates - 1);
      gap += width;
      states = thinned(states, width);
    }
  }

  const best = states.at(-1)!;
  const picks: number[] = [];
  for (let state: State | undefined = best; state?.before !== undefined; state = state.before)
    picks.push(state.pick);
  picks.reverse();
  const cost = picks.reduce((sum, pick, index) => sum + groups[index]![pick]!.cost, 0);
  return { picks, cost, loss: best.loss, gap };
}

export interface Choice {
  readonly cost: number;
  readonly loss: number;
}

export interface KnapsackOptions {
  /** Partial selections to keep at most, at least 2. */
  readonly maxStates?: number;
}

export const knapsackDefaults = {
  /** Networks of up to some thirty groups stay exact; DenseNet's 120 groups of five choices take a quarter second. */
  maxStates: 2048,
} as const satisfies KnapsackOptions;

/** Relative to the budget: far above what summing a few hundred float64 in another order changes, far below any cost. */
export const COST_TOLERANCE = 1e-12;

export interface Selection {
  /** The position of the chosen choice in each group. */
  readonly picks: readonly number[];
  readonly cost: number;
  readonly loss: number;
  /** No selection within the budget loses less than `loss - gap`; 0: the selection is the best. */
  readonly gap: number;
}

interface State {
  /** Above that of the cheapest choices. */
  readonly cost: number;
  readonly loss: number;
  readonly pick: number;
  readonly before: State | undefined;
}

/** Of a front (cost ascending, loss descending), the cheapest of every run whose losses lie within `width`; the ends stay. */
function thinned(front: readonly State[], width: number): State[] {
  const kept: State[] = [front[0]!];
  for (const [i, state] of front.entries()) {
    if (i === 0) continue;
    if (kept.at(-1)!.loss - state.loss > width || i === front.length - 1) kept.push(state);
  }
  return kept;
}
