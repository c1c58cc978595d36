import { BonsaiError } from '../../base/errors.ts';
import type { Tensor } from '../../base/tensor.ts';
import type { Graph, Model, Node, ValueType } from '../../graph/model.ts';
import { opsetOf } from '../../graph/model.ts';
import { type InferredTypes, inferTypes } from '../../ops/infer.ts';
import { gatherLabels } from '../../ops/label-tensor.ts';
import type { CouplingContext, Labels, NodeChange, PrunedContext } from '../../ops/op.ts';
import { dequantized, scaleAxis } from '../../ops/quantize-linear.ts';
import { recordFor } from '../../ops/table.ts';
import { type AttentionUnit, attentionAxes } from './attention.ts';
import { groupAxes } from './group-axes.ts';
import { type MergedBatch, mergedBatch } from './merged-batch.ts';

/**
 * Runs every operator's coupling rule over the graph, in order, and gathers what they say: which channels are one,
 * which slices of which parameters belong to them, which must stay and why, and which nodes change with them.
 * Nothing is assumed about an operator without a rule: labels that reach it are frozen.
 * Source: PRUNING.md section 3 (label propagation, a generalisation of DepGraph's index mappings).
 */
export function propagateLabels(model: Model, options: PropagateOptions = {}): Propagation {
  const inferred = inferTypes(model);
  const merged = mergedBatch(model, inferred);
  if (merged !== undefined) {
    const [one, other] = [merged.one, merged.other].map((inputs) => {
      const types = typesAt(model, inputs);
      return types && propagateAt(model, options, { ...inferred, types });
    });
    if (one !== undefined && other !== undefined && saysTheSame(one, other))
      return { ...one, types: inferred.types };
  }
  return propagateAt(model, options, inferred);
}

/** Undefined where a node does not admit its inputs at these shapes. */
function typesAt(model: Model, inputs: MergedBatch['one']): InferredTypes['types'] | undefined {
  try {
    return inferTypes(model, { inputs }).types;
  } catch (error) {
    if (error instanceof BonsaiError && error.code === 'shape_mismatch') return undefined;
    throw error;
  }
}

/** Whether two propagations through one network tie, cut and keep the same channels, those of the images in turn. */
function saysTheSame(a: Propagation, b: Propagation): boolean {
  for (const kind of ['values', 'crossing'] as const)
    for (const [name, labels] of b[kind]) if (!isRepeated(a[kind].get(name), labels)) return false;
  const say = ({ roots, producers, bindings, frozen, inexact, rewrites }: Propagation) =>
    [
      roots.join(),
      producers.join(),
      [...frozen.keys()].join(),
      [...inexact.keys()].join(),
      rewrites.map(({ node }) => node).join(),
      ...bindings.map(({ node, input, axis, labels }) => [node, input, axis, labels.join()].join(';')),
    ].join('\n');
  return say(a) === say(b);
}

/** Whether labels are others one or several times after the other along each axis. */
function isRepeated(one: Labels | undefined, many: Labels): boolean {
  if (one?.shape.length !== many.shape.length) return false;
  if (one.shape.join() === many.shape.join()) return true;
  let expected = one;
  for (const [axis, size] of many.shape.entries()) {
    const own = expected.shape[axis]!;
    const positions = Array.from({ length: size }, (_, position) => position % own);
    if (own !== size) expected = gatherLabels(expected, axis, positions);
  }
  return expected.data.join() === many.data.join();
}

/**
 * One walk labels channels, a second one those that cross them (`CouplingContext.makesCrossing`). The two know nothing of
 * each other, so where both would rewrite one node or cut one axis of a parameter, those that cross stay.
 */
function propagateAt(model: Model, options: PropagateOptions, inferred: InferredTypes): Propagation {
  const both = walkedTwice(model, options, inferred, true);
  return both ?? walkedTwice(model, options, inferred, false)!; // Undefined only where they get into each other's way.
}

