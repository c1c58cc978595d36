import type { Graph, Node } from '../../graph/model.ts';
import { subgraphsOf } from '../../graph/walk.ts';

/**
 * The graph with equal nodes written once and without nodes that nobody uses. A lowered step has some hundred of
 * both, each of which costs the engine a few microseconds a step whatever its size.
 */
export function tidy(graph: Graph): Graph {
  // Subgraphs read values of the graph around them by name.
  if (graph.nodes.some((node) => subgraphsOf(node).length > 0)) return graph;
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  return { ...graph, nodes: withoutUnused(withoutEqual(graph.nodes, outputs), outputs) };
}

function withoutEqual(nodes: readonly Node[], outputs: ReadonlySet<string>): Node[] {
  const names = new Map<string, string>();
  const known = new Map<string, Node>();
  const kept: Node[] = [];
  for (const node of nodes) {
    const renamed = { ...node, inputs: node.inputs.map((name) => names.get(name) ?? name) };
    const key = keyOf(renamed);
    const earlier = key === undefined ? undefined : known.get(key);
    if (earlier !== undefined && !node.outputs.some((name) => outputs.has(name))) {
      for (const [i, name] of node.outputs.entries()) names.set(name, earlier.outputs[i]!);
      continue;
    }
    if (key !== undefined && earlier === undefined) known.set(key, renamed);
    kept.push(renamed);
  }
  return kept;
}

/** Equal keys: equal results. Undefined: not comparable. */
function keyOf(node: Node): string | undefined {
  if (NOT_PURE.has(node.opType)) return undefined;
  const attributes: string[] = [];
  for (const [name, { kind, value }] of node.attributes) {
    const isPlain = kind === 'int' || kind === 'ints' || kind === 'float' || kind === 'floats';
    if (!isPlain && kind !== 'string') return undefined;
    attributes.push(`${name}=${kind}:${String(value)}`);
  }
  return JSON.stringify([node.domain, node.opType, node.inputs, node.outputs.length, attributes.sort()]);
}

/** Operators that give something else every time. */
const NOT_PURE: ReadonlySet<string> = new Set([
  'Bernoulli',
  'Dropout',
  'Multinomial',
  'RandomNormal',
  'RandomNormalLike',
  'RandomUniform',
  'RandomUniformLike',
]);

function withoutUnused(nodes: readonly Node[], outputs: ReadonlySet<string>): Node[] {
  const used = new Set(outputs);
  const kept: Node[] = [];
  for (const node of nodes.toReversed()) {
    if (!node.outputs.some((name) => used.has(name))) continue;
    for (const name of node.inputs) used.add(name);
    kept.push(node);
  }
  return kept.reverse();
}
