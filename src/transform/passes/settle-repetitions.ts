import { scalarTensor } from '../../base/tensor.ts';
import { tensorAttribute } from '../../graph/attributes.ts';
import { type Model, type Node, type Shape, withGraph } from '../../graph/model.ts';
import { coupleBroadcast } from '../../ops/broadcast.ts';
import { broadcastShapes } from '../../ops/dims.ts';
import { type InferredTypes, inferTypes } from '../../ops/infer.ts';
import { recordFor } from '../../ops/table.ts';
import { freshName, takenNames } from '../prune/remove-channels.ts';

/**
 * The same network in which element-wise operators repeat their operands themselves, where Expand did it before them or
 * ConstantOfShape filled a whole tensor: x · gate.expand_as(x) is x · gate, max(x, zeros_like(x)) is max(x, 0). So no
 * operand states channel counts that another one has. The result still holds nodes that became unused.
 */
export function settleRepetitions(model: Model): Model {
  const { graph } = model;
  const repeating = new Map<string, Node>();
  for (const node of graph.nodes) {
    const isRepeating = node.opType === 'Expand' || node.opType === 'ConstantOfShape';
    if (isRepeating && node.domain === '') repeating.set(node.outputs[0]!, node);
  }
  const isTouched = (node: Node) => isElementWise(node) && node.inputs.some((name) => repeating.has(name));
  if (!graph.nodes.some(isTouched)) return model;

  const inferred = inferTypes(model);
  const initializers = new Map(graph.initializers);
  const taken = takenNames(model);
  const once = new Map<string, Operand>();
  const unrepeated = (name: string): Operand | undefined => {
    const node = repeating.get(name);
    if (node === undefined || inferred.constants.has(name)) return undefined;
    const known = once.get(name);
    if (known !== undefined) return known;
    let operand: Operand | undefined;
    if (node.opType === 'Expand') {
      const shape = inferred.types.get(node.inputs[0]!)?.shape;
      operand = shape && { name: node.inputs[0]!, shape };
    } else {
      const fill = tensorAttribute(node, 'value') ?? scalarTensor(0);
      operand = { name: freshName(`${name}/fill`, taken), shape: [] };
      initializers.set(operand.name, { ...fill, shape: [] });
    }
    if (operand !== undefined) once.set(name, operand);
    return operand;
  };
  const nodes = graph.nodes.map((node) =>
    isTouched(node) ? withoutRepetitions(node, inferred, unrepeated) : node,
  );
  return withGraph(model, { ...graph, nodes, initializers });
}

interface Operand {
  readonly name: string;
  readonly shape: Shape;
}

/** Whether a node broadcasts all its operands. PRelu does not repeat its first one. */
function isElementWise(node: Node): boolean {
  return node.opType !== 'PRelu' && recordFor(node)?.coupling === coupleBroadcast;
}

/** The node with each operand before its repetition as long as the others still make a result of the same shape. */
function withoutRepetitions(
  node: Node,
  { types }: InferredTypes,
  unrepeated: (name: string) => Operand | undefined,
): Node {
  const result = types.get(node.outputs[0]!)?.shape;
  const shapes = node.inputs.map((name) => types.get(name)?.shape);
  if (result === undefined) return node;
  const inputs = [...node.inputs];
  for (const [i, name] of node.inputs.entries()) {
    const operand = unrepeated(name);
    if (operand === undefined) continue;
    const shape = broadcastShapes(node, shapes.with(i, operand.shape));
    // Sizes that have a name are equal where their names are; every size has a number or a name.
    if (shape === undefined || shape.join() !== result.join()) continue;
    inputs[i] = operand.name;
    shapes[i] = operand.shape;
  }
  return { ...node, inputs };
}