/** @param isCrossingFree whether channels that cross others may go; undefined where they must not */
function walkedTwice(
  model: Model,
  options: PropagateOptions,
  inferred: InferredTypes,
  isCrossingFree: boolean,
): Propagation | undefined {
  const { graph } = model;
  const { types, constants, partials } = inferred;
  const { producerOf, consumersOf } = wiringOf(graph);
  const factorAxes = new Map([
    ...groupAxes(model, inferred),
    ...attentionAxes(model, inferred, options.attention ?? 'heads'),
  ]);
  const exposed = new Set(graph.outputs.map((output) => output.name));
  for (const node of graph.nodes) for (const name of subgraphUses(node)) exposed.add(name);
  const opset = opsetOf(model) ?? 1;
  const classes = new Classes();
  const channels = new Map<string, Labels>();
  const crossing = new Map<string, Labels>();
  const makers = new Set<number>();
  const producers: number[] = [];
  const made: Binding[] = [];
  const freezes: Freeze[] = [];
  const inexact: Freeze[] = [];
  const unions: Union[] = [];
  const mixing = new Set<string>();
  const asked: (Rewrite & { readonly by: number })[] = [];
  const quantized = quantizedWeights(model, constants);
  const constantOf = (name: string) =>
    graph.initializers.get(name) ?? constants.get(name) ?? quantized.get(name)?.tensor;

  const freeze = (node: string, labels: Int32Array, reason: string): void => {
    if (labels.some((label) => label >= 0)) freezes.push({ node, labels, reason });
  };
  const unite = (
    node: string,
    a: Int32Array,
    b: Int32Array,
    because: Pick<Union, 'opType' | 'weight'>,
  ): void => {
    if (a.length !== b.length) {
      throw new BonsaiError(
        'invalid_graph',
        `"${node}" unites ${a.length} channels with ${b.length}; the counts must agree.`,
      );
    }
    const united: number[] = [];
    for (let i = 0; i < a.length; i++) {
      const left = a[i]!;
      const right = b[i]!;
      if (left >= 0 && right >= 0) {
        if (classes.unite(left, right)) united.push(left);
      }
      // One side is a position that no channel owns, so it cannot go; then its partner must stay as well.
      else if (left >= 0 || right >= 0) {
        freezes.push({
          node,
          labels: Int32Array.of(Math.max(left, right)),
          reason: 'meets positions that belong to no channel',
        });
      }
    }
    if (united.length > 0) unions.push({ node, ...because, labels: united });
  };

  const visit = (index: number, node: Node, values: Map<string, Labels>): void => {
    const isSecond = values === crossing;
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
      return;
    }
    const bound: Binding[] = [];
    const looked = new Set<number>();
    const context: CouplingContext = {
      node,
      opset,
      xShape: (input) => types.get(node.inputs[input] ?? '')?.shape,
      yShape: (output) => types.get(node.outputs[output] ?? '')?.shape,
      constant: (input) => constantOf(node.inputs[input] ?? ''),
      constantNamed: constantOf,
      partial: (input) => partials.get(node.inputs[input] ?? ''),
      producer: (input) => producerOf.get(node.inputs[input] ?? ''),
      producerOf: (value) => producerOf.get(value),
      consumers: (output) => consumersOf.get(node.outputs[output] ?? '') ?? [],
      isParameter: (input) => constantOf(node.inputs[input] ?? '') !== undefined,
      labels(input) {
        looked.add(input);
        return values.get(node.inputs[input] ?? '');
      },
      fresh(count) {
        if (isSecond && !makers.has(index)) return new Int32Array(count).fill(-1);
        const first = producers.length;
        for (let i = 0; i < count; i++) producers.push(index);
        return Int32Array.from({ length: count }, (_, i) => first + i);
      },
      makesCrossing: () => makers.add(index),
      unite: (a, b) => unite(name, a, b, { opType: node.opType }),
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
        if (isSecond && labels.every((label) => label < 0)) return;
        bound.push({
          node: index,
          input,
          parameter,
          tensor,
          axis,
          labels,
          consumes: false,
          crosses: isSecond,
        });
      },
      produce(output, labels) {
        const value = node.outputs[output];
        if (value && !(isSecond && labels.data.every((label) => label < 0))) values.set(value, labels);
      },
      freeze: (labels, reason) => freeze(name, labels, reason),
      inexact: (labels, reason) => inexact.push({ node: name, labels, reason }),
      mixes: (input) => mixing.add(`${index}:${input}`),
      factorAxis: () => factorAxes.get(node.outputs[0] ?? ''),
      readers: (value) => ({ nodes: consumersOf.get(value) ?? [], isExposed: exposed.has(value) }),
      lengthOf(value) {
        const shape = types.get(value)?.shape;
        return shape?.length === 1 && typeof shape[0] === 'number' ? shape[0] : undefined;
      },
      rewrite: (change, other) =>
        asked.push({
          by: index,
          node: other === undefined ? index : graph.nodes.indexOf(other),
          change,
          crosses: isSecond,
        }),
    };
    coupling(context);
    // Channels that a rule did not look at (as a computed kernel or index) are nothing that it knows about.
    for (const [input, value] of node.inputs.entries()) {
      const labels = looked.has(input) ? undefined : values.get(value);
      if (labels !== undefined)
        freeze(name, labels.data, `are input ${input} of ${node.opType}, where none are expected`);
    }
    if (bound.length === 0) return;
    const leaving = new Set<number>();
    for (const output of node.outputs) for (const label of values.get(output)?.data ?? []) leaving.add(label);
    for (const binding of bound) {
      made.push({
        ...binding,
        consumes: binding.labels.every((label) => label < 0 || !leaving.has(label)),
      });
    }
  };
  for (const [index, node] of graph.nodes.entries()) visit(index, node, channels);
  if (makers.size > 0) {
    for (const [index, node] of graph.nodes.entries()) {
      const isTouched =
        makers.has(index) || [...node.inputs, ...subgraphUses(node)].some((name) => crossing.has(name));
      if (isTouched) visit(index, node, crossing);
    }
    if (!isCrossingFree) {
      for (const { node, labels, crosses } of made)
        if (crosses)
          freeze(nameOf(graph.nodes[node]!), labels, 'its result carries channels along another axis');
    }
  }
  for (const output of graph.outputs) {
    for (const labels of [channels.get(output.name), crossing.get(output.name)])
      if (labels !== undefined) freeze(output.name, labels.data, 'is an output of the graph');
  }
  // What crosses and stays asks for nothing, and so is in nobody's way.
  const walked = classes.roots(producers.length);
  const stuck = firstByClass(freezes, walked);
  const stays = (labels: Int32Array) => labels.every((label) => label < 0 || stuck.has(walked[label]!));
  const bindings = made.filter(({ crosses, labels }) => !crosses || !stays(labels));
  const rewrites = asked.filter(
    ({ crosses, by }) =>
      !crosses ||
      !graph.nodes[by]!.inputs.every((name) => stays(crossing.get(name)?.data ?? new Int32Array(0))),
  );
  if (interferes(bindings, rewrites)) return undefined;
  tieSharedWeights(model, bindings, unite, freeze);

  const roots = classes.roots(producers.length);
  return {
    model,
    roots,
    producers: Int32Array.from(producers),
    bindings,
    frozen: firstByClass(freezes, roots),
    inexact: firstByClass(inexact, roots),
    unions,
    rewrites,
    mixing,
    quantized,
    values: channels,
    crossing,
    types,
  };
}

