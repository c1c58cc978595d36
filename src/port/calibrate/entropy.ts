import type { Range } from '../../transform/quantize/integers.ts';

/** Bins of a histogram of activations: far finer than 256 integers, so that the range's ends can be chosen well. */
export const HISTOGRAM_BINS = 2048;
/** Integers that magnitudes share where values have both signs, and where they have one. */
const LEVELS_TWO_SIDED = 128;
const LEVELS_ONE_SIDED = 256;
/**
 * Share of the coarse distribution that is spread over all bins: keeps the divergence finite where it is empty and the
 * fine one is not. The usual 1e-4.
 */
export const SMOOTHING = 1e-4;

/**
 * The range that loses least information: magnitudes are clipped where the Kullback-Leibler divergence of their distribution
 * in 8-bit integers from the one in fine bins is smallest. Exact zeros are left out, because they stay exact in any range.
 * Source: Migacz 2017, "8-bit Inference with TensorRT" (GTC), pages 20 to 38.
 * @param counts how many values other than 0 have a magnitude in each of the equal bins from 0 to the largest
 * @param whole smallest and largest value seen
 */
export function entropyRange(counts: Float64Array, whole: Range): Range {
  const largest = Math.max(Math.abs(whole.min), Math.abs(whole.max));
  const levels = whole.min < 0 && whole.max > 0 ? LEVELS_TWO_SIDED : LEVELS_ONE_SIDED;
  const limit = (largest * bestBinCount(counts, levels)) / counts.length;
  return { min: Math.max(whole.min, -limit), max: Math.min(whole.max, limit) };
}

/** The number of leading bins to keep; all of them where nothing was counted. */
export function bestBinCount(counts: Float64Array, levels: number): number {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return counts.length;
  let [best, least] = [counts.length, Number.POSITIVE_INFINITY];
  let kept = 0;
  for (let bin = 0; bin < Math.min(levels, counts.length); bin++) kept += counts[bin]!;
  for (let bins = Math.min(levels, counts.length); bins <= counts.length; bins++) {
    if (bins > levels) kept += counts[bins - 1]!;
    if (kept === 0) continue;
    const divergence = divergenceAt(counts, bins, levels, { kept, outside: total - kept });
    if (divergence < least) [best, least] = [bins, divergence];
  }
  return best;
}

/**
 * Σ p · ln(p / q) over the first `bins` bins. p: the distribution with everything beyond added to its last bin, as clipping
 * does. q: the kept values in `levels` equal steps, each spread evenly over those of its bins that are not empty.
 */
function divergenceAt(
  counts: Float64Array,
  bins: number,
  levels: number,
  { kept, outside }: { kept: number; outside: number },
): number {
  const total = kept + outside;
  let divergence = 0;
  for (let level = 0; level < levels; level++) {
    const from = Math.floor((level * bins) / levels);
    const to = Math.floor(((level + 1) * bins) / levels);
    let [sum, filled] = [0, 0];
    for (let bin = from; bin < to; bin++) {
      sum += counts[bin]!;
      if (counts[bin]! > 0) filled++;
    }
    for (let bin = from; bin < to; bin++) {
      const count = counts[bin]! + (bin === bins - 1 ? outside : 0);
      if (count === 0) continue;
      const spread = counts[bin]! > 0 ? sum / filled / kept : 0;
      const q = (1 - SMOOTHING) * spread + SMOOTHING / bins;
      divergence += (count / total) * Math.log(count / total / q);
    }
  }
  return divergence;
}
