import { InvalidArgumentError } from '../../base/errors.ts';
import type { Model, Shape } from '../../graph/model.ts';
import { countCost, countParameters } from '../../ops/count.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import {
  type Allocation,
  allocate,
  choicesOfGroups,
  costAt,
  type GroupChoices,
  rankingsOf,
} from './allocate.ts';
import { type EnginePrices, engineTimeItems } from './engine-time.ts';
import { type Group, groupsOf, nothingToPrune } from './groups.ts';
import { hasten } from './hasten.ts';
import { type Criterion, scoresOf } from './importance/criterion.ts';
import { type CriterionName, weightCriterion } from './importance/table.ts';
import { propagateLabels } from './labels.ts';
import { allocateNearest, isNearer, levelAllocations } from './nearest.ts';
import { macItems, type NetworkWork, networkWork, type WorkItem } from './network-work.ts';
import { alignmentOf, type PruneResult, prune, pruneDefaults, pruningOf } from './prune.ts';

/** What a pruned network should reach. */
export type Goal = ShareGoal | SpeedGoal;

/** A share of the network's multiply-accumulates or parameters that should be left: as nearly as widths allow. */
export interface ShareGoal {
  readonly kind: 'flops' | 'params';
  /** In (0, 1). */
  readonly share: number;
}

/** Measured on the machine that prunes. */
export type SpeedGoal =
  | { readonly kind: 'throughput'; readonly perSecond: number }
  | { readonly kind: 'latency'; readonly latencyMs: number };

/**
 * Reads a goal as people write it: `flops=0.5`, `params=0.3`, `throughput=40/s`, `latency=5ms` (also `us` and `s`).
 * @throws InvalidArgumentError naming what was read and what can be said
 */
export function parseGoal(text: string): Goal {
  const [, kind, number, unit] =
    /^\s*([a-z]+)\s*=\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-zµ/%]*)\s*$/i.exec(text) ?? [];
  const value = Number(number);
  const refuse = (expected: string): never => {
    throw new InvalidArgumentError(`The goal "${text}" cannot be read; ${expected}`);
  };
  switch (kind) {
    case 'flops':
    case 'params': {
      const share = unit === '%' ? value / 100 : value;
      if (!(share > 0 && share < 1) || (unit !== '' && unit !== '%'))
        return refuse(`${kind} is the share that should be left, above 0 and below 1, as in ${kind}=0.5.`);
      return { kind, share };
    }
    case 'throughput':
      if (!(value > 0 && Number.isFinite(value)) || (unit !== '' && unit !== '/s'))
        return refuse('throughput is a positive number of inferences per second, as in throughput=40/s.');
      return { kind, perSecond: value };
    case 'latency': {
      const factor = MS_PER_UNIT[unit ?? ''];
      if (!(value > 0 && Number.isFinite(value)) || factor === undefined)
        return refuse('latency is a positive time with its unit, as in latency=5ms.');
      return { kind, latencyMs: value * factor };
    }
    default:
      return refuse('it should be flops=0.5, params=0.3, throughput=40/s or latency=5ms.');
  }
}

const MS_PER_UNIT: Readonly<Record<string, number | undefined>> = { us: 1e-3, µs: 1e-3, ms: 1, s: 1e3 };

/** The goal as `parseGoal` reads it. */
export function formatGoal(goal: Goal): string {
  switch (goal.kind) {
    case 'flops':
    case 'params':
      return `${goal.kind}=${goal.share}`;
    case 'throughput':
      return `throughput=${goal.perSecond}/s`;
    case 'latency':
      return `latency=${goal.latencyMs}ms`;
    default:
      return goal satisfies never;
  }
}

/**
 * Makes sure that what a caller without types gave is a goal.
 * @param kinds those that can be reached here
 * @throws InvalidArgumentError naming what was given and what there is
 */
