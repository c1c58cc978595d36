/** What a schedule came to, in hindsight. Ratios in [0, 1], NaN where nothing was answered. */
export interface OracleOutcome {
  readonly offered: number;
  readonly dropped: number;
  /** Normalised accuracy over answered requests. */
  readonly meanAccuracy: number;
  /** The same summed over answered requests, over offered ones. */
  readonly effectiveAccuracy: number;
  /** Time computed for requests / time until the last arrival. */
  readonly utilization: number;
  readonly tasks: readonly {
    readonly offered: number;
    readonly dropped: number;
    readonly meanAccuracy: number;
  }[];
}

/** Counts of one task while a schedule is followed; `accuracy` is a sum over answers. */
export interface TaskTotal {
  offered: number;
  dropped: number;
  accuracy: number;
}

/** @param lastArrivalMs undefined where nothing arrived */
export function outcomeOf(
  totals: readonly Readonly<TaskTotal>[],
  usedMs: number,
  lastArrivalMs: number | undefined,
): OracleOutcome {
  const sumOf = (key: keyof TaskTotal) => totals.reduce((sum, total) => sum + total[key], 0);
  const [offered, dropped, accuracy] = [sumOf('offered'), sumOf('dropped'), sumOf('accuracy')];
  return {
    offered,
    dropped,
    meanAccuracy: accuracy / (offered - dropped),
    effectiveAccuracy: accuracy / offered,
    utilization: lastArrivalMs === undefined ? 0 : usedMs / lastArrivalMs,
    tasks: totals.map((total) => ({
      offered: total.offered,
      dropped: total.dropped,
      meanAccuracy: total.accuracy / (total.offered - total.dropped),
    })),
  };
}
