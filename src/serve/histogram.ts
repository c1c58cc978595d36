/** Counts of values by size, in plain numbers: cheap to keep per request. */
export interface Histogram {
  /** Upper ends, ascending; the last count is of what is larger than all. */
  readonly bounds: readonly number[];
  readonly counts: number[];
  sum: number;
}

export function newHistogram(bounds: readonly number[]): Histogram {
  return { bounds, counts: new Array<number>(bounds.length + 1).fill(0), sum: 0 };
}

export function observe(histogram: Histogram, value: number): void {
  const { bounds, counts } = histogram;
  let low = 0;
  let high = bounds.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (value <= bounds[middle]!) high = middle;
    else low = middle + 1;
  }
  counts[low]!++;
  histogram.sum += value;
}

/** For each bound, and for infinity, how many values are no larger. */
export function cumulativeCounts({ counts }: Histogram): number[] {
  let total = 0;
  return counts.map((count) => {
    total += count;
    return total;
  });
}