export function checkGoal(goal: Goal, kinds: readonly Goal['kind'][] = GOAL_KINDS): void {
  const { kind, share, perSecond, latencyMs } = (goal ?? {}) as Partial<Record<string, unknown>>; // Checked here.
  const known = kinds.find((each) => each === kind);
  if (known === undefined) {
    throw new InvalidArgumentError(
      `The goal is of the kind "${kind}"; there are ${kinds.join(', ')}, as in { kind: 'flops', share: 0.5 }.`,
    );
  }
  const isShare = known === 'flops' || known === 'params';
  const [name, value] = isShare
    ? ['share', share]
    : known === 'throughput'
      ? ['perSecond', perSecond]
      : ['latencyMs', latencyMs];
  const isRight = typeof value === 'number' && value > 0 && value < (isShare ? 1 : Number.POSITIVE_INFINITY);
  if (!isRight) {
    throw new InvalidArgumentError(
      `\`${name}\` of the goal is ${value}; it should be a number above 0${isShare ? ' and below 1' : ''}.`,
    );
  }
}

const GOAL_KINDS = ['flops', 'params', 'throughput', 'latency'] as const satisfies readonly Goal['kind'][];

/**
 * Prunes until the wanted share of multiply-accumulates or parameters is left: the nearest that the search finds widths
 * for, on either side, by the ratio of the shares (`allocateNearest`). Which group gives how much follows from saliency
 * lost per work saved.
 * @throws InvalidArgumentError for goals and options that make no sense, or a share below what the narrowest widths have
 * @throws BonsaiError `empty_group` if nothing can be pruned; `unsupported` where work cannot be counted for want of shapes
 */
export function pruneToShare(model: Model, goal: ShareGoal, options: GoalOptions = {}): ShareResult {
  checkGoal(goal, ['flops', 'params']);
  return solveShare(goalProblem(model, options), goal, options);
}

/** `pruneToShare` for a problem that is already posed. @throws as it does */
export function solveShare(
  problem: GoalProblem,
  goal: ShareGoal,
  options: Pick<GoalOptions, 'inputs'> = {},
): ShareResult {
  const { folded, work, choices, criterion, align } = problem;
  const isFlops = goal.kind === 'flops';
  const whole = choices.map(({ kept }) => kept.at(-1)!);
  const items = isFlops ? macItems(work, whole) : work.parameters;
  const count = (network: Model) =>
    isFlops ? countCost(network, { inputs: options.inputs }).macs : countParameters(network);
  const before = count(folded);

  const narrowest = costAt(
    items,
    choices.map(({ kept }) => kept[0]!),
  );
  if (narrowest > before * goal.share) {
    throw new InvalidArgumentError(
      `The goal ${formatGoal(goal)} cannot be reached: with the narrowest widths allowed ${(narrowest / before).toFixed(3)} ` +
        `is left. Ask for more, lower \`align\` (--align) or raise \`maxRatio\` (--max-ratio)${problem.hasWhole ? ', or leave fewer groups whole (--skip, --inner)' : ''}.`,
    );
  }

  let budget = before * goal.share;
  let best: ShareResult | undefined;
  // The estimate is exact for almost all networks, then the first round ends it; else its error is corrected for.
  for (let round = 0; round < goalDefaults.corrections; round++) {
    const { kept: counts, across } = allocateNearest(choices, items, budget);
    const kept = keptByKey(choices, counts);
    const pruned = prune(folded, { ratio: 0, align, criterion, kept, inputs: options.inputs });
    const left = count(pruned.model);
    const share = left / before;
    const error = left - costAt(items, counts);
    if (best === undefined || isNearer(share, best.share, goal.share)) {
      const acrossShare = across === undefined ? undefined : (across + error) / before;
      best = { ...pruned, goal, share, acrossShare };
    }
    if (Math.abs(error) <= goalDefaults.tolerance * before) break;
    budget = before * goal.share - error;
    if (!(budget > 0)) break;
  }
  return best!; // There is at least one round.
}

