import { type Model, type Node, withGraph } from '../../graph/model.ts';
import { consumersOf, isOutput, removeUnused } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';

/**
 * Writes a product of a matrix with stored weights, and the addition of a stored bias behind it, as one Gemm, which is
 * what they are: Y = X · W + b. Products of more than two dimensions and other additions are left alone.
 * @returns the model itself where there is nothing to merge
 */
export function mergeMatMulBias(model: Model): Model {
  const { graph } = model;
  const { types } = inferTypes(model);
  const consumers = consumersOf(graph);
  const initializers = new Map(graph.initializers);
  const merged = new Map<Node, Node>();
  for (const node of graph.nodes) {
    const [x, weightName] = node.inputs;
    const weight = graph.initializers.get(weightName ?? '');
    const [add, ...others] = consumers.get(node.outputs[0] ?? '') ?? [];
    if (node.domain !== '' || node.opType !== 'MatMul' || weight?.dtype !== 'float32') continue;
    if (weight.shape.length !== 2 || types.get(x!)?.shape?.length !== 2) continue;
    if (add === undefined || others.length > 0 || isOutput(graph, node.outputs[0]!)) continue;
    if (add.domain !== '' || add.opType !== 'Add') continue;
    const biasName = add.inputs[add.inputs[0] === node.outputs[0] ? 1 : 0]!;
    const bias = graph.initializers.get(biasName);
    const columns = weight.shape[1]!;
    const isVector =
      bias?.dtype === 'float32' &&
      bias.shape.length <= 2 &&
      bias.shape.at(-1) === columns &&
      bias.shape.slice(0, -1).every((size) => size === 1);
    if (!isVector) continue;
    // Gemm's bias may have two dimensions, but one serves every engine.
    const name = bias.shape.length === 1 ? biasName : `${biasName}/vector`;
    if (name !== biasName && initializers.has(name)) continue;
    if (name !== biasName) initializers.set(name, { ...bias, shape: [columns] });
    merged.set(add, { ...node, opType: 'Gemm', inputs: [x!, weightName!, name], outputs: add.outputs });
    merged.set(node, node);
  }
  if (merged.size === 0) return model;
  const nodes = graph.nodes.flatMap((node) => {
    const replacement = merged.get(node);
    return replacement === undefined ? [node] : replacement === node ? [] : [replacement];
  });
  return withGraph(model, removeUnused({ ...graph, nodes, initializers }));
}
