import { numbersOf } from '../../base/tensor.ts';
import { intAttribute, intsAttribute } from '../../graph/attributes.ts';
import type { Model, Node, Shape } from '../../graph/model.ts';
import type { InferredTypes } from '../../ops/infer.ts';
import { reshapeBlocks } from '../../ops/reshape.ts';

/** Follows an axis of a value back to the Reshapes that split another one to make it. */
export type AxisWalk = (value: string, axis: number, visited?: Set<string>) => void;

/** @param found called for each such Reshape, with the name of its output and the axis of it */
export function axisWalk(
  model: Model,
  { types, constants }: Pick<InferredTypes, 'types' | 'constants'>,
  found: (value: string, axis: number) => void,
): AxisWalk {
  const producers = new Map<string, Node>();
  for (const node of model.graph.nodes) for (const output of node.outputs) producers.set(output, node);
  const shapeOf = (value: string): Shape | undefined => types.get(value)?.shape;
  const isActivation = (value: string) => value !== '' && !constants.has(value);
  return walkBack;

  /** Follows one axis of a value towards its origin through nodes that keep, move or cut axes. */
  function walkBack(value: string, axis: number, visited = new Set<string>()): void {
    const key = `${value}:${axis}`;
    if (visited.has(key)) return;
    visited.add(key);
    const node = producers.get(value);
    const rank = shapeOf(value)?.length;
    if (node === undefined || rank === undefined) return;
    switch (node.opType) {
      case 'Reshape': {
        const before = shapeOf(node.inputs[0]!);
        const after = shapeOf(value);
        const block = before && after && reshapeBlocks(before, after)?.find((each) => each.to.includes(axis));
        if (after === undefined || block === undefined) return;
        // A batch axis can be that of the images as well: only one that a split makes counts heads.
        const isSplit = block.to.filter((at) => after[at] !== 1).length > 1;
        if (isSplit && typeof after[axis] === 'number') found(value, axis);
        // Heads that several queries share are repeated and merged: [N, 2, 4, T, D] to [N, 8, T, D].
        else if (!isSplit) for (const from of block.from) walkBack(node.inputs[0]!, from, visited);
        return;
      }
      case 'Transpose': {
        const order = intsAttribute(node, 'perm') ?? Array.from({ length: rank }, (_, i) => rank - 1 - i);
        walkBack(node.inputs[0]!, order[axis]!, visited);
        return;
      }
      case 'Squeeze':
      case 'Unsqueeze':
      case 'Gather': {
        const from = axisBefore(node, axis);
        if (from !== undefined) walkBack(node.inputs[0]!, from, visited);
        return;
      }
      case 'MatMul':
      case 'Gemm':
      case 'Einsum':
      case 'Conv':
      case 'ConvTranspose':
        return; // Their axes are of their own making.
      default:
        // Whatever else keeps the rank is followed: the walk only looks for a Reshape to name.
        for (const input of node.inputs) {
          if (isActivation(input) && shapeOf(input)?.length === rank) walkBack(input, axis, visited);
        }
    }
  }

  /** The axis of a Squeeze's, Unsqueeze's or Gather's input that becomes `axis` of its output; undefined: none does. */
  function axisBefore(node: Node, axis: number): number | undefined {
    const before = shapeOf(node.inputs[0]!)?.length;
    const after = shapeOf(node.outputs[0]!)?.length;
    if (before === undefined || after === undefined) return undefined;
    if (node.opType === 'Gather') {
      const at = intAttribute(node, 'axis', 0);
      const first = at < 0 ? at + before : at;
      const indexRank = after - before + 1;
      if (axis < first) return axis;
      return axis < first + indexRank ? (indexRank === 1 ? axis : undefined) : axis - indexRank + 1;
    }
    const longer = Math.max(before, after);
    const listed = namedAxes(node)?.map((at) => (at < 0 ? at + longer : at));
    const isOne = (_: unknown, at: number) => shapeOf(node.inputs[0]!)![at] === 1;
    const singles = new Set(
      listed ?? Array.from({ length: before }, (_, at) => at).filter((at) => isOne(undefined, at)),
    );
    const others = Array.from({ length: longer }, (_, at) => at).filter((at) => !singles.has(at));
    if (node.opType === 'Squeeze') return others[axis];
    const at = others.indexOf(axis);
    return at < 0 ? undefined : at;
  }

  function namedAxes(node: Node): readonly number[] | undefined {
    const attribute = intsAttribute(node, 'axes');
    if (attribute !== undefined) return attribute;
    const tensor = constants.get(node.inputs[1] ?? '');
    return tensor === undefined ? undefined : numbersOf(tensor);
  }
}