/**
 * Widths at which as many multiply-accumulates are left as a share asks for, or at most `hurryDefaults.excess` more
 * (where blocks are too coarse for that, as near as `allocate` comes),
 * and which an engine should compute sooner than those that lose least (`hasten`): less traffic with memory for the
 * same arithmetic. Several, because how dear traffic is differs between machines: measure them. None of them loses more
 * saliency than the plain way to that share, where every group loses the same ratio of its channels.
 * @returns different ones, without those that `allocate` finds by itself; none where no group has two widths
 */
export function fastAllocations(problem: GoalProblem, share: number): Allocation[] {
  const { work, groups, align } = problem;
  const whole = problem.choices.map(({ kept }) => kept.at(-1)!);
  const macs = macItems(work, whole);
  const least = costAt(macs, whole) * share;
  // Widths off the block leave the engine's fast path, also where the network had them.
  const onBlock = problem.choices.map((choices, index): GroupChoices => {
    const { key, kept, loss } = choices;
    const isOff = kept.at(-1)! % alignmentOf(groups[index]!, align) !== 0 && kept.length > 1;
    return isOff ? { key, kept: kept.slice(0, -1), loss: loss.slice(0, -1) } : choices;
  });
  const choices = [onBlock, problem.choices].find(
    (some) =>
      costAt(
        macs,
        some.map(({ kept }) => kept.at(-1)!),
      ) >= least,
  );
  if (choices === undefined) return [];
  const start = allocate(choices, macs, least, 'above');
  const most = Math.max(start.cost, least * (1 + hurryDefaults.excess));
  const maxLoss = Math.max(start.loss, uniformLoss(problem, macs, least));
  const level = levelAllocations(choices, macs, (least + most) / 2).filter(
    ({ cost, loss }) => cost >= least && cost <= most && loss <= maxLoss,
  );
  const found = new Map<string, Allocation>();
  for (const prices of hurryDefaults.prices) {
    const time = engineTimeItems(work, whole, align, prices);
    const bounds = { least, most, maxLoss };
    // A local search ends elsewhere from elsewhere: what other prices led to are starts as well.
    let best: Allocation | undefined;
    for (const { kept } of [start, ...level, ...found.values()]) {
      const allocation = hasten(choices, kept, { work: macs, time }, bounds);
      if (allocation.isMet && (best === undefined || allocation.cost < best.cost)) best = allocation;
    }
    if (best !== undefined) found.set(best.kept.join(), best);
  }
  return [...found.values()];
}

/** What is lost where every group keeps the same share of its channels, so that this many multiply-accumulates are left. */
function uniformLoss({ plainChoices }: GoalProblem, macs: readonly WorkItem[], least: number): number {
  const at = (share: number) =>
    plainChoices.map(({ kept }) => {
      const from = kept.findIndex((count) => count >= share * kept.at(-1)!);
      return from < 0 ? kept.length - 1 : from;
    });
  const work = (positions: readonly number[]) =>
    costAt(
      macs,
      positions.map((position, group) => plainChoices[group]!.kept[position]!),
    );
  let [low, high] = [0, 1];
  for (let step = 0; step < BISECTIONS; step++) {
    const middle = (low + high) / 2;
    if (work(at(middle)) >= least) high = middle;
    else low = middle;
  }
  return at(high).reduce((sum, position, group) => sum + plainChoices[group]!.loss[position]!, 0);
}

/** Halvings of the share of channels: finer than one channel of any network. */
const BISECTIONS = 24;

