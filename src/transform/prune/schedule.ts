import { InvalidArgumentError } from '../../base/errors.ts';

/**
 * The share of channels that is gone after iteration t of T, for a ratio s in the end:
 * `one-shot` s at once; `linear` (t/T)·s; `agp` (1 − (1 − t/T)³)·s, which takes most of it early, while there is much
 * that can be spared. Shares count from the network before any pruning, as `prune` takes them, so that no conversion
 * to the already smaller network is needed.
 * Source: Zhu and Gupta 2017, "To prune, or not to prune", equation 1, from sparsity 0 on.
 * @param iteration 0 (nothing is gone) … `iterations`
 * @throws InvalidArgumentError for numbers out of range or a schedule that does not exist
 */
export function ratioAt(
  schedule: PruningSchedule,
  ratio: number,
  iteration: number,
  iterations: number,
): number {
  checkIterations(iterations);
  if (!Number.isInteger(iteration) || iteration < 0 || iteration > iterations) {
    throw new InvalidArgumentError(
      `The iteration is ${iteration}; it should be an integer from 0 to ${iterations}.`,
    );
  }
  if (iteration === 0) return 0;
  const progress = iteration / iterations;
  switch (schedule) {
    case 'one-shot':
      return ratio;
    case 'linear':
      return progress * ratio;
    case 'agp':
      return (1 - (1 - progress) ** 3) * ratio;
    default:
      throw new InvalidArgumentError(
        `There is no pruning schedule "${String(schedule satisfies never)}"; there are ${SCHEDULES.join(', ')}.`,
      );
  }
}

/**
 * The ratios of all iterations from where a network stands to where it should end, without steps that would remove
 * nothing: one ratio for `one-shot`, `iterations` of them else, ascending, the last one `to` itself.
 * @param from share of channels that is gone already
 */
export function ratiosBetween(
  from: number,
  to: number,
  { schedule, iterations }: IterationOptions,
): number[] {
  checkIterations(iterations);
  if (schedule === 'one-shot') return [to];
  return Array.from({ length: iterations }, (_, i) =>
    i === iterations - 1 ? to : from + ratioAt(schedule, to - from, i + 1, iterations),
  );
}

export const SCHEDULES = ['one-shot', 'linear', 'agp'] as const;
export type PruningSchedule = (typeof SCHEDULES)[number];

export interface IterationOptions {
  readonly schedule: PruningSchedule;
  /** Rounds of pruning and fine-tuning; without meaning for `one-shot`. */
  readonly iterations: number;
}

export const iterationDefaults: IterationOptions = {
  schedule: 'one-shot',
  /** As many as AGP's cube needs to be told from a line; each round costs a fine-tuning. */
  iterations: 4,
};

function checkIterations(iterations: number): void {
  if (Number.isInteger(iterations) && iterations >= 1) return;
  throw new InvalidArgumentError(`The iterations are ${iterations}; they should be a positive integer.`);
}
