import type { Graph } from '../../graph/model.ts';
import { definitionsOf } from '../../graph/walk.ts';

/** Every name of a graph that a new node or value must not take: engines refuse equal names of nodes as well. */
export function* namesIn(graph: Graph): Generator<string> {
  yield* definitionsOf(graph);
  for (const node of graph.nodes) if (node.name !== '') yield node.name;
}
