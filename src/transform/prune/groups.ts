import { BonsaiError } from '../../base/errors.ts';
import type { Tensor } from '../../base/tensor.ts';
import type { Model } from '../../graph/model.ts';
import { computesOnIntegers } from '../../ops/parameters.ts';
import { recordFor } from '../../ops/table.ts';
import { nameOf, type Propagation, propagateLabels } from './labels.ts';

/**
 * The dependency groups of a network: sets of channels that the same producers make together and that can therefore
 * be ranked against each other. Source: DepGraph (Fang et al. 2023), by the label propagation of PRUNING.md section 3.
 * @returns the groups in the order of their first channel (behind them those that cross others' channels), and what cannot be pruned, with the reason
 */
export function dependencyGroups(model: Model): DependencyGroups {
  return groupsOf(propagateLabels(model));
}

/** The same from a propagation that is already there. */
export function groupsOf(propagation: Propagation): DependencyGroups {
  const { model, roots, producers, frozen, inexact, unions, bindings } = propagation;
  const { nodes } = model.graph;

  // Plain arrays by class: large networks have tens of thousands of channels.
  const producersOfClass: number[][] = [];
  for (let label = 0; label < roots.length; label++) {
    // Labels are numbered in graph order, so that a class meets its producers in that order.
    const own = producersOfClass[roots[label]!];
    if (own === undefined) producersOfClass[roots[label]!] = [producers[label]!];
    else if (own.at(-1) !== producers[label]) own.push(producers[label]!);
  }

  const drafts = new Map<string, Draft>();
  const draftOf: (Draft | undefined)[] = [];
  const positionOf = new Int32Array(roots.length);
  const stuck = new Map<string, FrozenProducer>();
  for (const { node, reason } of [...withoutRule(propagation), ...withoutWeight(propagation)])
    stuck.set(`${node}\n${reason}`, { node, reason });
  const made = new Map<number, number>();
  for (const producer of producers) made.set(producer, (made.get(producer) ?? 0) + 1);
  for (let root = 0; root < roots.length; root++) {
    const indices = producersOfClass[root];
    if (indices === undefined) continue;
    const freeze = frozen.get(root);
    if (freeze !== undefined) {
      for (const index of indices) {
        const node = nameOf(nodes[index]!);
        const isSingle = indices.every((each) => made.get(each) === 1);
        const why = isSingle ? 'there is a single channel, which has to stay' : freeze.reason;
        // Channels may meet the same at several nodes, each some of them: the first stands for all.
        const key = `${node}\n${why}`;
        if (!stuck.has(key)) stuck.set(key, { node, reason: isSingle ? why : `${freeze.node}: ${why}` });
      }
      continue;
    }
    const key = indices.join();
    let draft = drafts.get(key);
    if (draft === undefined) {
      draft = { producers: indices, units: [], members: [], couplings: new Map() };
      drafts.set(key, draft);
    }
    draft.inexact ??= inexact.get(root);
    draftOf[root] = draft;
    positionOf[root] = draft.units.length;
    draft.units.push(root);
  }

  for (const { node, opType, weight, labels } of unions) {
    const coupling = { node, opType, ...(weight !== undefined && { weight }) };
    for (const draft of new Set(labels.map((label) => draftOf[roots[label]!]))) {
      draft?.couplings.set(`${node}\n${weight}`, coupling);
    }
  }

  for (const binding of bindings) {
    const touched = new Map<Draft, { indices: number[]; units: number[] }>();
    for (let i = 0; i < binding.labels.length; i++) {
      const label = binding.labels[i]!;
      const root = label < 0 ? -1 : roots[label]!;
      const draft = draftOf[root];
      if (draft === undefined) continue;
      let slices = touched.get(draft);
      if (slices === undefined) {
        slices = { indices: [], units: [] };
        touched.set(draft, slices);
      }
      slices.indices.push(i);
      slices.units.push(positionOf[root]!);
    }
    const node = nodes[binding.node]!;
    for (const [draft, { indices, units }] of touched) {
      draft.members.push({
        node: nameOf(node),
        opType: node.opType,
        input: binding.input,
        parameter: binding.parameter,
        tensor: binding.tensor,
        isInteger: propagation.quantized.has(binding.parameter),
        axis: binding.axis,
        direction: binding.consumes ? 'in' : 'out',
        indices: Int32Array.from(indices),
        units: Int32Array.from(units),
      });
    }
  }

  const groups = [...drafts.values()].map((draft) => ({
    key: draft.producers.map((index) => nodes[index]!.outputs[0]).join('+'),
    producers: draft.producers.map((index) => nameOf(nodes[index]!)),
    channels: draft.units.length,
    units: Int32Array.from(draft.units),
    members: draft.members,
    couplings: [...draft.couplings.values()],
    ...(draft.inexact !== undefined && { inexact: `${draft.inexact.node}: ${draft.inexact.reason}` }),
  }));
  return { groups, frozen: [...stuck.values()] };
}

