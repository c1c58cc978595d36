import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import type { Model, Shape } from '../../graph/model.ts';
import { countCost, countParameters } from '../../ops/count.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { allocate, choicesOfGroups, costAt, type GroupChoices, rankingsOf } from './allocate.ts';
import { type Group, groupsOf } from './groups.ts';
import type { Criterion } from './importance/criterion.ts';
import { type CriterionName, weightCriterion } from './importance/table.ts';
import { propagateLabels } from './labels.ts';
import { macItems, type NetworkWork, networkWork } from './network-work.ts';
import { type PruneResult, prune, pruneDefaults, pruningOf } from './prune.ts';

/** What a pruned network should reach. */
export type Goal = ShareGoal | SpeedGoal;

/** A share of the network's multiply-accumulates or parameters that should be left: at least it, and barely more. */
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
 * Prunes until the wanted share of multiply-accumulates or parameters is left: at least that share, and less than one
 * block of channels more. Which group gives how much follows from saliency lost per work saved (`allocate`).
 * @throws InvalidArgumentError for options that make no sense, or a share below what the narrowest widths have
 * @throws BonsaiError `empty_group` if nothing can be pruned; `unsupported` where work cannot be counted for want of shapes
 */
export function pruneToShare(model: Model, goal: ShareGoal, options: GoalOptions = {}): ShareResult {
  const problem = goalProblem(model, options);
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
        'is left. Ask for more, lower `align` or raise `maxRatio`.',
    );
  }

  let budget = before * goal.share;
  let best: ShareResult | undefined;
  // The estimate is exact for almost all networks, then the first round ends it; else its error is corrected for.
  for (let round = 0; round < goalDefaults.corrections; round++) {
    const { kept: counts } = allocate(choices, items, budget, 'above');
    const kept = keptByKey(choices, counts);
    const pruned = prune(folded, { ratio: 0, align, criterion, kept, inputs: options.inputs });
    const left = count(pruned.model);
    const share = left / before;
    if (best === undefined || isCloser(share, best.share, goal.share)) best = { ...pruned, goal, share };
    const error = left - costAt(items, counts);
    if (Math.abs(error) <= goalDefaults.tolerance * before) break;
    budget = before * goal.share - error;
  }
  return best!; // There is at least one round.
}

/** Whether a share is a better answer than another: at or above the goal first, then as little above as can be. */
function isCloser(share: number, other: number, goal: number): boolean {
  if (share >= goal) return other < goal || share < other;
  return other < goal && share > other;
}

export interface GoalOptions {
  /** What makes a channel unimportant; default as for `prune`. */
  readonly criterion?: CriterionName | Criterion;
  /** Kept channels are a multiple of this. Default as for `prune`. */
  readonly align?: number;
  /** The largest share of its channels that a group may lose, in (0, 1). */
  readonly maxRatio?: number;
  /** Shapes at which to count and to measure, by input name, where the file leaves more than the batch open. */
  readonly inputs?: Readonly<Record<string, Shape>>;
}

export interface ShareResult extends PruneResult {
  readonly goal: ShareGoal;
  /** The share that is left. */
  readonly share: number;
}

export const goalDefaults = {
  /** Each correction removes the estimate's error of the one before; three leave nothing to correct. */
  corrections: 4,
  /** Of the whole network: far below one block of channels. */
  tolerance: 1e-6,
} as const;

/** All that a search for widths needs to know about a network. @throws as `pruneToShare` */
export function goalProblem(model: Model, options: GoalOptions): GoalProblem {
  const { align = pruneDefaults.align, maxRatio = pruneDefaults.maxRatio } = options;
  const folded = foldConstants(model);
  const propagation = propagateLabels(folded);
  const { groups, frozen } = groupsOf(propagation);
  if (groups.length === 0) {
    const reasons = frozen.map(({ node, reason }) => `${node} (${reason})`).join(', ');
    throw new BonsaiError(
      'empty_group',
      `The network has no channels that can be pruned. Frozen: ${reasons || 'none'}.`,
    );
  }
  const given = options.criterion ?? pruneDefaults.criterion;
  const criterion = typeof given === 'object' ? given : weightCriterion(given, folded);
  const scores = groups.map((group) => criterion.scores(group));
  const rankings = rankingsOf(propagation, groups, scores);
  const choices = choicesOfGroups(groups, scores, rankings, {
    align,
    maxRatio,
    bases: pruningOf(folded)?.channels,
  });
  return {
    folded,
    groups,
    choices,
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
  readonly work: NetworkWork;
  readonly criterion: Criterion;
  readonly align: number;
}

/** Counts by position, as `PruneOptions.kept` wants them. */
export function keptByKey(choices: readonly GroupChoices[], counts: readonly number[]): Map<string, number> {
  return new Map(choices.map(({ key }, group) => [key, counts[group]!]));
}
