import { InvalidArgumentError } from '../../base/errors.ts';
import type { Range } from '../../transform/quantize/integers.ts';

/**
 * The percentage of values that the range keeps; the rest is cut off in equal halves at both ends. 99.99 is the value with
 * the best accuracy over networks in Wu et al. 2020, "Integer Quantization for Deep Learning Inference", table 5.
 */
export const DEFAULT_PERCENTILE = 99.99;

/**
 * The range that holds the given percentage of values.
 * @param counts how many values fell into each of the equal bins over `whole`; values within a bin count as spread evenly
 * @param whole smallest and largest value seen
 * @throws InvalidArgumentError for a percentage outside (50, 100]
 */
export function percentileRange(
  counts: Float64Array,
  whole: Range,
  percentile: number = DEFAULT_PERCENTILE,
): Range {
  if (!(percentile > 50 && percentile <= 100)) {
    throw new InvalidArgumentError(`The percentile is ${percentile}, expected one above 50, up to 100.`);
  }
  const total = counts.reduce((sum, count) => sum + count, 0);
  const cut = (total * (100 - percentile)) / 200;
  const width = (whole.max - whole.min) / counts.length;
  return {
    min: whole.min + width * binsThatHold(counts, cut),
    max: whole.max - width * binsThatHold(counts.toReversed(), cut),
  };
}

/** How many bins from the left, the last one in part, hold `count` values. */
function binsThatHold(counts: Float64Array, count: number): number {
  let left = count;
  for (let bin = 0; bin < counts.length; bin++) {
    if (counts[bin]! > left) return bin + left / counts[bin]!;
    left -= counts[bin]!;
  }
  return counts.length;
}
