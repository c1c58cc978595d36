import { BonsaiError } from '../../base/errors.ts';
import type { Tensor } from '../../base/tensor.ts';
import type { Graph, Model, Node } from '../../graph/model.ts';
import { opsetOf } from '../../graph/model.ts';
import { inferTypes } from '../../ops/infer.ts';
import type { CouplingContext, Labels, NodeChange, PrunedContext } from '../../ops/op.ts';
import { recordFor } from '../../ops/table.ts';

/**
 * Runs every operator's coupling rule over the graph, in order, and gathers what they say: which channels are one,
 * which slices of which parameters belong to them, which must stay and why, and which nodes change with them.
 * Nothing is assumed about an operator without a rule: labels that reach it are frozen.
 * Source: PRUNING.md section 3 (label propagation, a generalisation of DepGraph's index mappings).
 */
export function propagateLabels(model: Model): Propagation {
  const { graph } = model;
  const { types, constants } = inferTypes(model);
  const opset = opsetOf(model) ?? 1;
  const classes = new Classes();
  const values = new Map<string, Labels>();
  const producers: number[] = [];
  const bindings: Binding[] = [];
  const freezes: Freeze[] = [];
  const rewrites: Rewrite[] = [];
  const constantOf = (name: string) => graph.initializers.get(name) ?? constants.get(name);

  const freeze = (node: string, labels: Int32Array, reason: string): void => {
    if (labels.some((label) => label >= 0)) freezes.push({ node, labels, reason });
  };
  const unite = (node: string, a: Int32Array, b: Int32Array): void => {
    if (a.length !== b.length) {
      throw new BonsaiError(
        'invalid_graph',
        `"${node}" unites ${a.length} channels with ${b.length}; the counts must agree.`,
      );
    }
    for (let i = 0; i < a.length; i++) {
      const [left, right] = [a[i]!, b[i]!];
      if (left >= 0 && right >= 0) classes.unite(left, right);
      // One side is a position that no channel owns, so it cannot go; then its partner must stay as well.
      else if (left >= 0 || right >= 0) {
        freezes.push({
          node,
          labels: Int32Array.of(Math.max(left, right)),
          reason: 'meets positions that belong to no channel',
        });
      }
    }
  };

  for (const [index, node] of graph.nodes.entries()) {
    const name = nameOf(node);
    for (const outer of subgraphUses(node)) {
      const labels = values.get(outer);
      if (labels !== undefined) freeze(name, labels.data, `${node.opType} uses "${outer}" inside a subgraph`);
    }
    const coupling = recordFor(node)?.coupling;
    if (coupling === undefined) {
      for (const input of node.inputs) {
        const labels = values.get(input);
        if (labels !== undefined) freeze(name, labels.data, `${node.opType} has no coupling rule`);
      }
      continue;
    }
    const bound: Binding[] = [];
    const context: CouplingContext = {
      node,
      opset,
      xShape: (input) => types.get(node.inputs[input] ?? '')?.shape,
      yShape: (output) => types.get(node.outputs[output] ?? '')?.shape,
      constant: (input) => constantOf(node.inputs[input] ?? ''),
      isParameter: (input) => constantOf(node.inputs[input] ?? '') !== undefined,
      labels: (input) => values.get(node.inputs[input] ?? ''),
      fresh(count) {
        const first = producers.length;
        for (let i = 0; i < count; i++) producers.push(index);
        return Int32Array.from({ length: count }, (_, i) => first + i);
      },
      unite: (a, b) => unite(name, a, b),
      bind(input, axis, labels) {
        const parameter = node.inputs[input] ?? '';
        const tensor = constantOf(parameter);
        const size = tensor?.shape[axis];
        if (tensor === undefined || size !== labels.length) {
          throw new BonsaiError(
            'invalid_graph',
            `${node.opType} "${name}" binds ${labels.length} channels to axis ${axis} of "${parameter}", which has ${size ?? 'no'} slices.`,
          );
        }
        bound.push({ node: index, input, parameter, tensor, axis, labels, consumes: false });
      },
      produce(output, labels) {
        const value = node.outputs[output];
        if (value) values.set(value, labels);
      },
      freeze: (labels, reason) => freeze(name, labels, reason),
      rewrite: (change) => rewrites.push({ node: index, change }),
    };
    coupling(context);
    const leaving = new Set<number>();
    for (const output of node.outputs) for (const label of values.get(output)?.data ?? []) leaving.add(label);
    for (const binding of bound) {
      bindings.push({
        ...binding,
        consumes: binding.labels.every((label) => label < 0 || !leaving.has(label)),
      });
    }
  }
  for (const output of graph.outputs) {
    const labels = values.get(output.name);
    if (labels !== undefined) freeze(output.name, labels.data, 'is an output of the graph');
  }
  tieSharedWeights(model, bindings, unite, freeze);

  const roots = classes.roots(producers.length);
  const frozen = new Map<number, Freeze>();
  for (const entry of freezes) {
    for (const label of entry.labels) {
      if (label >= 0 && !frozen.has(roots[label]!)) frozen.set(roots[label]!, entry);
    }
  }
  return { model, roots, producers: Int32Array.from(producers), bindings, frozen, rewrites, values };
}

