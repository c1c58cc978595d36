import { BITS_PER_ELEMENT } from '../../base/dtype.ts';
import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import type { Tensor } from '../../base/tensor.ts';
import { checkModel } from '../../graph/check.ts';
import type { Model, Node } from '../../graph/model.ts';
import { removeUnused } from '../../graph/walk.ts';
import type { PrunedContext } from '../../ops/op.ts';
import {
  type Binding,
  labelsOf,
  nameOf,
  type Propagation,
  type QuantizedWeight,
  subgraphUses,
} from './labels.ts';

/**
 * The network without the channels of the given labels (and of all labels united with them): every bound parameter
 * sliced, nodes rewritten where their attributes or constants hold channel counts. A parameter whose users keep
 * different slices is cloned. What ends up unused is dropped, as are stale types of values.
 * @param labels any labels of the classes to remove; the result depends on the classes alone
 * @throws InvalidArgumentError if a class is frozen
 * @throws EmptyAxisError if a parameter would be left without slices
 */
export function removeChannels(propagation: Propagation, labels: Iterable<number>): Model {
  const { model, bindings, rewrites, quantized } = propagation;
  const { graph } = model;
  const isRemoved = removedTest(propagation, labels);
  const pruned: PrunedContext = {
    keptIndices: (asked) => keptIndices(asked, isRemoved),
    kept: (asked) => keptIndices(asked, isRemoved).length,
  };

  const initializers = new Map(graph.initializers);
  const nodes = graph.nodes.map((node) => ({ ...node, inputs: [...node.inputs] }));
  const uses = countUses(model);
  const taken = takenNames(model);
  /** Names of slices by what they were cut of and how, so that what nodes share stays shared. */
  const slicesOf = new Map<string, string>();

  for (const { parameter, tensor, cuts, users } of cutsOf(bindings, isRemoved)) {
    const sliced = cuts.reduce((whole, cut) => sliceAxis(whole, cut.axis, cut.kept), tensor);
    if (sliced.shape.includes(0)) throw new EmptyAxisError(parameter, nameOf(graph.nodes[users[0]!.node]!));
    const stored = quantized.get(parameter);
    if (stored !== undefined && uses.get(parameter) === users.length) {
      sliceQuantized(stored, cuts);
      continue;
    }
    const isSole = initializers.has(parameter) && uses.get(parameter) === users.length;
    const name = isSole ? parameter : freshName(`${parameter}/pruned`, taken);
    initializers.set(name, sliced);
    for (const { node, input } of users) nodes[node]!.inputs[input] = name;
  }

  /** Slices integers where they are stored, and their scales and zero points with them. */
  function sliceQuantized({ node: index, scaleAxis, stored }: QuantizedWeight, cuts: Cut['cuts']): void {
    for (const [input, tensor] of stored.entries()) {
      const name = graph.nodes[index]!.inputs[input] ?? '';
      const own =
        input === 0 ? cuts : cuts.flatMap((cut) => (cut.axis === scaleAxis ? [{ ...cut, axis: 0 }] : []));
      if (tensor === undefined || own.length === 0) continue;
      const key = `${name}\n${JSON.stringify(own)}`;
      let target = slicesOf.get(key);
      if (target === undefined) {
        const isSole = graph.initializers.has(name) && uses.get(name) === 1;
        target = isSole ? name : freshName(`${name}/pruned`, taken);
        slicesOf.set(key, target);
        const sliced = own.reduce((whole, cut) => sliceAxis(whole, cut.axis, cut.kept), tensor);
        initializers.set(target, sliced);
      }
      nodes[index]!.inputs[input] = target;
    }
  }

  for (const { node: index, change } of rewrites) {
    const { attributes, constants } = change(pruned);
    const node = nodes[index]!;
    if (attributes !== undefined) nodes[index] = { ...node, attributes };
    for (const [input, tensor] of constants ?? []) {
      const old = node.inputs[input] ?? '';
      const name =
        graph.initializers.has(old) && uses.get(old) === 1
          ? old
          : freshName(`${node.outputs[0]}/constant`, taken);
      initializers.set(name, tensor);
      nodes[index]!.inputs[input] = name;
    }
  }

  const valueInfos = new Map(
    [...graph.valueInfos].filter(
      ([name]) =>
        !labelsOf(propagation, name).some(({ data }) => data.some((label) => label >= 0 && isRemoved(label))),
    ),
  );
  const result: Model = { ...model, graph: removeUnused({ ...graph, nodes, initializers, valueInfos }) };
  checkModel(result);
  return result;
}

/** Removing these channels would leave a parameter, and so a layer, with nothing. */
export class EmptyAxisError extends BonsaiError {
  constructor(parameter: string, node: string) {
    super(
      'empty_group',
      `Removing these channels leaves nothing of "${parameter}" at ${node}. Keep at least one channel.`,
    );
  }
}

/** Whether a label goes, given labels of the classes to remove. @throws InvalidArgumentError if one of them is frozen */
export function removedTest(propagation: Propagation, labels: Iterable<number>): (label: number) => boolean {
  const { roots, frozen, producers, model } = propagation;
  const removed = new Uint8Array(roots.length);
  for (const label of labels) {
    const root = roots[label];
    if (root === undefined)
      throw new InvalidArgumentError(`There is no channel label ${label}; there are ${roots.length}.`);
    const freeze = frozen.get(root);
    if (freeze !== undefined) {
      const producer = nameOf(model.graph.nodes[producers[label]!]!);
      throw new InvalidArgumentError(
        `A channel of ${producer} cannot be removed (${freeze.node}: ${freeze.reason}).`,
      );
    }
    removed[root] = 1;
  }
  return (label) => removed[roots[label]!] === 1;
}

