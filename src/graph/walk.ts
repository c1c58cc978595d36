import type { Tensor } from '../base/tensor.ts';
import { describeNode } from './attributes.ts';
import { InvalidGraphError } from './errors.ts';
import type { Attribute, Graph, Node, ValueInfo } from './model.ts';
import { sparseInitializerNames } from './onnx/leftovers.ts';

/** The node that makes each value. Graph inputs and initialisers have no producer. */
export function producersOf(graph: Graph): Map<string, Node> {
  const producers = new Map<string, Node>();
  for (const node of graph.nodes) {
    for (const output of node.outputs) if (output !== '') producers.set(output, node);
  }
  return producers;
}

/**
 * The nodes that read each value, in the graph's order and once each, be it as an input or inside a subgraph. That a value is
 * an output of the graph is not in the map: see `isOutput`.
 */
export function consumersOf(graph: Graph): Map<string, Node[]> {
  const consumers = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    for (const name of readsOf(node)) {
      const known = consumers.get(name);
      if (known === undefined) consumers.set(name, [node]);
      else known.push(node);
    }
  }
  return consumers;
}

export function isOutput(graph: Graph, name: string): boolean {
  return graph.outputs.some((output) => output.name === name);
}

/** The values of the surrounding graph that a node reads: its inputs, and what its subgraphs take from outside. */
export function readsOf(node: Node): Set<string> {
  const reads = new Set(node.inputs);
  reads.delete('');
  for (const subgraph of subgraphsOf(node)) for (const name of capturesOf(subgraph)) reads.add(name);
  return reads;
}

/** The graphs in a node's attributes (branches of If, bodies of Loop and Scan). */
export function subgraphsOf(node: Node): Graph[] {
  const graphs: Graph[] = [];
  for (const attribute of node.attributes.values()) {
    if (attribute.kind === 'graph') graphs.push(attribute.value);
    else if (attribute.kind === 'graphs') graphs.push(...attribute.value);
  }
  return graphs;
}

/** The graph without nodes, initialisers and value types that no output depends on. Inputs stay: callers feed them. */
export function removeUnused(graph: Graph): Graph {
  const needed = new Set(graph.outputs.map((output) => output.name));
  const kept: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    if (!node.outputs.some((output) => needed.has(output))) continue;
    kept.push(node);
    for (const name of readsOf(node)) needed.add(name);
  }
  const made = new Set(kept.flatMap((node) => node.outputs));
  return {
    ...graph,
    nodes: kept.reverse(),
    initializers: new Map([...graph.initializers].filter(([name]) => needed.has(name))),
    valueInfos: new Map([...graph.valueInfos].filter(([name]) => needed.has(name) || made.has(name))),
  };
}

/**
 * The graph with every node behind those that it reads from. Nodes keep their order where it is free; a sorted graph
 * comes back in the same order.
 * @throws InvalidGraphError naming a node on a cycle
 */
export function sortTopologically(graph: Graph): Graph {
  const producers = producersOf(graph);
  const done = new Set<Node>();
  const open = new Set<Node>();
  const sorted: Node[] = [];
  for (const root of graph.nodes) {
    // Depth first with an explicit stack: networks can be deeper than the call stack.
    const stack = [root];
    while (stack.length > 0) {
      const node = stack.at(-1)!;
      const waiting = done.has(node) ? [] : missingProducers(node, producers, done);
      if (waiting.length > 0) {
        const cyclic = waiting.find((producer) => open.has(producer) || producer === node);
        if (cyclic !== undefined) {
          throw new InvalidGraphError(
            `Graph "${graph.name}": ${describeNode(cyclic)} depends on its own output.`,
          );
        }
        open.add(node);
        stack.push(...waiting.reverse());
        continue;
      }
      stack.pop();
      open.delete(node);
      if (!done.has(node)) {
        done.add(node);
        sorted.push(node);
      }
    }
  }
  return { ...graph, nodes: sorted };
}

