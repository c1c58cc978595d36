import { elementCount, isNumeric, type Tensor } from '../../base/tensor.ts';
import { checkModel } from '../../graph/check.ts';
import { type Graph, type Model, type Node, opsetOf, withGraph } from '../../graph/model.ts';
import { isOutput, readsOf, removeUnused, subgraphsOf } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';
import { settleBranches } from './settle-branches.ts';
import { settleRepetitions } from './settle-repetitions.ts';
import { settleResizes } from './settle-resizes.ts';
import { settleSizes } from './settle-sizes.ts';
import { settleTargets } from './settle-targets.ts';
import { settleVectors } from './settle-vectors.ts';

/**
 * The same network with all that is known before running written down: Constant nodes and everything that shape
 * inference can evaluate (sizes of static axes and what is computed from them, tensors filled by ConstantOfShape,
 * re-arranged weights) become initialisers under the names of the values that they replace; nodes that compute nothing
 * (Identity, Dropout in its inference form) are bypassed, as is repetition that element-wise operators do themselves
 * (`settleRepetitions`); computed shapes become constants where ONNX has a notation for
 * them (`settleTargets`), sizes of activations sizes of inputs (`settleSizes`), other vectors of sizes are joined of single ones (`settleVectors`); what no output needs any more is dropped. What else depends on a size without a number (the
 * batch) stays as it is, as do inputs, outputs and the insides of subgraphs; of an If whose condition is known the branch
 * that is taken remains (`settleBranches`).
 * @throws ShapeError where an operator does not admit its inputs
 */
export function foldConstants(model: Model): Model {
  const folded = foldOnce(model);
  const settled = settleBranches(folded);
  return settled === folded ? folded : foldConstants(settled);
}

function foldOnce(model: Model): Model {
  const bypassed = settleTargets(settleResizes(settleRepetitions(bypass(model))));
  const { constants } = inferTypes(bypassed);
  const { graph } = bypassed;
  const initializers = new Map<string, Tensor>(graph.initializers);
  const read = new Set([
    ...graph.nodes.flatMap((node) => [...readsOf(node)]),
    ...graph.outputs.map(({ name }) => name),
  ]);
  const nodes = graph.nodes.filter((node) => {
    const value = foldedValue(graph, node, constants, (name) => read.has(name));
    if (value === undefined) return true;
    initializers.set(node.outputs[0]!, value);
    return false;
  });
  const valueInfos = new Map([...graph.valueInfos].filter(([name]) => !initializers.has(name)));
  const folded = settleSizes(
    withGraph(bypassed, removeUnused({ ...graph, nodes, initializers, valueInfos })),
  );
  const settled = settleVectors(withGraph(folded, removeUnused(folded.graph)));
  const result = withGraph(settled, removeUnused(settled.graph));
  checkModel(result);
  return result;
}

/**
 * Values with more elements stay computed. Above the largest layer of common networks (a classifier of VGG has 103
 * million weights, which only views such as Reshape give; every other folded value is far smaller), below what
 * would make a file impractical.
 */
export const MAX_INITIALIZER_ELEMENTS = 2 ** 27;

/** What a node's first output is known to be, where nobody reads others; undefined where it stays a node. */
function foldedValue(
  graph: Graph,
  node: Node,
  constants: ReadonlyMap<string, Tensor>,
  isRead: (name: string) => boolean,
): Tensor | undefined {
  const [name, ...others] = node.outputs;
  if (!name || others.some((other) => isRead(other)) || subgraphsOf(node).length > 0) return undefined;
  const value = constants.get(name);
  if (value === undefined || !isNumeric(value.dtype) || isOutput(graph, name)) return undefined;
  return elementCount(value.shape) <= MAX_INITIALIZER_ELEMENTS ? value : undefined;
}

/** Readers of a value that only hands on another one read the other one instead. */
function bypass(model: Model): Model {
  const { graph } = model;
  const opset = opsetOf(model) ?? 1;
  const captured = new Set<string>();
  for (const node of graph.nodes) {
    if (subgraphsOf(node).length > 0) for (const name of readsOf(node)) captured.add(name);
  }
  const replaced = new Map<string, string>();
  const current = (name: string) => replaced.get(name) ?? name;
  const isFalse = (name: string) => graph.initializers.get(name)?.bytes[0] === 0;
  const nodes: Node[] = [];
  for (const node of graph.nodes) {
    const [source, target] = [current(node.inputs[0] ?? ''), node.outputs[0]];
    if (target && handsOn(node, opset, isFalse) && !isOutput(graph, target) && !captured.has(target)) {
      replaced.set(target, source);
    } else if (node.inputs.some((name) => replaced.has(name))) {
      nodes.push({ ...node, inputs: node.inputs.map(current) });
    } else {
      nodes.push(node);
    }
  }
  return replaced.size === 0 ? model : withGraph(model, { ...graph, nodes });
}

/** Whether a node's first output is its first input, and nobody can ask for more. */
function handsOn(node: Node, opset: number, isFalse: (name: string) => boolean): boolean {
  if (node.domain !== '' || !node.inputs[0] || node.outputs.slice(1).some((name) => name !== ''))
    return false;
  if (node.opType === 'Identity') return true;
  if (node.opType !== 'Dropout' || opset < FIRST_INFERENCE_DROPOUT) return false;
  const mode = node.inputs[2];
  return !mode || isFalse(mode);
}

/** Before this version of the operator set, Dropout said by an attribute whether it drops, and by default it did. */
const FIRST_INFERENCE_DROPOUT = 7;
