import { GraphBuilder } from '../../graph/build.ts';
import { type Dim, type Model, type Node, withGraph } from '../../graph/model.ts';
import { definitionsOf, subgraphsOf } from '../../graph/walk.ts';
import { inferTypes } from '../../ops/infer.ts';

/**
 * The same network in which sizes that only callers know (the batch) are asked of the graph's inputs, not of the
 * activations that have them too: the Shape [batch, 64, 7, 7] of a convolution becomes the batch of the image, 64, 7 and 7.
 * So the channels of an activation do not enter arithmetic that is about its batch. A Shape with a size that no input
 * has stays.
 */
export function settleSizes(model: Model): Model {
  const { graph } = model;
  const inputs = new Set(graph.inputs.map(({ name }) => name));
  const isInner = (node: Node) =>
    node.opType === 'Shape' && node.domain === '' && !inputs.has(node.inputs[0] ?? '');
  if (!graph.nodes.some(isInner)) return model;

  const { types, partials } = inferTypes(model);
  const build = new GraphBuilder(graph.name, { ...graph, nodes: [] });
  for (const each of [graph, ...graph.nodes.flatMap(subgraphsOf)]) build.avoid(definitionsOf(each));
  const asked = new Map<Dim, string>();
  const sizeOf = (size: Dim): string | undefined => {
    if (typeof size === 'number') return build.ints([size]);
    const known = asked.get(size);
    if (known !== undefined || size === null) return known;
    for (const { name } of graph.inputs) {
      const axis = types.get(name)?.shape?.indexOf(size) ?? -1;
      if (axis < 0) continue;
      const value = build.op('Gather', [build.op('Shape', [name]), build.ints([axis])], { axis: 0 });
      asked.set(size, value);
      return value;
    }
    return undefined;
  };
  for (const node of graph.nodes) {
    const elements = isInner(node) ? partials.get(node.outputs[0]!)?.elements : undefined;
    const sizes = elements?.map(sizeOf);
    if (sizes?.length && sizes.every((size) => size !== undefined)) {
      build.op('Concat', sizes, { axis: 0 }, { outputs: [node.outputs[0]!], name: node.name });
    } else build.node(node);
  }
  const { nodes, initializers } = build.finish();
  return withGraph(model, { ...graph, nodes, initializers });
}