/**
 * The graph with values under new names, everywhere: inputs, outputs, initialisers, nodes, and subgraphs that read them.
 * @param names old name → new name; names that the graph does not have are ignored
 * @throws InvalidGraphError if a new name is already taken by a value that keeps its name
 */
export function renameValues(graph: Graph, names: ReadonlyMap<string, string>): Graph {
  const defined = new Set(definitionsOf(graph));
  const result = new Set<string>();
  for (const name of defined) {
    const renamed = names.get(name) ?? name;
    if (result.has(renamed)) {
      throw new InvalidGraphError(
        `Graph "${graph.name}": two values would have the name "${renamed}" after renaming.`,
      );
    }
    result.add(renamed);
  }
  return renamed(graph, (name) => (name === '' ? name : (names.get(name) ?? name)));
}

/** Names of all values that a graph defines itself: inputs, initialisers, outputs of nodes. */
export function* definitionsOf(graph: Graph): Generator<string> {
  for (const input of graph.inputs) yield input.name;
  yield* graph.initializers.keys();
  yield* sparseInitializerNames(graph);
  for (const node of graph.nodes) for (const output of node.outputs) if (output !== '') yield output;
}

/** Every name of a graph that a new node or value must not take: engines refuse equal names of nodes as well. */
export function* namesIn(graph: Graph): Generator<string> {
  yield* definitionsOf(graph);
  for (const node of graph.nodes) if (node.name !== '') yield node.name;
}

/** Names that a subgraph (with its own subgraphs) reads and does not define. */
function capturesOf(graph: Graph): Set<string> {
  const defined = new Set(definitionsOf(graph));
  const captures = new Set<string>();
  for (const node of graph.nodes) {
    for (const name of readsOf(node)) if (!defined.has(name)) captures.add(name);
  }
  for (const { name } of graph.outputs) if (!defined.has(name)) captures.add(name);
  return captures;
}

function missingProducers(node: Node, producers: ReadonlyMap<string, Node>, done: ReadonlySet<Node>): Node[] {
  const missing: Node[] = [];
  for (const name of readsOf(node)) {
    const producer = producers.get(name);
    if (producer !== undefined && !done.has(producer)) missing.push(producer);
  }
  return missing;
}

function renamed(graph: Graph, rename: (name: string) => string): Graph {
  const info = (value: ValueInfo): ValueInfo => ({ ...value, name: rename(value.name) });
  return {
    ...graph,
    nodes: graph.nodes.map((node) => ({
      ...node,
      inputs: node.inputs.map(rename),
      outputs: node.outputs.map(rename),
      attributes: new Map([...node.attributes].map(([key, value]) => [key, renamedAttribute(value, rename)])),
    })),
    inputs: graph.inputs.map(info),
    outputs: graph.outputs.map(info),
    initializers: new Map(
      [...graph.initializers].map(([name, tensor]): [string, Tensor] => [rename(name), tensor]),
    ),
    valueInfos: new Map([...graph.valueInfos.values()].map((value) => [rename(value.name), info(value)])),
  };
}

function renamedAttribute(attribute: Attribute, rename: (name: string) => string): Attribute {
  if (attribute.kind === 'graph') return { kind: 'graph', value: renamedSubgraph(attribute.value, rename) };
  if (attribute.kind === 'graphs') {
    return { kind: 'graphs', value: attribute.value.map((graph) => renamedSubgraph(graph, rename)) };
  }
  return attribute;
}

/** Inside a subgraph only captured names change; what it defines itself is another value. */
function renamedSubgraph(graph: Graph, rename: (name: string) => string): Graph {
  const own = new Set(definitionsOf(graph));
  const captured = (name: string) => (own.has(name) ? name : rename(name));
  for (const name of capturesOf(graph)) {
    if (own.has(rename(name))) {
      throw new InvalidGraphError(
        `Subgraph "${graph.name}": the new name "${rename(name)}" is taken inside it.`,
      );
    }
  }
  return renamed(graph, captured);
}
