import type { Tensor } from '../../base/tensor.ts';
import type { Model } from '../../graph/model.ts';
import { nameOf, type Propagation, propagateLabels } from './labels.ts';

/**
 * The dependency groups of a network: sets of channels that the same producers make together and that can therefore
 * be ranked against each other. Source: DepGraph (Fang et al. 2023), by the label propagation of PRUNING.md section 3.
 * @returns the groups in the order of their first channel, and what cannot be pruned, with the reason
 */
export function dependencyGroups(model: Model): DependencyGroups {
  return groupsOf(propagateLabels(model));
}

/** The same from a propagation that is already there. */
export function groupsOf(propagation: Propagation): DependencyGroups {
  const { model, roots, producers, frozen, bindings } = propagation;
  const { nodes } = model.graph;

  const producersOfUnit = new Map<number, Set<number>>();
  for (let label = 0; label < roots.length; label++) {
    const root = roots[label]!;
    const set = producersOfUnit.get(root) ?? new Set();
    set.add(producers[label]!);
    producersOfUnit.set(root, set);
  }

  const drafts = new Map<string, { producers: number[]; units: number[]; members: Member[] }>();
  const place = new Map<number, { draft: { members: Member[] }; position: number }>();
  const stuck = new Map<string, FrozenProducer>();
  // Map keeps the order of insertion, which is that of the smallest labels.
  for (const [root, set] of producersOfUnit) {
    const indices = [...set].sort((a, b) => a - b);
    const freeze = frozen.get(root);
    if (freeze !== undefined) {
      for (const index of indices) {
        const node = nameOf(nodes[index]!);
        const reason = `${freeze.node}: ${freeze.reason}`;
        stuck.set(`${node}\n${reason}`, { node, reason });
      }
      continue;
    }
    const key = indices.join();
    const draft = drafts.get(key) ?? { producers: indices, units: [], members: [] };
    place.set(root, { draft, position: draft.units.length });
    draft.units.push(root);
    drafts.set(key, draft);
  }

  for (const binding of bindings) {
    const touched = new Map<object, { members: Member[]; indices: number[]; units: number[] }>();
    for (let i = 0; i < binding.labels.length; i++) {
      const label = binding.labels[i]!;
      const at = label < 0 ? undefined : place.get(roots[label]!);
      if (at === undefined) continue;
      const slices = touched.get(at.draft) ?? { members: at.draft.members, indices: [], units: [] };
      slices.indices.push(i);
      slices.units.push(at.position);
      touched.set(at.draft, slices);
    }
    const node = nodes[binding.node]!;
    for (const { members, indices, units } of touched.values()) {
      members.push({
        node: nameOf(node),
        opType: node.opType,
        input: binding.input,
        parameter: binding.parameter,
        tensor: binding.tensor,
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
  }));
  return { groups, frozen: [...stuck.values()] };
}

export interface DependencyGroups {
  readonly groups: readonly Group[];
  readonly frozen: readonly FrozenProducer[];
}

export interface FrozenProducer {
  /** A node that makes channels. */
  readonly node: string;
  /** Why (some of) them must stay: what they meet, and its reason. */
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
}

/** The part of a parameter that belongs to a group. */
export interface Member {
  readonly node: string;
  readonly opType: string;
  readonly input: number;
  readonly parameter: string;
  readonly tensor: Tensor;
  readonly axis: number;
  /** 'in': the channels are consumed here; 'out': they are made here or flow through. */
  readonly direction: 'in' | 'out';
  /** Slices along `axis`, and for each the channel of the group (a position in `units`) that it belongs to. */
  readonly indices: Int32Array;
  readonly units: Int32Array;
}