export const hurryDefaults = {
  /** Multiply-accumulates that may be left above the share: as near as blocks come without narrowing the choice. */
  excess: 0.01,
  /**
   * How engines spend their time, a kind each. The first was fitted to 204 random allocations of MobileNetV2, ResNet-18
   * and DenseNet-121 (AMD EPYC with AVX2, blocks of 8, one thread: 50 multiply-accumulates, 5.4 elements of activations,
   * each counted where it is written and where it is read, or 5.1 weights per nanosecond, to 1 to 3 %), the third to
   * nine of MobileNetV2 with AVX-512 and blocks of 16; the others are for machines in between and beyond.
   */
  prices: [
    { sets: [2.26, 2.55, 3.19, 4], activation: 9.3, weight: 9.8 },
    { sets: [2.26, 2.55, 3.19, 4], activation: 4, weight: 15.5 },
    { sets: [1, 2, 3, 4], activation: 2.85, weight: 15.5 },
    { sets: [1, 2, 3, 4], activation: 6, weight: 31 },
    { sets: [1, 2, 3, 4], activation: 2.85, weight: 60 },
  ] satisfies readonly [EnginePrices, ...EnginePrices[]],
} as const;

export interface GoalOptions {
  /** What makes a channel unimportant; default as for `prune`. */
  readonly criterion?: CriterionName | Criterion;
  /** Kept channels are a multiple of this. Default as for `prune`. */
  readonly align?: number;
  /** The largest share of its channels that a group may lose, in (0, 1). */
  readonly maxRatio?: number;
  /** Keys of groups that lose nothing (`Group.key`, `wholeGroups`). */
  readonly whole?: ReadonlySet<string>;
  /** Shapes at which to count and to measure, by input name, where the file leaves more than the batch open. */
  readonly inputs?: Readonly<Record<string, Shape>>;
}

export interface ShareResult extends PruneResult {
  readonly goal: ShareGoal;
  /** The share that is left. */
  readonly share: number;
  /** The nearest share on the other side of the goal that the search found widths for, if any. */
  readonly acrossShare?: number;
}

export const goalDefaults = {
  /** Each correction removes the estimate's error of the one before; three leave nothing to correct. */
  corrections: 4,
  /** Of the whole network: far below one block of channels. */
  tolerance: 1e-6,
} as const;

/** All that a search for widths needs to know about a network. @throws as `pruneToShare` */
export function goalProblem(model: Model, options: GoalOptions): GoalProblem {
  const { align = pruneDefaults.align, maxRatio = pruneDefaults.maxRatio, whole } = options;
  const folded = foldConstants(model);
  const propagation = propagateLabels(folded);
  const { groups, frozen } = groupsOf(propagation);
  if (groups.length === 0) throw nothingToPrune(frozen);
  const given = options.criterion ?? pruneDefaults.criterion;
  const criterion = typeof given === 'object' ? given : weightCriterion(given, folded);
  const scores = groups.map((group) => scoresOf(criterion, group));
  const rankings = rankingsOf(propagation, groups, scores);
  const bases = pruningOf(folded)?.channels;
  const choicesAt = (multiple: number) =>
    choicesOfGroups(groups, scores, rankings, { align: multiple, maxRatio, bases }).map(
      (choices): GroupChoices =>
        whole?.has(choices.key) ? { ...choices, kept: choices.kept.slice(-1), loss: [0] } : choices,
    );
  const choices = choicesAt(align);
  return {
    folded,
    groups,
    choices,
    plainChoices: align === 1 ? choices : choicesAt(1),
    hasWhole: groups.some(({ key }) => whole?.has(key)),
    work: networkWork(propagation, groups, rankings, options.inputs),
    criterion,
    align,
  };
}

export interface GoalProblem {
  /** The network with its constants folded, which every candidate is pruned from. */
  readonly folded: Model;
  readonly groups: readonly Group[];
  /** In the order of `groups`. */
  readonly choices: readonly GroupChoices[];
  /** The same at every width. */
  readonly plainChoices: readonly GroupChoices[];
  /** Whether some groups were named to stay whole. */
  readonly hasWhole: boolean;
  readonly work: NetworkWork;
  readonly criterion: Criterion;
  readonly align: number;
}

/** Counts by position, as `PruneOptions.kept` wants them. */
export function keptByKey(choices: readonly GroupChoices[], counts: readonly number[]): Map<string, number> {
  return new Map(choices.map(({ key }, group) => [key, counts[group]!]));
}
