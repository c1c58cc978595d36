import { BonsaiError } from '../base/errors.ts';
import type { Model } from '../graph/model.ts';
import type { Criterion } from '../transform/prune/importance/criterion.ts';
import { type PruneOptions, type PruneResult, prune, pruningOf } from '../transform/prune/prune.ts';
import { type IterationOptions, ratiosBetween } from '../transform/prune/schedule.ts';

/**
 * Prunes in rounds along a schedule. Each round scores the channels anew, prunes to the schedule's ratio, re-estimates
 * BatchNormalization and fine-tunes; the next one goes on from there. A network that was pruned before starts at
 * the ratio that its file remembers.
 * @param hooks the parts that need data; each is left out where absent
 * @returns the last round's result, its figures counted from the network given
 * @throws what `prune` and the hooks throw; `aborted` between two rounds
 */
export async function pruneIteratively(
  model: Model,
  options: IterativePruneOptions,
  hooks: PruneHooks = {},
): Promise<PruneResult> {
  const { schedule, iterations, signal, ...pruning } = options;
  const from = pruningOf(model)?.ratio ?? 0;
  const ratios = ratiosBetween(Math.min(from, pruning.ratio), pruning.ratio, { schedule, iterations });
  let current = model;
  let first: PruneResult | undefined;
  let last: PruneResult | undefined;
  for (const [i, ratio] of ratios.entries()) {
    if (signal?.aborted) {
      throw new BonsaiError('aborted', `Pruning was stopped before round ${i + 1} of ${ratios.length}.`, {
        cause: signal.reason,
      });
    }
    const round: PruneRound = { iteration: i + 1, iterations: ratios.length, ratio };
    const criterion = (await hooks.criterion?.(current, round)) ?? pruning.criterion;
    last = prune(current, { ...pruning, criterion, ratio });
    first ??= last;
    current = (await hooks.reestimate?.(last.model, round)) ?? last.model;
    current = (await hooks.fineTune?.(current, round)) ?? current;
    hooks.onRound?.(round, { ...last, model: current });
  }
  return spanOf(first!, { ...last!, model: current }); // There is always a round.
}

export interface IterativePruneOptions extends Omit<PruneOptions, 'kept'>, IterationOptions {
  readonly signal?: AbortSignal;
}

export interface PruneRound {
  /** From 1. */
  readonly iteration: number;
  readonly iterations: number;
  /** Share of channels that this round leaves removed. */
  readonly ratio: number;
}

export interface PruneHooks {
  /** What to score the network of a round by; absent: the criterion of the options. */
  criterion?(model: Model, round: PruneRound): Promise<Criterion>;
  /** BatchNormalization's running averages measured anew (`reestimateBatchNorm`). */
  reestimate?(model: Model, round: PruneRound): Promise<Model>;
  /** Fine-tuning, with whatever optimiser. */
  fineTune?(model: Model, round: PruneRound): Promise<Model>;
  onRound?(round: PruneRound, result: PruneResult): void;
}

/** The last round's result with "before" and the channels of the first. */
function spanOf(first: PruneResult, last: PruneResult): PruneResult {
  const channels = new Map(first.groups.map((group) => [group.key, group.channels]));
  return {
    ...last,
    groups: last.groups.map((group) => ({ ...group, channels: channels.get(group.key) ?? group.channels })),
    parameters: { ...last.parameters, before: first.parameters.before },
    ...(first.macs && last.macs && { macs: { before: first.macs.before, after: last.macs.after } }),
  };
}
