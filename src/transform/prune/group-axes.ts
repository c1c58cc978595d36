import type { Model } from '../../graph/model.ts';
import type { InferredTypes } from '../../ops/infer.ts';
import { reducedAxes } from '../../ops/reduced-axes.ts';
import { reshapeBlocks } from '../../ops/reshape.ts';
import { axisWalk } from './axis-walk.ts';

/**
 * Finds the Reshapes that split channels into groups of which something takes the maximum or sum (maxout), or that it lays
 * out in space (pixel shuffle written out): the channels of a group live together, whichever axis holds them. Walks back
 * from each axis that is reduced or merged with others until a Reshape makes it; what stays is the last of its other axes.
 * A hint, no proof, as in attention.
 * @returns by name of a Reshape's output, the axis along which its channels are to be pruned
 */
export function groupAxes(
  model: Model,
  { types, constants }: Pick<InferredTypes, 'types' | 'constants'>,
): ReadonlyMap<string, number> {
  const used = new Map<string, Set<number>>();
  const walkBack = axisWalk(model, { types, constants }, (value, axis) => {
    const axes = used.get(value);
    if (axes === undefined) used.set(value, new Set([axis]));
    else axes.add(axis);
  });
  for (const node of model.graph.nodes) {
    const x = node.inputs[0] ?? '';
    const [from, to] = [types.get(x)?.shape, types.get(node.outputs[0] ?? '')?.shape];
    if (from === undefined || node.domain !== '') continue;
    if (REDUCTIONS.has(node.opType)) {
      for (const axis of reducedAxes(node, from.length, constants.get(node.inputs[1] ?? '')) ?? [])
        walkBack(x, axis);
    } else if (node.opType === 'Reshape' && to !== undefined) {
      for (const block of reshapeBlocks(from, to) ?? [])
        if (block.from.length > 1 && block.to.length === 1) for (const axis of block.from) walkBack(x, axis);
    }
  }

  const producers = new Map(model.graph.nodes.map((node) => [node.outputs[0] ?? '', node]));
  const axes = new Map<string, number>();
  for (const [value, taken] of used) {
    const node = producers.get(value)!; // It was found there.
    const [from, to] = [types.get(node.inputs[0]!)!.shape!, types.get(value)!.shape!];
    const block = reshapeBlocks(from, to)?.find((each) => each.to.some((axis) => taken.has(axis)));
    const free = block?.to.findLast((axis) => to[axis] !== 1 && !taken.has(axis));
    if (free !== undefined) axes.set(value, free);
  }
  return axes;
}

/** A mean is left out: most often it normalises, which goes on over the channels that stay. */
const REDUCTIONS: ReadonlySet<string> = new Set([
  'ArgMax',
  'ArgMin',
  'ReduceL1',
  'ReduceL2',
  'ReduceLogSum',
  'ReduceLogSumExp',
  'ReduceMax',
  'ReduceMin',
  'ReduceProd',
  'ReduceSum',
  'ReduceSumSquare',
]);
