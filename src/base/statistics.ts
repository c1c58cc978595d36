/** Location and spread of repeated measurements of one quantity. */
export interface Summary {
  readonly count: number;
  readonly mean: number;
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly p99: number;
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return values.length === 0 ? Number.NaN : sum / values.length;
}

/**
 * The q-quantile (0 ≤ q ≤ 1) by linear interpolation between order statistics: at q = 0.5 of [1, 2, 3, 4]
 * the position is 0.5 · 3 = 1.5, halfway between 2 and 3. NaN for no values.
 */
export function quantile(values: ArrayLike<number>, q: number): number {
  const sorted = Float64Array.from(values).sort();
  if (sorted.length === 0) return Number.NaN;
  const position = q * (sorted.length - 1);
  const below = Math.floor(position);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (position - below) * (sorted[above]! - sorted[below]!);
}

export function median(values: ArrayLike<number>): number {
  return quantile(values, 0.5);
}

export function summarize(values: ArrayLike<number>): Summary {
  return {
    count: values.length,
    mean: mean(values),
    median: quantile(values, 0.5),
    min: quantile(values, 0),
    max: quantile(values, 1),
    p99: quantile(values, 0.99),
  };
}
