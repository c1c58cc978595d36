import type { DType } from '../base/dtype.ts';
import type { Graph, Node } from '../graph/model.ts';
import { subgraphsOf } from '../graph/walk.ts';

/** The first part of the names of constants that scale pixels: part of the graph, but nothing that was learnt. */
export const NORMALIZATION_PREFIX = 'normalize/';

/**
 * The initialisers that hold trained values, running statistics included: those of floating point, and the integers of
 * weights and biases that quantised operators read. Not among them are the scales and zero points of quantisation, shapes,
 * indices and the normalisation of pixels.
 */
export function parametersOf(graph: Graph): ReadonlySet<string> {
  const uses = new Map<string, Set<Use>>();
  collectUses(graph, uses);
  const found = new Set<string>();
  for (const [name, { dtype }] of graph.initializers) {
    if (name.startsWith(NORMALIZATION_PREFIX)) continue;
    const own = uses.get(name) ?? new Set();
    const isTrained = isFloat(dtype)
      ? own.size === 0 || own.has('plain') || own.has('stored')
      : own.has('stored');
    if (isTrained) found.add(name);
  }
  return found;
}

/** 'stored': as weight or bias in integers; 'scaling': as scale or zero point of integers; 'plain': in any other way. */
type Use = 'stored' | 'scaling' | 'plain';

function collectUses(graph: Graph, uses: Map<string, Set<Use>>): void {
  for (const node of graph.nodes) {
    for (const [input, name] of node.inputs.entries()) {
      if (name === '') continue;
      const use = useAt(node, input);
      const known = uses.get(name);
      if (known === undefined) uses.set(name, new Set([use]));
      else known.add(use);
    }
    for (const inner of subgraphsOf(node)) collectUses(inner, uses);
  }
}

function useAt({ opType }: Node, input: number): Use {
  if (!Object.hasOwn(STORED_INPUTS, opType)) return 'plain';
  return STORED_INPUTS[opType]!.includes(input) ? 'stored' : 'scaling';
}

/**
 * The inputs at which operators on integers take their operands; all their other inputs are scales and zero points.
 * Source: ONNX's operators, and com.microsoft of ONNX Runtime (docs/ContribOperators.md).
 */
const STORED_INPUTS: Readonly<Record<string, readonly number[]>> = {
  ConvInteger: [0, 1],
  DequantizeLinear: [0],
  DynamicQuantizeMatMul: [0, 1, 4],
  MatMulInteger: [0, 1],
  MatMulIntegerToFloat: [0, 1, 6],
  QGemm: [0, 3, 6],
  QLinearAdd: [0, 3],
  QLinearConv: [0, 3, 8],
  QLinearMatMul: [0, 3],
  QLinearMul: [0, 3],
  QuantizeLinear: [0],
};

/** Whether a node's weights are stored as integers that it computes on itself, without DequantizeLinear before it. */
export function computesOnIntegers({ opType }: Node): boolean {
  return Object.hasOwn(STORED_INPUTS, opType) && !opType.endsWith('tizeLinear');
}

function isFloat(dtype: DType): boolean {
  return dtype.startsWith('float') || dtype === 'bfloat16';
}
