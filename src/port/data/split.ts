import { InvalidArgumentError } from '../../base/errors.ts';
import { permutation, type Random } from '../../base/random.ts';
import type { Dataset, Split } from './data-module.ts';

/**
 * Draws disjoint subsets of the given sizes, each with the class shares of the whole (a split is as balanced as its
 * source; leftover places go to the classes with the largest remainders). Order within a subset is random.
 * @param labels class index of each example
 * @param sizes how many examples each subset gets; together at most all of them
 * @returns one array of example indices for each size
 * @throws InvalidArgumentError where the sizes are not natural numbers or exceed the examples
 */
export function stratifiedSubsets(
  labels: Uint8Array,
  sizes: readonly number[],
  random: Random,
): Uint32Array[] {
  const wanted = sizes.reduce((sum, size) => sum + size, 0);
  if (sizes.some((size) => !Number.isInteger(size) || size < 0) || wanted > labels.length) {
    throw new InvalidArgumentError(
      `Subsets of ${sizes.join(' + ')} examples were asked for; the source has ${labels.length}.`,
    );
  }
  const pools = new Map<number, number[]>();
  for (const index of permutation(labels.length, random)) {
    const label = labels[index]!;
    const pool = pools.get(label);
    if (pool === undefined) pools.set(label, [index]);
    else pool.push(index);
  }
  const classes = [...pools.keys()].sort((a, b) => a - b);
  let left = labels.length;
  return sizes.map((size) => {
    // Shares are taken of what is left, so that the last subset can always take all of the rest.
    const exact = classes.map((label) => (size * pools.get(label)!.length) / Math.max(left, 1));
    const quotas = exact.map(Math.floor);
    const byRemainder = exact
      .map((share, i) => ({ i, remainder: share - quotas[i]! }))
      .sort((a, b) => b.remainder - a.remainder || a.i - b.i);
    let missing = size - quotas.reduce((sum, quota) => sum + quota, 0);
    for (const { i } of byRemainder) {
      if (missing === 0) break;
      quotas[i]!++;
      missing--;
    }
    left -= size;
    const taken = classes.flatMap((label, i) => pools.get(label)!.splice(0, quotas[i]!));
    return permutation(size, random).map((position) => taken[position]!);
  });
}

/** The examples at the given indices, in their order, as a split of their own. */
export function takeExamples(source: Split, indices: Uint32Array, exampleBytes: number): Split {
  const images = new Uint8Array(indices.length * exampleBytes);
  const labels = new Uint8Array(indices.length);
  for (let i = 0; i < indices.length; i++) {
    const from = indices[i]! * exampleBytes;
    images.set(source.images.subarray(from, from + exampleBytes), i * exampleBytes);
    labels[i] = source.labels[indices[i]!]!;
  }
  return { count: indices.length, images, labels };
}

/** Mean and standard deviation of each channel over all pixels of a split, on the scale 0..1. */
export function measureNormalization(split: Split, shape: Dataset['shape']): Dataset['normalization'] {
  const [channels, height, width] = shape;
  const area = height * width;
  const mean: number[] = [];
  const std: number[] = [];
  for (let c = 0; c < channels; c++) {
    const histogram = new Float64Array(256);
    for (let i = 0; i < split.count; i++) {
      const from = (i * channels + c) * area;
      for (let j = from; j < from + area; j++) histogram[split.images[j]!]!++;
    }
    const pixels = Math.max(split.count * area, 1);
    let sum = 0;
    let squares = 0;
    histogram.forEach((count, byte) => {
      sum += count * (byte / 255);
      squares += count * (byte / 255) ** 2;
    });
    const average = sum / pixels;
    mean.push(average);
    // A channel without contrast is only shifted: dividing by its zero deviation would make infinities.
    std.push(Math.sqrt(Math.max(squares / pixels - average ** 2, 0)) || 1);
  }
  return { mean, std };
}

/** `count` examples drawn without repetition (all of them where there are fewer), in the order of the draw. */
export function drawExamples(source: Split, count: number, random: Random): Split {
  const drawn = permutation(source.count, random).slice(0, count);
  return takeExamples(source, drawn, source.images.length / Math.max(1, source.count));
}
