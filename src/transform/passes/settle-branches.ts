import type { Tensor } from '../../base/tensor.ts';
import { GraphBuilder } from '../../graph/build.ts';
import { type Graph, type Model, type Node, withGraph } from '../../graph/model.ts';
import { definitionsOf, renameValues, subgraphsOf } from '../../graph/walk.ts';

/**
 * The same network with the nodes of the branch that is taken in place of every If whose condition is an initialiser:
 * exporters write the choice down although it hangs on sizes that they know.
 */
export function settleBranches(model: Model): Model {
  const { graph } = model;
  if (!graph.nodes.some((node) => takenBranch(node, graph.initializers) !== undefined)) return model;
  const build = new GraphBuilder(graph.name, { ...graph, nodes: [] });
  for (const each of [graph, ...graph.nodes.flatMap(nestedGraphs)]) build.avoid(definitionsOf(each));
  for (const node of graph.nodes) {
    const branch = takenBranch(node, graph.initializers);
    if (branch === undefined) build.node(node);
    else inline(build, node, branch);
  }
  const { nodes, initializers } = build.finish();
  return withGraph(model, { ...graph, nodes, initializers });
}

function takenBranch(node: Node, initializers: ReadonlyMap<string, Tensor>): Graph | undefined {
  const condition = initializers.get(node.inputs[0] ?? '');
  if (node.opType !== 'If' || node.domain !== '' || condition === undefined) return undefined;
  const branch = node.attributes.get(condition.bytes[0] === 0 ? 'else_branch' : 'then_branch');
  return branch?.kind === 'graph' && branch.value.opaque === undefined ? branch.value : undefined;
}

/** Adds a branch's nodes under names of their own; its outputs get the names that the node gave them. */
function inline(build: GraphBuilder, node: Node, branch: Graph): void {
  const names = new Map<string, string>();
  const made = new Set(branch.nodes.flatMap(({ outputs }) => outputs));
  const copies: [from: string, to: string][] = [];
  for (const [i, { name }] of branch.outputs.entries()) {
    const output = node.outputs[i] ?? '';
    if (output === '') continue;
    if (made.has(name) && !names.has(name)) names.set(name, output);
    else copies.push([name, output]);
  }
  for (const name of definitionsOf(branch)) {
    if (names.has(name)) continue;
    // Names of one branch differ, so that what stands before them is enough to keep them apart.
    names.set(name, build.fresh(`${node.outputs[0]}/${name}`));
  }
  const { nodes, initializers } = renameValues(branch, names);
  for (const [name, tensor] of initializers) build.initializer(name, tensor);
  for (const each of nodes) build.node(each);
  for (const [from, to] of copies) build.op('Identity', [names.get(from) ?? from], {}, { outputs: [to] });
}

function nestedGraphs(node: Node): Graph[] {
  return subgraphsOf(node).flatMap((graph) => [graph, ...graph.nodes.flatMap(nestedGraphs)]);
}