/** The slices of a tensor at the given positions of an axis. @throws BonsaiError `unsupported` for sub-byte types */
export function sliceAxis(tensor: Tensor, axis: number, positions: readonly number[]): Tensor {
  const bits = BITS_PER_ELEMENT[tensor.dtype];
  if (bits < 8)
    throw new BonsaiError(
      'unsupported',
      `Slicing tensors of ${tensor.dtype} is not supported. Prune before quantising.`,
    );
  const size = tensor.shape[axis]!;
  const rowBytes = tensor.shape.slice(axis + 1).reduce((product, length) => product * length, bits / 8);
  const outer = tensor.shape.slice(0, axis).reduce((product, length) => product * length, 1);
  const bytes = new Uint8Array(outer * positions.length * rowBytes);
  if (rowBytes % 4 === 0 && rowBytes <= LONGEST_WORD_ROW && tensor.bytes.byteOffset % 4 === 0) {
    copyWords(tensor.bytes, bytes, { outer, size, positions, words: rowBytes / 4 });
    return { dtype: tensor.dtype, shape: tensor.shape.with(axis, positions.length), bytes };
  }
  let at = 0;
  for (let block = 0; block < outer; block++) {
    for (const position of positions) {
      const from = (block * size + position) * rowBytes;
      bytes.set(tensor.bytes.subarray(from, from + rowBytes), at);
      at += rowBytes;
    }
  }
  return { dtype: tensor.dtype, shape: tensor.shape.with(axis, positions.length), bytes };
}

/**
 * Rows up to this many bytes are copied word by word: a call per row costs more than that. Measured, half of axis 1 of
 * float weights, ms by calls / by words: [3072, 768] 74 / 10, [1024, 768, 3, 3] 38 / 13, [512, 384, 5, 5] 20 / 20.
 */
export const LONGEST_WORD_ROW = 64;

/** The rows at `positions` of each block, as 32-bit words of whatever they hold. */
function copyWords(
  from: Uint8Array,
  to: Uint8Array,
  layout: {
    readonly outer: number;
    readonly size: number;
    readonly positions: readonly number[];
    readonly words: number;
  },
): void {
  const { outer, size, words } = layout;
  const source = new Uint32Array(from.buffer, from.byteOffset, from.byteLength / 4);
  const target = new Uint32Array(to.buffer);
  const positions = Int32Array.from(layout.positions);
  let at = 0;
  for (let block = 0; block < outer; block++) {
    for (let i = 0; i < positions.length; i++) {
      const start = (block * size + positions[i]!) * words;
      for (let word = start; word < start + words; word++) target[at++] = source[word]!;
    }
  }
}

interface Cut {
  readonly parameter: string;
  readonly tensor: Tensor;
  readonly cuts: readonly { readonly axis: number; readonly kept: readonly number[] }[];
  readonly users: readonly { readonly node: number; readonly input: number }[];
}

/** What to cut from which parameter: uses of one parameter that keep the same slices share one cut. */
function cutsOf(bindings: readonly Binding[], isRemoved: (label: number) => boolean): Cut[] {
  const byUse = new Map<string, { binding: Binding; axes: Map<number, number[]> }>();
  for (const binding of bindings) {
    const kept = keptIndices(binding.labels, isRemoved);
    if (kept.length === binding.labels.length) continue;
    const key = `${binding.node}:${binding.input}`;
    const use = byUse.get(key) ?? { binding, axes: new Map() };
    use.axes.set(binding.axis, kept);
    byUse.set(key, use);
  }
  const cuts = new Map<
    string,
    { parameter: string; tensor: Tensor; cuts: Cut['cuts']; users: { node: number; input: number }[] }
  >();
  for (const { binding, axes } of byUse.values()) {
    const ordered = [...axes].sort(([a], [b]) => a - b).map(([axis, kept]) => ({ axis, kept }));
    const key = `${binding.parameter}\n${JSON.stringify(ordered)}`;
    const user = { node: binding.node, input: binding.input };
    const cut = cuts.get(key);
    if (cut === undefined)
      cuts.set(key, { parameter: binding.parameter, tensor: binding.tensor, cuts: ordered, users: [user] });
    else cut.users.push(user);
  }
  return [...cuts.values()];
}

function keptIndices(labels: Int32Array, isRemoved: (label: number) => boolean): number[] {
  const kept: number[] = [];
  for (let i = 0; i < labels.length; i++) if (labels[i]! < 0 || !isRemoved(labels[i]!)) kept.push(i);
  return kept;
}

/** How often each value is used: by inputs of nodes, inside subgraphs, as an output of the graph. */
function countUses({ graph }: Model): Map<string, number> {
  const uses = new Map<string, number>();
  const add = (name: string) => uses.set(name, (uses.get(name) ?? 0) + 1);
  for (const node of graph.nodes) {
    node.inputs.forEach(add);
    subgraphUses(node).forEach(add);
  }
  for (const output of graph.outputs) add(output.name);
  return uses;
}

/** Every name that a value of the graph has, or may have inside a subgraph. */
export function takenNames({ graph }: Model): Set<string> {
  const taken = new Set([...graph.initializers.keys(), ...graph.inputs.map((input) => input.name)]);
  const addNode = (node: Node) => {
    for (const output of node.outputs) taken.add(output);
    for (const name of subgraphUses(node)) taken.add(name);
  };
  graph.nodes.forEach(addNode);
  return taken;
}

/** The hint, with a number behind it where it is taken; the name is taken from then on. */
export function freshName(hint: string, taken: Set<string>): string {
  let name = hint;
  for (let count = 1; taken.has(name); count++) name = `${hint}_${count}`;
  taken.add(name);
  return name;
}
