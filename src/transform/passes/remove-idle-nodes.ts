import { numbersOf } from '../../base/tensor.ts';
import { intsAttribute } from '../../graph/attributes.ts';
import { type Graph, type Model, type Node, withGraph } from '../../graph/model.ts';
import { isOutput, removeUnused, subgraphsOf } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';

/**
 * The network without nodes that change nothing: Pads that add nothing, as exporters write before poolings, and Casts to the
 * type that a value has. Whatever reads such a node reads its input. They compute nothing, but break the runs of integer
 * operators that engines look for.
 * @returns the model itself where there is none, and where one is an output or subgraphs could read it
 */
export function removeIdleNodes(model: Model): Model {
  const { graph } = model;
  if (graph.nodes.some((node) => subgraphsOf(node).length > 0)) return model;
  const isIdleCast = graph.nodes.some(({ opType }) => opType === 'Cast') ? idleCasts(model) : () => false;
  const idle = graph.nodes.filter(
    (node) => (isIdlePad(node, graph) || isIdleCast(node)) && !isOutput(graph, node.outputs[0]!),
  );
  if (idle.length === 0) return model;
  const sources = new Map<string, string>();
  for (const node of idle) sources.set(node.outputs[0]!, sources.get(node.inputs[0]!) ?? node.inputs[0]!);
  const removed = new Set(idle);
  const nodes = graph.nodes
    .filter((node) => !removed.has(node))
    .map((node) => ({ ...node, inputs: node.inputs.map((name) => sources.get(name) ?? name) }));
  return withGraph(model, removeUnused({ ...graph, nodes }));
}

function idleCasts(model: Model): (node: Node) => boolean {
  const { types } = inferTypes(model);
  return ({ domain, opType, inputs, outputs }) => {
    const before = types.get(inputs[0] ?? '')?.dtype;
    return (
      domain === '' && opType === 'Cast' && before !== undefined && before === types.get(outputs[0]!)?.dtype
    );
  };
}

function isIdlePad(node: Node, graph: Graph): boolean {
  if (node.domain !== '' || node.opType !== 'Pad') return false;
  // The amounts were an attribute before operator set 11.
  const stored = graph.initializers.get(node.inputs[1] ?? '');
  const pads = stored === undefined ? intsAttribute(node, 'pads') : numbersOf(stored);
  return pads?.every((count) => count === 0) ?? false;
}
