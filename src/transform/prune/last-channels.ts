import type { Propagation } from './labels.ts';

/**
 * The best channel of every value that could lose all of its channels: one of them has to stay, or nodes would compute
 * nothing, which engines refuse. Parameters keep a slice for each group that they belong to anyway; but a part that
 * Split or Slice cuts off may hold the lowest scores of a group, and meet the other parts again before any parameter.
 * @param scores by class (`Propagation.roots`), of all channels that can be pruned
 * @returns classes
 */
export function lastChannels(propagation: Propagation, scores: ReadonlyMap<number, number>): Set<number> {
  const { roots, values, crossing } = propagation;
  const seen = new Set<Int32Array>();
  const last = new Set<number>();
  const keepOne = (labels: Int32Array): void => {
    if (seen.has(labels)) return;
    seen.add(labels);
    let best: number | undefined;
    let highest = Number.NEGATIVE_INFINITY;
    for (const label of labels) {
      const root = label < 0 ? label : roots[label]!;
      const score = scores.get(root);
      if (score === undefined) return; // Stays whatever happens.
      if (score > highest) {
        best = root;
        highest = score;
      }
    }
    if (best !== undefined) last.add(best);
  };
  for (const { data } of [...values.values(), ...crossing.values()]) keepOne(data);
  return last;
}
