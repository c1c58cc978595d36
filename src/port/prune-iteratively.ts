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
 * @returns the last round's network; figures, widths and removed channels counted from the network given, which is the
 *   `reference` as well: hooks that change weights make the two compute different things
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
  const results: PruneResult[] = [];
  for (const [i, ratio] of ratios.entries()) {
    if (signal?.aborted) {
      throw new BonsaiError('aborted', `Pruning was stopped before round ${i + 1} of ${ratios.length}.`, {
        cause: signal.reason,
      });
    }
    const round: PruneRound = { iteration: i + 1, iterations: ratios.length, ratio };
    const criterion = (await hooks.criterion?.(current, round)) ?? pruning.criterion;
    const result = prune(current, { ...pruning, criterion, ratio });
    current = (await hooks.reestimate?.(result.model, round)) ?? result.model;
    current = (await hooks.fineTune?.(current, round)) ?? current;
    results.push({ ...result, model: current });
    hooks.onRound?.(round, results.at(-1)!);
  }
  return spanOf(results);
}

/** Without `means`: those of channels in later rounds are not those of the first. */
export interface IterativePruneOptions extends Omit<PruneOptions, 'means'>, IterationOptions {
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

/** The last round's result with "before", the reference and the channels of the first. There is always a round. */
function spanOf(results: readonly PruneResult[]): PruneResult {
  const [first, last] = [results[0]!, results.at(-1)!];
  return {
    ...last,
    reference: first.reference,
    groups: last.groups.map((group) => {
      const { channels = group.channels } = first.groups.find(({ key }) => key === group.key) ?? {};
      // Each round counts positions among what the one before left.
      let left = Array.from({ length: channels }, (_, position) => position);
      for (const { groups } of results) {
        const removed = new Set(groups.find(({ key }) => key === group.key)?.removed);
        left = left.filter((_, position) => !removed.has(position));
      }
      const stays = new Set(left);
      const all = Array.from({ length: channels }, (_, position) => position);
      return { ...group, channels, removed: all.filter((position) => !stays.has(position)) };
    }),
    parameters: { ...last.parameters, before: first.parameters.before },
    ...(first.macs && last.macs && { macs: { before: first.macs.before, after: last.macs.after } }),
  };
}
