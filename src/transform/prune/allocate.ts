import { InvalidArgumentError } from '../../base/errors.ts';
import { ownValue } from '../../base/own-value.ts';
import type { Group } from './groups.ts';
import { chooseWithin } from './knapsack.ts';
import type { Propagation } from './labels.ts';
import { lastChannels } from './last-channels.ts';
import type { Kept, WorkItem } from './network-work.ts';
import { alignmentOf, keptChannels } from './prune.ts';

/**
 * How many channels each group keeps, so that the network's cost meets a budget and little saliency is lost. Channels
 * go block by block (to the next lower multiple of the group's alignment), always where the loss per unit of cost
 * saved is least; since costs of neighbours multiply, savings are taken anew after every step, as NetAdapt does.
 * With side 'below' the outcome is then improved by the knapsack: costs made linear around it and choices a few blocks
 * around it, exact within those, taken only where the true cost fits the budget and less is lost.
 * @param items what the costs add up from
 * @param side 'below': the cost ends at or under the budget; 'above': at or over it, as close as single steps lead
 */
export function allocate(
  choices: readonly GroupChoices[],
  items: readonly WorkItem[],
  budget: number,
  side: 'below' | 'above',
): Allocation {
  const costs = new Costs(choices, items);
  descend(choices, costs, budget, side);
  if (side === 'below' && costs.total <= budget) improve(choices, costs, budget);
  return {
    kept: costs.positions.map((at, group) => choices[group]!.kept[at]!),
    cost: costs.total,
    loss: lossOf(choices, costs.positions),
    isMet: side === 'above' ? costs.total >= budget : costs.total <= budget,
  };
}

export interface Allocation {
  /** Channels kept, by the group's position. */
  readonly kept: readonly number[];
  readonly cost: number;
  /** Σ of the groups' losses. */
  readonly loss: number;
  /** False: even the narrowest choices cost more than the budget (side 'above': even the widest cost less). */
  readonly isMet: boolean;
}

/** What a group may keep and what it loses then; counts ascend, the last is the whole group and loses nothing. */
export interface GroupChoices {
  readonly key: string;
  readonly kept: readonly number[];
  readonly loss: readonly number[];
}

/**
 * The widths that a group may have: multiples of its alignment below its channels, and all of them. What is lost at a
 * width is T · r / (1 - r), with T the group's whole saliency and r the share of it that goes. For small r that is the
 * saliency removed, which is what the criterion predicts to first order; it grows without bound as the group empties,
 * because first order says nothing there, and a sum of scores alone would empty whichever group is dearest.
 * @param base channels before any pruning, which `maxRatio` refers to
 */
export function choicesOf(
  group: Group,
  scores: Float64Array,
  { order, staying }: Ranking,
  options: { readonly align: number; readonly maxRatio: number; readonly base: number },
): GroupChoices {
  const align = alignmentOf(group, options.align);
  const least = Math.max(1, staying, keptChannels(options.base, options.maxRatio, align, 'up'));
  let total = scores.reduce((sum, score) => sum + score, 0);
  // Weights that are zero throughout rank nothing; then channels count alike.
  const isFlat = !(total > 0);
  if (isFlat) total = group.channels;

  const kept = [group.channels];
  const loss = [0];
  let lost = 0;
  for (let left = group.channels; ; ) {
    const next = left - (left % align || align);
    if (next < least) break;
    for (let i = group.channels - left; i < group.channels - next; i++)
      lost += isFlat ? 1 : scores[order[i]!]!;
    left = next;
    const share = lost / total;
    if (!(share < 1)) break;
    kept.unshift(next);
    loss.unshift((total * share) / (1 - share));
  }
  return { key: group.key, kept, loss };
}

/** In which order the channels of a group go. */
export interface Ranking {
  /** All channels, the first to go first. */
  readonly order: Uint32Array;
  /** How many at the end of the order never go (`lastChannels`). */
  readonly staying: number;
}