/** Whether the two walks would change the same node, or cut the same axis of a parameter where one node reads it. */
function interferes(bindings: readonly Binding[], rewrites: readonly Rewrite[]): boolean {
  const rewritten = new Set(rewrites.flatMap(({ node, crosses }) => (crosses ? [] : [node])));
  const place = ({ node, input, axis }: Binding) => `${node}:${input}:${axis}`;
  const cut = new Set(bindings.flatMap((binding) => (binding.crosses ? [] : [place(binding)])));
  return (
    rewrites.some(({ node, crosses }) => crosses && rewritten.has(node)) ||
    bindings.some((binding) => binding.crosses && cut.has(place(binding)))
  );
}

/** The labels of a value: of its channels, and of those that cross them. */
export function labelsOf({ values, crossing }: Propagation, name: string): readonly Labels[] {
  return [values.get(name), crossing.get(name)].filter((labels) => labels !== undefined);
}

function firstByClass(entries: readonly Freeze[], roots: Int32Array): Map<number, Freeze> {
  const first = new Map<number, Freeze>();
  for (const entry of entries) {
    for (const label of entry.labels) {
      if (label >= 0 && !first.has(roots[label]!)) first.set(roots[label]!, entry);
    }
  }
  return first;
}

export interface PropagateOptions {
  /** What attention loses: whole heads (the default), or the same positions of every head. */
  readonly attention?: AttentionUnit;
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
  /** What made classes larger, in the graph's order. */
  readonly unions: readonly Union[];
  /** Classes that may go without the rest computing what the masked network computes, with the first reason found. */
  readonly inexact: ReadonlyMap<number, Freeze>;
  readonly rewrites: readonly Rewrite[];
  /** `node:input` where channels pass, each made of all of them (`CouplingContext.mixes`). */
  readonly mixing: ReadonlySet<string>;
  /** Weights that are stored as integers, by the value that DequantizeLinear makes of them. */
  readonly quantized: ReadonlyMap<string, QuantizedWeight>;
  /** Labels of each value that carries some. */
  readonly values: ReadonlyMap<string, Labels>;
  /** Of values whose positions have two, the second ones: widths along another axis than the channels'. */
  readonly crossing: ReadonlyMap<string, Labels>;
  /** Types of all values of which one is known. */
  readonly types: ReadonlyMap<string, ValueType>;
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
  /** Whether these are channels that cross others (`Propagation.crossing`). */
  readonly crosses: boolean;
}