/** All that the coupling rules of a graph say. Labels are 0 … `roots.length` - 1. */
export interface Propagation {
  readonly model: Model;
  /** The class of each label, named by the smallest label in it. A class is a prunable unit: it goes or stays whole. */
  readonly roots: Int32Array;
  /** The index of the node that made each label. */
  readonly producers: Int32Array;
  readonly bindings: readonly Binding[];
  /** Classes that must stay, with the first reason found. */
  readonly frozen: ReadonlyMap<number, Freeze>;
  readonly rewrites: readonly Rewrite[];
  /** Labels of each value that carries some. */
  readonly values: ReadonlyMap<string, Labels>;
}

/** Slice i of a parameter along an axis lives and dies with label i (negative: always lives). */
export interface Binding {
  /** Index of the node that uses the parameter. */
  readonly node: number;
  readonly input: number;
  readonly parameter: string;
  readonly tensor: Tensor;
  readonly axis: number;
  readonly labels: Int32Array;
  /** Whether the channels end here (the in-slices of a convolution) and do not flow on through the node. */
  readonly consumes: boolean;
}

export interface Freeze {
  /** The node, or the output of the graph, that asks for it. */
  readonly node: string;
  readonly labels: Int32Array;
  readonly reason: string;
}

export interface Rewrite {
  readonly node: number;
  readonly change: (pruned: PrunedContext) => NodeChange;
}

/** How people know a node: its name, or its first output where it has none. */
export function nameOf(node: Node): string {
  return node.name || (node.outputs[0] ?? node.opType);
}

/** Names from outside that a node's subgraphs use (or may use: a name that is defined inside as well is listed too). */
export function subgraphUses(node: Node): Set<string> {
  const uses = new Set<string>();
  const visit = (graph: Graph): void => {
    for (const output of graph.outputs) uses.add(output.name);
    for (const inner of graph.nodes) {
      for (const input of inner.inputs) if (input !== '') uses.add(input);
      for (const name of subgraphUses(inner)) uses.add(name);
    }
  };
  for (const attribute of node.attributes.values()) {
    if (attribute.kind === 'graph') visit(attribute.value);
    if (attribute.kind === 'graphs') attribute.value.forEach(visit);
  }
  return uses;
}

/**
 * A weight (more than one axis longer than 1) that several nodes use stays one weight: the channels of its uses are
 * united, axis by axis. Vectors are not: exporters merge equal ones (all-ones BatchNorm scales) by accident, and the
 * pruner clones those.
 */
function tieSharedWeights(
  model: Model,
  bindings: readonly Binding[],
  unite: (node: string, a: Int32Array, b: Int32Array) => void,
  freeze: (node: string, labels: Int32Array, reason: string) => void,
): void {
  const uses = new Map<string, number>();
  for (const node of model.graph.nodes) {
    for (const input of node.inputs) uses.set(input, (uses.get(input) ?? 0) + 1);
  }
  const byParameter = grouped(bindings, (binding) => binding.parameter);
  for (const [parameter, all] of byParameter) {
    const { shape } = all[0]!.tensor;
    const isWeight = shape.filter((size) => size > 1).length > 1;
    const total = uses.get(parameter) ?? 0;
    for (const sameAxis of grouped(all, (binding) => binding.axis).values()) {
      const [first, ...others] = sameAxis;
      const name = nameOf(model.graph.nodes[first!.node]!);
      for (const other of others) {
        const sameUse = other.node === first!.node && other.input === first!.input;
        if (sameUse || isWeight) unite(name, first!.labels, other.labels);
      }
      const bound = new Set(sameAxis.map((binding) => `${binding.node}:${binding.input}`)).size;
      if (isWeight && bound < total && bound > 0) {
        freeze(
          name,
          first!.labels,
          `shares the weight "${parameter}" with a node that needs this axis whole`,
        );
      }
    }
  }
}

function grouped<T, K>(items: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group === undefined) groups.set(keyOf(item), [item]);
    else group.push(item);
  }
  return groups;
}

/** Union-find over labels; the representative is the smallest label of the class. */
class Classes {
  readonly #parents: number[] = [];

  unite(a: number, b: number): void {
    const [left, right] = [this.#find(a), this.#find(b)];
    if (left !== right) this.#parents[Math.max(left, right)] = Math.min(left, right);
  }

  roots(count: number): Int32Array {
    return Int32Array.from({ length: count }, (_, label) => this.#find(label));
  }

  #find(label: number): number {
    let root = label;
    for (let up = this.#parents[root]; up !== undefined && up !== root; up = this.#parents[root]) root = up;
    for (let at = label; at !== root; ) {
      const up = this.#parents[at]!;
      this.#parents[at] = root;
      at = up;
    }
    return root;
  }
}