/** The order in which `prune` takes channels: the lowest scores first, of equal ones those further back. */
export function rankingsOf(
  propagation: Propagation,
  groups: readonly Group[],
  scores: readonly Float64Array[],
): Ranking[] {
  const scoreOf = new Map<number, number>();
  for (const [index, { units }] of groups.entries())
    for (const [i, unit] of units.entries()) scoreOf.set(unit, scores[index]![i]!);
  const last = lastChannels(propagation, scoreOf);
  return groups.map(({ units }, index) => {
    const own = scores[index]!;
    const stays = Uint8Array.from(units, (unit) => (last.has(unit) ? 1 : 0));
    return {
      order: Uint32Array.from(own, (_, i) => i).sort(
        (a, b) => stays[a]! - stays[b]! || own[a]! - own[b]! || b - a,
      ),
      staying: stays.reduce((sum, flag) => sum + flag, 0),
    };
  });
}

/** `choicesOf` for all groups. @throws InvalidArgumentError for an alignment or ratio that makes no sense */
export function choicesOfGroups(
  groups: readonly Group[],
  scores: readonly Float64Array[],
  rankings: readonly Ranking[],
  options: {
    readonly align: number;
    readonly maxRatio: number;
    /** Channels before any pruning, by `Group.key`. */
    readonly bases?: Readonly<Record<string, number>>;
  },
): GroupChoices[] {
  const { align, maxRatio, bases } = options;
  if (!Number.isInteger(align) || align < 1)
    throw new InvalidArgumentError(`The alignment (--align) is ${align}; it should be a positive integer.`);
  if (typeof maxRatio !== 'number' || !(maxRatio > 0 && maxRatio < 1))
    throw new InvalidArgumentError(
      `\`maxRatio\` (--max-ratio) is ${maxRatio}; it should be above 0 and below 1.`,
    );
  return groups.map((group, index) => {
    const base = Math.max(group.channels, ownValue(bases, group.key) ?? 0);
    return choicesOf(group, scores[index]!, rankings[index]!, { align, maxRatio, base });
  });
}

export const allocateDefaults = {
  /** A step may take this many blocks at once: measured latency has plateaus that a single block does not leave. */
  lookahead: 3,
  /** Blocks around the current width among which the knapsack chooses; where costs bend more, linear costs mislead. */
  reach: 2,
  /** Improvements stop by themselves after two or three; more would be a cycle. */
  rounds: 6,
} as const;

/** Takes the best step until the budget is met or no step is left. */
function descend(
  choices: readonly GroupChoices[],
  costs: Costs,
  budget: number,
  side: 'below' | 'above',
): void {
  const open = new Map<number, Step[]>();
  while (side === 'above' || costs.total > budget) {
    let best: Step | undefined;
    let lowest = Number.POSITIVE_INFINITY;
    for (const group of choices.keys()) {
      let steps = open.get(group);
      if (steps === undefined) {
        steps = stepsOf(choices[group]!, group, costs);
        open.set(group, steps);
      }
      for (const step of steps) {
        if (side === 'above' && costs.total - step.saved < budget) continue;
        // What a step saves beyond the budget is worth nothing.
        const price = step.loss / Math.min(step.saved, costs.total - budget);
        if (price < lowest) [best, lowest] = [step, price];
      }
    }
    if (best === undefined) return;
    costs.move(best.group, best.to);
    for (const touched of costs.neighbours(best.group)) open.delete(touched);
  }
}

interface Step {
  readonly group: number;
  /** The position among the group's choices to go to. */
  readonly to: number;
  readonly saved: number;
  readonly loss: number;
}

function stepsOf({ loss }: GroupChoices, group: number, costs: Costs): Step[] {
  const at = costs.positions[group]!;
  const steps: Step[] = [];
  for (let to = at - 1; to >= Math.max(0, at - allocateDefaults.lookahead); to--) {
    const saved = -costs.difference(group, to);
    if (saved > 0) steps.push({ group, to, saved, loss: loss[to]! - loss[at]! });
  }
  return steps;
}

