import { int64Tensor, numbersOf, type Tensor } from '../base/tensor.ts';
import { type Graph, type Node, type ValueInfo, withGraph } from '../graph/model.ts';
import { readModel } from '../graph/onnx/read.ts';
import { writeModel } from '../graph/onnx/write.ts';

/**
 * The same network for batches of any size, where its file says 1: exporters write the batch of their example input
 * into the inputs and outputs, and into the target shapes of Reshape. Nothing is inferred here; whether the result
 * computes the same, and each row by itself, is seen by running it, and has to be.
 * @param bytes an ONNX model
 * @returns undefined where an input has another first size than 1
 * @throws CorruptModelError, BonsaiError `unsupported`
 */
export function openBatch(bytes: Uint8Array): Uint8Array | undefined {
  const model = readModel(bytes);
  const { graph } = model;
  if (!graph.inputs.every(isSingle)) return undefined;
  const constants = constantsOf(graph);
  const initializers = new Map(graph.initializers);
  const nodes = graph.nodes.map((node): Node => {
    if (node.opType !== 'Reshape' || node.attributes.get('allowzero')?.value === 1n) return node;
    const target = constants.get(node.inputs[1] ?? '');
    if (target?.dtype !== 'int64' || target.shape.length !== 1) return node;
    const sizes = numbersOf(target);
    if (sizes[0] !== 1) return node;
    const name = `${node.outputs[0]}/open_shape`; // Its own: other nodes may read the old target, too.
    initializers.set(name, int64Tensor([0, ...sizes.slice(1)])); // 0 takes the size of the input.
    return { ...node, inputs: node.inputs.with(1, name) };
  });
  return writeModel(
    withGraph(model, {
      ...graph,
      nodes,
      initializers,
      inputs: graph.inputs.map(opened),
      outputs: graph.outputs.map((output) => (isSingle(output) ? opened(output) : output)),
      valueInfos: new Map(),
    }),
  );
}

function isSingle({ type }: ValueInfo): boolean {
  return type?.shape?.[0] === 1;
}

function opened(info: ValueInfo): ValueInfo {
  const { type } = info;
  return type?.shape === undefined
    ? info
    : { ...info, type: { ...type, shape: ['N', ...type.shape.slice(1)] } };
}

/** Initialisers, and what nodes of Constant hold. */
function constantsOf({ nodes, initializers }: Graph): ReadonlyMap<string, Tensor> {
  const constants = new Map(initializers);
  for (const { opType, outputs, attributes } of nodes) {
    const value = opType === 'Constant' ? attributes.get('value') : undefined;
    if (value?.kind === 'tensor') constants.set(outputs[0]!, value.value);
  }
  return constants;
}
