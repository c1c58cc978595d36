import type { DType } from '../../base/dtype.ts';
import { checkIsModel, checkOptionNames } from '../../base/options.ts';
import { elementCount } from '../../base/tensor.ts';
import { checkModel } from '../../graph/check.ts';
import { type Model, opsetOf, type Shape, type ValueInfo } from '../../graph/model.ts';
import { countParameters, tryCountCost } from '../../ops/count.ts';
import { parametersOf } from '../../ops/parameters.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { type Coupling, type FrozenProducer, type Group, groupsOf, type Member } from './groups.ts';
import { labelsOf, nameOf, type PropagateOptions, type Propagation, propagateLabels } from './labels.ts';

/**
 * What there is to know of a network before pruning it: its interface, where its work lies, which channels live and die
 * together and why, what has to stay and why, and how much of it all can be pruned.
 * Shape arithmetic is folded first, as pruning does.
 * @throws InvalidArgumentError for what is no network, options that do not exist, and shapes that no input can have
 * @throws InvalidGraphError for a graph that is none (cycles, values that nobody makes)
 * @throws ShapeError where an operator does not admit its inputs
 */
export function inspect(model: Model, options: InspectOptions = {}): Inspection {
  checkIsModel('inspect', model);
  checkOptionNames('inspect', options, ['attention', 'inputs'], {
    example: '{ inputs: { image: [1, 3, 224, 224] } }',
  });
  checkModel(model);
  const folded = foldConstants(model);
  const propagation = propagateLabels(folded, options);
  const { groups, frozen } = groupsOf(propagation);
  const work = workOf(folded, propagation, options.inputs);
  const parameters = countParameters(folded);
  return {
    producer: [model.producerName, model.producerVersion].filter((part) => part !== '').join(' '),
    opset: opsetOf(model),
    inputs: model.graph.inputs.map(inspectedValue),
    outputs: model.graph.outputs.map(inspectedValue),
    parameters,
    ...work,
    groups: groups.map(groupOf),
    frozen,
    prunable: {
      ...work.prunable,
      parametersRatio: parameters > 0 ? prunableParameters(propagation) / parameters : 0,
    },
  };
}

export interface InspectOptions extends PropagateOptions {
  /** Shapes to count at, by input name, where the file leaves more than the batch open. */
  readonly inputs?: Readonly<Record<string, Shape>>;
}

export interface Inspection {
  /** The exporter that the file names; '' where it names none. */
  readonly producer: string;
  /** Version of the standard operator set; undefined where the file imports none. */
  readonly opset: number | undefined;
  readonly inputs: readonly InspectedValue[];
  readonly outputs: readonly InspectedValue[];
  /** Trained values: elements of weights, biases and running statistics, in floating point or quantised. */
  readonly parameters: number;
  /** Multiply-accumulates of one inference (an open batch counts as 1); absent where `uncounted` says why. */
  readonly macs?: number;
  /** Why the multiply-accumulates are unknown. */
  readonly uncounted?: string;
  /** The nodes that multiply, most work first. */
  readonly nodes: readonly InspectedNode[];
  readonly groups: readonly InspectedGroup[];
  readonly frozen: readonly FrozenProducer[];
  readonly prunable: {
    /** Share of the work in nodes that have channels which can be pruned, in [0, 1]. */
    readonly macsRatio?: number;
    /** Share of the parameters in slices that belong to channels which can be pruned, in [0, 1]. */
    readonly parametersRatio: number;
  };
}

export interface InspectedValue {
  readonly name: string;
  readonly dtype?: DType;
  /** A size, the name of an open one, or null; absent: the rank is unknown. */
  readonly shape?: Shape;
}

export interface InspectedNode {
  readonly node: string;
  readonly opType: string;
  readonly macs: number;
  /** Of the network's multiply-accumulates, in [0, 1]. */
  readonly share: number;
  /** Whether channels that it makes or reads can be pruned. */
  readonly isPrunable: boolean;
}

export interface InspectedGroup extends Pick<Group, 'key' | 'producers' | 'channels' | 'inexact'> {
  /** Nodes that tie the channels together; empty where a single producer's channels stand alone. */
  readonly couplings: readonly Coupling[];
  readonly members: readonly InspectedMember[];
}