export interface Freeze {
  /** The node, or the output of the graph, that asks for it. */
  readonly node: string;
  readonly labels: Int32Array;
  readonly reason: string;
}

/** A node that made one class of two, for each of the labels. */
export interface Union {
  readonly node: string;
  readonly opType: string;
  /** The weight that several nodes share, where that is what ties their channels. */
  readonly weight?: string;
  readonly labels: readonly number[];
}

export interface Rewrite {
  readonly node: number;
  readonly crosses: boolean;
  readonly change: (pruned: PrunedContext) => NodeChange;
}

export interface QuantizedWeight {
  /** Index of the DequantizeLinear. */
  readonly node: number;
  /** Its inputs: integers, scales and perhaps zero points. */
  readonly stored: readonly (Tensor | undefined)[];
  /** The axis that has a scale for each slice; undefined: one scale for all. */
  readonly scaleAxis: number | undefined;
  /** The weight in floating point. */
  readonly tensor: Tensor;
}

function quantizedWeights(
  { graph }: Model,
  constants: ReadonlyMap<string, Tensor>,
): ReadonlyMap<string, QuantizedWeight> {
  const weights = new Map<string, QuantizedWeight>();
  for (const [index, node] of graph.nodes.entries()) {
    if (node.opType !== 'DequantizeLinear' || node.domain !== '') continue;
    const [x, scale, zeroPoint] = node.inputs.map((name) => constants.get(name));
    if (x === undefined || scale === undefined || (node.inputs[2] && zeroPoint === undefined)) continue;
    const tensor = dequantized(node, x, scale, zeroPoint);
    if (tensor === undefined) continue;
    const axis = scaleAxis(node, x.shape.length, scale.shape);
    weights.set(node.outputs[0]!, { node: index, stored: [x, scale, zeroPoint], scaleAxis: axis, tensor });
  }
  return weights;
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

/** Who computes and who uses each value. */
function wiringOf(graph: Graph): {
  readonly producerOf: ReadonlyMap<string, Node>;
  readonly consumersOf: ReadonlyMap<string, readonly Node[]>;
} {
  const producerOf = new Map<string, Node>();
  const consumersOf = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    for (const output of node.outputs) if (output !== '') producerOf.set(output, node);
    for (const input of new Set(node.inputs)) {
      const users = consumersOf.get(input);
      if (users === undefined) consumersOf.set(input, [node]);
      else users.push(node);
    }
  }
  return { producerOf, consumersOf };
}

/**
 * A weight (more than one axis longer than 1) that several nodes use stays one weight: the channels of its uses are
 * united, axis by axis. Vectors are not: exporters merge equal ones (all-ones BatchNorm scales) by accident, and the
 * pruner clones those.
 */
function tieSharedWeights(
  model: Model,
  bindings: readonly Binding[],
  unite: (node: string, a: Int32Array, b: Int32Array, because: Pick<Union, 'opType' | 'weight'>) => void,
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
      const node = model.graph.nodes[first!.node]!;
      const name = nameOf(node);
      for (const other of others) {
        const sameUse = other.node === first!.node && other.input === first!.input;
        if (sameUse || isWeight) {
          const because = sameUse ? { opType: node.opType } : { opType: node.opType, weight: parameter };
          unite(name, first!.labels, other.labels, because);
        }
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

  /** @returns whether they were two classes before */
  unite(a: number, b: number): boolean {
    const [left, right] = [this.#find(a), this.#find(b)];
    if (left === right) return false;
    this.#parents[Math.max(left, right)] = Math.min(left, right);
    return true;
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