/** Nodes that read weights, but of whose channels nothing is known. */
function withoutRule({ model: { graph } }: Propagation): FrozenProducer[] {
  const isWeight = (name: string) =>
    (graph.initializers.get(name)?.shape.filter((size) => size > 1).length ?? 0) > 1;
  return graph.nodes
    .filter((node) => recordFor(node)?.coupling === undefined && node.inputs.some(isWeight))
    .map((node) => {
      const advice = computesOnIntegers(node) ? '; prune the float network and quantise after' : '';
      return { node: nameOf(node), reason: `${node.opType} has no pruning rule${advice}` };
    });
}

/** Layers whose weights are fed with every inference, so that there is nothing to cut. */
function withoutWeight({ model: { graph } }: Propagation): FrozenProducer[] {
  const inputs = new Set(graph.inputs.map(({ name }) => name));
  return graph.nodes.flatMap((node) => {
    const weight = node.inputs[WEIGHT] ?? '';
    const isLayer = WEIGHTED.has(node.opType) && recordFor(node) !== undefined;
    if (!isLayer || !inputs.has(weight) || graph.initializers.has(weight)) return [];
    const reason = `its weight "${weight}" is an input of the graph and not stored in it; export the network with its parameters`;
    return [{ node: nameOf(node), reason }];
  });
}

/** Layers whose second input is a weight and nothing else. */
const WEIGHTED: ReadonlySet<string> = new Set(['Conv', 'ConvTranspose', 'Gemm']);
const WEIGHT = 1;

/** What there is to say of a network that has no groups. */
export function nothingToPrune(frozen: readonly FrozenProducer[]): BonsaiError {
  const reasons = frozen.map(({ node, reason }) => `${node} (${reason})`).join(', ');
  return new BonsaiError(
    'empty_group',
    `The network has no channels that can be pruned. Frozen: ${reasons || 'none'}.`,
  );
}

interface Draft {
  readonly producers: number[];
  readonly units: number[];
  readonly members: Member[];
  readonly couplings: Map<string, Coupling>;
  inexact?: FrozenProducer | undefined;
}

export interface DependencyGroups {
  readonly groups: readonly Group[];
  /** One entry for each layer and reason, wherever its channels meet it. */
  readonly frozen: readonly FrozenProducer[];
}

export interface FrozenProducer {
  /** A node that makes channels. */
  readonly node: string;
  /** Why (some of) them must stay: what they meet, and its reason; or what is special about the node itself. */
  readonly reason: string;
}

export interface Group {
  /** The first outputs of the producers, joined by '+': stays the same when the network is pruned. */
  readonly key: string;
  /** Names of the nodes that make these channels, in graph order. */
  readonly producers: readonly string[];
  readonly channels: number;
  /** The class (`Propagation.roots`) of each channel, ascending. */
  readonly units: Int32Array;
  readonly members: readonly Member[];
  /** The nodes that tie channels of this group together, in graph order; empty where one producer's channels stand alone. */
  readonly couplings: readonly Coupling[];
  /**
   * Why the pruned network is not the masked one, where what stays then computes something else (the mean over a
   * normalised axis): the node and its reason.
   */
  readonly inexact?: string;
}

/** Why channels live and die together. */
export interface Coupling {
  readonly node: string;
  readonly opType: string;
  /** The weight that several nodes share, where that is what ties their channels. */
  readonly weight?: string;
}

/** The part of a parameter that belongs to a group. */
export interface Member {
  readonly node: string;
  readonly opType: string;
  readonly input: number;
  readonly parameter: string;
  readonly tensor: Tensor;
  /** Whether the file holds integers, of which DequantizeLinear makes the parameter. */
  readonly isInteger: boolean;
  readonly axis: number;
  /** 'in': the channels are consumed here; 'out': they are made here or flow through. */
  readonly direction: 'in' | 'out';
  /** Slices along `axis`, and for each the channel of the group (a position in `units`) that it belongs to. */
  readonly indices: Int32Array;
  readonly units: Int32Array;
}