/** A parameter of which slices belong to a group. */
export interface InspectedMember
  extends Pick<Member, 'node' | 'opType' | 'parameter' | 'axis' | 'direction'> {
  /** The parameter's shape. */
  readonly shape: readonly number[];
  /** Slices along the axis that belong to the group. */
  readonly slices: number;
}

function inspectedValue({ name, type }: ValueInfo): InspectedValue {
  return { name, ...(type !== undefined && { dtype: type.dtype, shape: type.shape }) };
}

function groupOf({ key, producers, channels, couplings, members, inexact }: Group): InspectedGroup {
  return {
    key,
    producers,
    channels,
    couplings,
    members: members.map(({ node, opType, parameter, axis, direction, tensor, indices }) => ({
      node,
      opType,
      parameter,
      axis,
      direction,
      shape: tensor.shape,
      slices: indices.length,
    })),
    ...(inexact !== undefined && { inexact }),
  };
}

function workOf(
  model: Model,
  propagation: Propagation,
  inputs: InspectOptions['inputs'],
): Pick<Inspection, 'macs' | 'uncounted' | 'nodes'> & { prunable: { macsRatio?: number } } {
  const counted = tryCountCost(model, { inputs });
  if ('uncounted' in counted) return { uncounted: counted.uncounted, nodes: [], prunable: {} };
  const { macs, byNode } = counted;
  const isPrunable = prunableNodes(propagation);
  const nodes = [...byNode]
    .map(([index, own]) => {
      const node = model.graph.nodes[index]!;
      return {
        node: nameOf(node),
        opType: node.opType,
        macs: own,
        share: own / macs,
        isPrunable: isPrunable(index),
      };
    })
    .sort((a, b) => b.macs - a.macs);
  const prunable = nodes.reduce((sum, node) => sum + (node.isPrunable ? node.macs : 0), 0);
  return { macs, nodes, prunable: { macsRatio: macs > 0 ? prunable / macs : 0 } };
}

/** Whether a node makes, reads or hands on channels that can be pruned. */
function prunableNodes(propagation: Propagation): (index: number) => boolean {
  const { model, bindings, roots, frozen } = propagation;
  const isFree = (label: number) => label >= 0 && !frozen.has(roots[label]!);
  const bound = new Set(bindings.filter(({ labels }) => labels.some(isFree)).map(({ node }) => node));
  const carries = (name: string) => labelsOf(propagation, name).some(({ data }) => data.some(isFree));
  return (index) => {
    const { inputs, outputs } = model.graph.nodes[index]!;
    return bound.has(index) || inputs.some(carries) || outputs.some(carries);
  };
}

/** Elements in slices that can go, along whichever axis: of r rows of n and c columns of m, nm - (n - r)(m - c). */
function prunableParameters({ bindings, roots, frozen, model, quantized }: Propagation): number {
  const counted = parametersOf(model.graph);
  const stays = new Map<string, { elements: number; axes: Map<number, number> }>();
  for (const { parameter: bound, tensor, axis, labels } of bindings) {
    // Of a weight in integers, nodes bind what DequantizeLinear makes of it.
    const dequantize = model.graph.nodes[quantized.get(bound)?.node ?? -1];
    const parameter = dequantize?.inputs[0] ?? bound;
    if (!counted.has(parameter)) continue;
    const free = labels.reduce(
      (count, label) => count + (label >= 0 && !frozen.has(roots[label]!) ? 1 : 0),
      0,
    );
    const entry = stays.get(parameter) ?? { elements: elementCount(tensor.shape), axes: new Map() };
    const ratio = 1 - free / Math.max(1, labels.length);
    entry.axes.set(axis, Math.min(ratio, entry.axes.get(axis) ?? 1));
    stays.set(parameter, entry);
  }
  let prunable = 0;
  for (const { elements, axes } of stays.values()) {
    prunable += elements * (1 - [...axes.values()].reduce((product, ratio) => product * ratio, 1));
  }
  return prunable;
}
