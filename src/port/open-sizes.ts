import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import type { Graph, Node } from '../graph/model.ts';

/**
 * Sizes of an input that the file may leave open but the weights that read it determine: the channels of a convolution,
 * the features of a matrix product. Followed through layers in between that keep the shape, and Transpose.
 * @returns size by axis of the input; axes of which nothing is known are missing
 */
export function sizesByWeights(graph: Graph, input: string, rank: number): ReadonlyMap<number, number> {
  const sizes = new Map<number, number>();
  const readers = new Map<string, Node[]>();
  const makers = new Map<string, Node>();
  for (const node of graph.nodes) {
    for (const name of new Set(node.inputs)) readers.set(name, [...(readers.get(name) ?? []), node]);
    for (const name of node.outputs) makers.set(name, node);
  }
  const shapeOf = (name: string | undefined): readonly number[] | undefined => {
    if (name === undefined) return undefined;
    const stored = graph.initializers.get(name);
    if (stored !== undefined) return stored.shape;
    const maker = makers.get(name);
    return maker?.opType === 'DequantizeLinear' ? graph.initializers.get(maker.inputs[0]!)?.shape : undefined;
  };
  const seen = new Set<string>();
  // Values whose axes are those of the input, in the order `axes`.
  const open = [{ value: input, axes: Array.from({ length: rank }, (_, axis) => axis) }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { value, axes } = next;
    if (seen.has(value)) continue;
    seen.add(value);
    for (const node of readers.get(value) ?? []) {
      const isFirst = node.inputs[0] === value;
      const other = shapeOf(node.inputs[isFirst ? 1 : 0]);
      for (const [axis, size] of weighedAxes(node, isFirst, rank, other)) sizes.set(axes[axis]!, size);
      const perm = node.opType === 'Transpose' ? intsAttribute(node, 'perm') : undefined;
      if (perm !== undefined) open.push({ value: node.outputs[0]!, axes: perm.map((axis) => axes[axis]!) });
      else if (keepsShape(node, isFirst, rank, other)) open.push({ value: node.outputs[0]!, axes });
    }
  }
  return sizes;
}

/** Axes of a node's input whose size its other input, a weight, tells. */
function weighedAxes(
  node: Node,
  isFirst: boolean,
  rank: number,
  weight: readonly number[] | undefined,
): readonly (readonly [axis: number, size: number])[] {
  if (node.domain !== '' || weight === undefined) return [];
  if (COMBINE.has(node.opType)) {
    const first = rank - weight.length;
    return weight.flatMap((size, i) => (size > 1 && first + i >= 0 ? [[first + i, size] as const] : []));
  }
  if (!isFirst) return [];
  switch (node.opType) {
    case 'Conv':
      return [[1, weight[1]! * intAttribute(node, 'group', 1)]];
    case 'ConvTranspose':
    case 'BatchNormalization':
    case 'InstanceNormalization':
      return [[1, weight[0]!]];
    case 'MatMul':
      return weight.length > 1 ? [[rank - 1, weight.at(-2)!]] : [];
    case 'Gemm': {
      const isTransposed = intAttribute(node, 'transB', 0) !== 0;
      return [[intAttribute(node, 'transA', 0) === 0 ? 1 : 0, weight[isTransposed ? 1 : 0]!]];
    }
    default:
      return [];
  }
}

/** Whether a node's first output has the shape of this input. */
function keepsShape(
  node: Node,
  isFirst: boolean,
  rank: number,
  other: readonly number[] | undefined,
): boolean {
  if (node.domain !== '') return false;
  if (COMBINE.has(node.opType)) return other !== undefined && other.length <= rank;
  return isFirst && KEEP_SHAPE.has(node.opType);
}

const COMBINE: ReadonlySet<string> = new Set(['Add', 'Sub', 'Mul', 'Div']);

const KEEP_SHAPE: ReadonlySet<string> = new Set([
  ...[
    'BatchNormalization',
    'Cast',
    'Clip',
    'DequantizeLinear',
    'Dropout',
    'Identity',
    'InstanceNormalization',
  ],
  ...['QuantizeLinear', 'Relu', 'Sigmoid', 'Tanh'],
]);
