import { int64Tensor, numbersOf } from '../../base/tensor.ts';
import { checkModel } from '../../graph/check.ts';
import {
  type Graph,
  type Model,
  type Node,
  type Shape,
  type ValueInfo,
  withGraph,
} from '../../graph/model.ts';
import { inferTypes } from '../../ops/infer.ts';

/**
 * The same network for batches of any size, where its file gives one: exporters write the batch of their example
 * input (mostly 1) into the inputs, and into the target shapes of Reshape. Constants should have been folded.
 * The result is checked by inferring its shapes at another batch.
 * @returns the network itself where its batch is open already; undefined where the batch is built in otherwise
 */
export function freeBatch(model: Model): Model | undefined {
  const { graph } = model;
  const batch = batchOfInputs(graph);
  if (batch === undefined) return model;
  const { types } = inferTypes(model);
  const initializers = new Map(graph.initializers);
  const nodes = graph.nodes.map((node): Node => {
    const target = node.opType === 'Reshape' ? graph.initializers.get(node.inputs[1] ?? '') : undefined;
    if (target?.dtype !== 'int64' || target.shape.length !== 1) return node;
    const sizes = numbersOf(target);
    const hasBatch = types.get(node.inputs[0] ?? '')?.shape?.[0] === batch && sizes[0] === batch;
    const keepsZeros = node.attributes.get('allowzero')?.value === 1n;
    if (!hasBatch || keepsZeros) return node;
    // 0 copies the size of the input. The name is the node's own: another node may read the old target otherwise.
    const name = `${node.outputs[0]}/free_shape`;
    initializers.set(name, int64Tensor([0, ...sizes.slice(1)]));
    return { ...node, inputs: node.inputs.with(1, name) };
  });
  const used = new Set(nodes.flatMap((node) => node.inputs));
  for (const node of graph.nodes) {
    if (node.opType === 'Reshape' && !used.has(node.inputs[1]!)) initializers.delete(node.inputs[1]!);
  }
  const freed = withGraph(model, {
    ...graph,
    nodes,
    initializers,
    inputs: graph.inputs.map((input) => withBatch(input, FREE_BATCH)),
    outputs: graph.outputs.map((output) =>
      output.type?.shape?.[0] === batch ? withBatch(output, FREE_BATCH) : output,
    ),
    valueInfos: new Map(),
  });
  if (!followsBatch(model, freed, types, PROBE_FACTOR * batch)) return undefined;
  checkModel(freed);
  return freed;
}

/** What the size of a freed batch is called, as most exporters call it. */
const FREE_BATCH = 'N';
/** Any batch but the file's own tells whether sizes follow. */
const PROBE_FACTOR = 3;

/** The batch that all inputs of the graph state; undefined where it is open or they differ. */
export function batchOfInputs({ inputs }: Pick<Graph, 'inputs'>): number | undefined {
  const sizes = new Set(inputs.map((input) => input.type?.shape?.[0]));
  const [size] = sizes;
  return sizes.size === 1 && typeof size === 'number' ? size : undefined;
}

/** Whether at another batch every output has that batch and otherwise the sizes that it had. */
function followsBatch(
  model: Model,
  freed: Model,
  before: ReturnType<typeof inferTypes>['types'],
  batch: number,
): boolean {
  const inputs = Object.fromEntries(
    freed.graph.inputs.map(({ name, type }): [string, Shape] => [
      name,
      [batch, ...(type?.shape ?? []).slice(1)],
    ]),
  );
  let types: ReturnType<typeof inferTypes>['types'];
  try {
    types = inferTypes(withoutStatedOutputs(freed), { inputs }).types;
  } catch {
    return false; // A node does not admit its inputs at another batch: the batch is built in.
  }
  return model.graph.outputs.every(({ name }) => {
    const [was, is] = [before.get(name)?.shape, types.get(name)?.shape];
    return was !== undefined && is?.join() === [batch, ...was.slice(1)].join();
  });
}

/** Without the stated types of outputs, so that a shape that cannot be inferred is not taken from them. */
function withoutStatedOutputs(model: Model): Model {
  const outputs = model.graph.outputs.map(({ name }) => ({ name }));
  return withGraph(model, { ...model.graph, outputs });
}

function withBatch(info: ValueInfo, batch: string): ValueInfo {
  const { type } = info;
  return type?.shape === undefined
    ? info
    : { ...info, type: { ...type, shape: [batch, ...type.shape.slice(1)] } };
}