/** Betters an allocation within the budget by the knapsack around it, until nothing is gained. */
function improve(choices: readonly GroupChoices[], costs: Costs, budget: number): void {
  let reach: number = allocateDefaults.reach;
  for (let round = 0; round < allocateDefaults.rounds && reach >= 1; round++) {
    const start = [...costs.positions];
    const before = lossOf(choices, start);
    const nearby = choices.map(({ kept, loss }, group) => {
      const at = start[group]!;
      const from = Math.max(0, at - reach);
      const to = Math.min(kept.length - 1, at + reach);
      return Array.from({ length: to - from + 1 }, (_, i) => ({
        to: from + i,
        cost: from + i === at ? 0 : costs.difference(group, from + i),
        loss: loss[from + i]! - loss[at]!,
      }));
    });
    const picked = chooseWithin(nearby, budget - costs.total);
    for (const [group, pick] of (picked?.picks ?? []).entries()) costs.move(group, nearby[group]![pick]!.to);
    if (costs.total <= budget && lossOf(choices, costs.positions) < before) continue;
    for (const [group, at] of start.entries()) costs.move(group, at);
    reach--;
  }
}

/** Σ of what the groups lose at the given positions among their choices. */
export function lossOf(choices: readonly GroupChoices[], positions: readonly number[]): number {
  return positions.reduce((sum, at, group) => sum + choices[group]!.loss[at]!, 0);
}

/** The cost of the network at a position among each group's choices, kept up to date item by item. */
export class Costs {
  readonly positions: number[];
  total = 0;
  readonly #choices: readonly GroupChoices[];
  readonly #items: readonly WorkItem[];
  readonly #amounts: Float64Array;
  readonly #itemsOf: readonly number[][];
  readonly #kept: Float64Array;

  constructor(choices: readonly GroupChoices[], items: readonly WorkItem[]) {
    this.#choices = choices;
    this.#items = items;
    this.positions = choices.map(({ kept }) => kept.length - 1);
    this.#kept = Float64Array.from(choices, ({ kept }) => kept.at(-1)!);
    this.#amounts = Float64Array.from(items, (item) => item.amount(this.#kept));
    this.#itemsOf = choices.map(() => []);
    for (const [index, item] of items.entries()) {
      for (const group of item.groups) this.#itemsOf[group]!.push(index);
    }
    this.#sum();
  }

  /** By how much the total would change if a group went to another choice. */
  difference(group: number, to: number): number {
    const whole = this.#kept[group]!;
    this.#kept[group] = this.#choices[group]!.kept[to]!;
    let difference = 0;
    for (const index of this.#itemsOf[group]!)
      difference += this.#items[index]!.amount(this.#kept) - this.#amounts[index]!;
    this.#kept[group] = whole;
    return difference;
  }

  move(group: number, to: number): void {
    if (this.positions[group] === to) return;
    this.positions[group] = to;
    this.#kept[group] = this.#choices[group]!.kept[to]!;
    for (const index of this.#itemsOf[group]!) this.#amounts[index] = this.#items[index]!.amount(this.#kept);
    this.#sum();
  }

  /** Groups whose savings depend on this one's width, itself included. */
  neighbours(group: number): Set<number> {
    const found = new Set([group]);
    for (const index of this.#itemsOf[group]!)
      for (const other of this.#items[index]!.groups) found.add(other);
    return found;
  }

  /** Summed from scratch: adding differences thousands of times would drift. */
  #sum(): void {
    let total = 0;
    for (const amount of this.#amounts) total += amount;
    this.total = total;
  }
}

/** The cost at given widths. */
export function costAt(items: readonly WorkItem[], kept: Kept): number {
  return items.reduce((sum, item) => sum + item.amount(kept), 0);
}
