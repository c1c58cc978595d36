/**
 * How long steps take, learnt from those that are finished: time in proportion to the work, by kind of step.
 * Work is in any unit that compares within a kind, such as multiply-accumulates times examples.
 */
export interface StepTimes {
  record(step: string, work: number, tookMs: number): void;
  /** Undefined where no step of the kind was finished yet. */
  estimateMs(step: string, work: number): number | undefined;
}

export function stepTimes(): StepTimes {
  const sums = new Map<string, { work: number; tookMs: number }>();
  return {
    record(step, work, tookMs) {
      const { work: before, tookMs: beforeMs } = sums.get(step) ?? { work: 0, tookMs: 0 };
      sums.set(step, { work: before + work, tookMs: beforeMs + tookMs });
    },
    estimateMs(step, work) {
      const sum = sums.get(step);
      return sum === undefined || sum.work <= 0 ? undefined : (work * sum.tookMs) / sum.work;
    },
  };
}

/** Thrown within the pipeline where a step does not fit into what is left of the budget. Not an error of anybody's. */
export class BudgetSpent extends Error {
  /** @param estimateMs of the step and of what has to follow for it to have been of use; 0 where nothing is known */
  constructor(step: string, subject: string, estimateMs: number) {
    const time = estimateMs > 0 ? ` (about ${Math.ceil(estimateMs / 1000)} s with what follows)` : '';
    super(
      `The budget leaves no room for "${step}" of ${subject}${time}: that is where the same command goes on.`,
    );
  }
}
