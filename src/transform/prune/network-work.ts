import { elementCount } from '../../base/tensor.ts';
import { intAttribute } from '../../graph/attributes.ts';
import type { Node, Shape } from '../../graph/model.ts';
import { countedShapes, UncountedError } from '../../ops/count.ts';
import { knownShape } from '../../ops/dims.ts';
import { inferTypes } from '../../ops/infer.ts';
import type { Labels } from '../../ops/op.ts';
import { parametersOf } from '../../ops/parameters.ts';
import { recordFor } from '../../ops/table.ts';
import type { Ranking } from './allocate.ts';
import type { Group } from './groups.ts';
import { labelsOf, type Propagation } from './labels.ts';

/**
 * The work of every node and the size of every parameter as functions of how many channels each group keeps, so that
 * a search need not prune to know what pruning would give. Since channels go in a known order, the number that a group
 * keeps tells which they are, and so how many positions of every axis stay: those that no group owns, and of each group
 * those of whose channels at least one stays.
 * @param rankings the order in which each group's channels go
 * @param inputs shapes to count at; an open batch is 1
 * @throws InvalidArgumentError for given shapes that no input can have
 */
export function networkWork(
  propagation: Propagation,
  groups: readonly Group[],
  rankings: readonly Ranking[],
  inputs: Readonly<Record<string, Shape>> = {},
): NetworkWork {
  const { model, roots, bindings, quantized } = propagation;
  const { graph } = model;
  const counted = countedShapes(graph, inputs);
  const { types } = inferTypes(model, { inputs: counted });

  // The group of each class, and when it goes: first 0, last channels - 1.
  const placeOfRoot = new Map<number, Place>();
  for (const [index, { units, channels }] of groups.entries()) {
    const { order } = rankings[index]!;
    for (let turn = 0; turn < channels; turn++) placeOfRoot.set(units[order[turn]!]!, { group: index, turn });
  }
  const placeOf = (label: number) => (label < 0 ? undefined : placeOfRoot.get(roots[label]!));

  /** When position `at` of an axis goes: with the last of its channels, never if they are of several groups. */
  const placeAt = (labels: Labels, axis: number, at: number): Place | undefined => {
    const inner = labels.shape.slice(axis + 1).reduce((product, size) => product * size, 1);
    const size = labels.shape[axis]!;
    let last: Place | undefined;
    for (let start = at * inner; start < labels.data.length; start += size * inner) {
      for (let i = start; i < start + inner; i++) {
        const place = placeOf(labels.data[i]!);
        if (place === undefined || (last !== undefined && last.group !== place.group)) return undefined;
        if (last === undefined || place.turn > last.turn) last = place;
      }
    }
    return last;
  };

  const widthAlong = (size: number, places: Iterable<Place | undefined>): Width => {
    const turns = new Map<number, Uint32Array>();
    let constant = size;
    for (const place of places) {
      if (place === undefined) continue;
      const { channels } = groups[place.group]!;
      const staying = turns.get(place.group) ?? new Uint32Array(channels + 1);
      // Stays as long as more channels are kept than went after it.
      staying[channels - place.turn]!++;
      turns.set(place.group, staying);
      constant--;
    }
    const terms = [...turns].map(([group, staying]) => {
      for (let kept = 1; kept < staying.length; kept++) staying[kept]! += staying[kept - 1]!;
      return { group, staying };
    });
    return { constant, terms };
  };

  const widths = new Map<string, readonly Width[] | undefined>();
  const widthsOf = (name: string): readonly Width[] | undefined => {
    if (widths.has(name)) return widths.get(name);
    const shape = knownShape(types.get(name)?.shape);
    const made = shape?.map((size, axis) => {
      // Labels broadcast to the value from the right; along an axis of size 1 they do not depend on the position.
      const ownAxis = (labels: Labels) => axis - (shape.length - labels.shape.length);
      const labels = labelsOf(propagation, name).find(
        (each) =>
          ownAxis(each) >= 0 && each.shape[ownAxis(each)] !== 1 && size % each.shape[ownAxis(each)]! === 0,
      );
      if (labels === undefined) return { constant: size, terms: [] };
      const own = ownAxis(labels);
      // Along an axis that the file merges with open sizes each label stands for as many positions; which, is all the same.
      const count = labels.shape[own]!;
      return widthAlong(
        size,
        Array.from({ length: size }, (_, at) => placeAt(labels, own, at % count)),
      );
    });
    widths.set(name, made);
    return made;
  };

  const uses = new Map<string, number>();
  for (const node of graph.nodes) {
    for (const name of new Set(node.inputs)) uses.set(name, (uses.get(name) ?? 0) + 1);
  }
  const bound = new Map<string, Width[]>();
  const needs = new Map<string, { node: number; parameter: string; shape: Width[]; slices: string[] }>();
  for (const { node, input, parameter, tensor, axis, labels } of bindings) {
    const use = `${node}:${input}`;
    const need = needs.get(use) ?? {
      node,
      parameter,
      shape: tensor.shape.map((size): Width => ({ constant: size, terms: [] })),
      slices: tensor.shape.map(() => ''),
    };
    need.shape[axis] = widthAlong(tensor.shape[axis]!, Array.from(labels, placeOf));
    need.slices[axis] = Array.from(labels, (label) => (label < 0 ? label : roots[label]!)).join();
    needs.set(use, need);
    bound.set(use, need.shape);
  }
  // A parameter has one version for each way in which the nodes that share it need it, all axes together.
  const versions = new Map<string, Map<string, { shape: Width[]; nodes: Set<number> }>>();
  for (const { node, parameter, shape, slices } of needs.values()) {
    const known = versions.get(parameter) ?? new Map<string, { shape: Width[]; nodes: Set<number> }>();
    const key = slices.join(';');
    const version = known.get(key) ?? { shape, nodes: new Set() };
    version.nodes.add(node);
    versions.set(parameter, known.set(key, version));
  }

  const nodes = graph.nodes.map((node, index): NodeWork => {
    const ins = node.inputs.map((name, input) => bound.get(`${index}:${input}`) ?? widthsOf(name));
    const outs = node.outputs.filter((name) => name !== '').map(widthsOf);
    const cost = recordFor(node)?.cost;
    const flows = [
      ...node.inputs.filter((name) => !graph.initializers.has(name)).map(widthsOf),
      ...outs,
    ].filter((shape) => shape !== undefined);
    return {
      output: node.outputs[0] ?? '',
      groups: groupsIn([...ins, ...outs]),
      macs(kept) {
        if (cost === undefined) return 0;
        if (outs.includes(undefined))
          throw new UncountedError(node, 'has an output of unknown size', counted);
        return cost({
          node,
          inputs: ins.map((shape) => shape && sizesAt(shape, kept)),
          outputs: outs.map((shape) => sizesAt(shape ?? [], kept)),
        }).macs;
      },
      elements: (kept) => flows.reduce((sum, shape) => sum + elementCount(sizesAt(shape, kept)), 0),
      ...filtersOf(node, outs[0]),
    };
  });

  // What nodes bind of a weight in integers is the value that DequantizeLinear makes of it.
  const floatsOf = new Map<string, string[]>();
  for (const [value, { node }] of quantized) {
    const stored = graph.nodes[node]!.inputs[0]!;
    floatsOf.set(stored, [...(floatsOf.get(stored) ?? []), value]);
  }

  const parameters: WorkItem[] = [];
  for (const name of parametersOf(graph)) {
    const floats = floatsOf.get(name) ?? [];
    const names = [name, ...floats];
    const known = [...new Map(names.flatMap((value) => [...(versions.get(value) ?? [])])).values()];
    const whole = elementCount(graph.initializers.get(name)!.shape);
    const binding = (value: string) => [...(versions.get(value)?.values() ?? [])].map(({ nodes }) => nodes);
    const users = new Set(names.flatMap(binding).flatMap((nodes) => [...nodes])).size;
    const total = names.reduce((sum, value) => sum + (uses.get(value) ?? 0), -floats.length);
    const isNeededWhole = users < total || known.length === 0;
    parameters.push({
      groups: groupsIn(known.map((version) => version.shape)),
      amount(kept) {
        let cut = 0;
        let isUncut = isNeededWhole;
        for (const version of known) {
          const left = elementCount(sizesAt(version.shape, kept));
          if (left === whole) isUncut = true;
          else cut += left;
        }
        return cut + (isUncut ? whole : 0);
      },
    });
  }
  return { nodes, parameters };
}

export interface NetworkWork {
  /** In the order of the graph's nodes. */
  readonly nodes: readonly NodeWork[];
  /** Elements of each parameter that counts as one. */
  readonly parameters: readonly WorkItem[];
}

/** Channels that each group keeps, by the group's position. */
export type Kept = ArrayLike<number>;

export interface WorkItem {
  /** Positions of the groups on which the amount depends. */
  readonly groups: readonly number[];
  amount(kept: Kept): number;
}

export interface NodeWork {
  /** The node's first output, which names it across versions of the network. */
  readonly output: string;
  readonly groups: readonly number[];
  /** Multiply-accumulates. @throws BonsaiError `unsupported` where the shapes around the node are unknown */
  macs(kept: Kept): number;
  /** Elements of activations that it reads and writes. */
  elements(kept: Kept): number;
  /** Output channels of a convolution in which each of them sees all input channels; absent for other nodes. */
  filters?(kept: Kept): number;
}

/** The work of the nodes that multiply, as items of a search. */
export function macItems(work: NetworkWork, whole: Kept): WorkItem[] {
  return whatMultiplies(work, whole).map(({ groups, macs }) => ({ groups, amount: macs }));
}

/** The nodes that multiply; engines fuse most of the others into them. */
export function whatMultiplies(work: NetworkWork, whole: Kept): NodeWork[] {
  return work.nodes.filter((node) => node.macs(whole) > 0);
}

function filtersOf(node: Node, output: readonly Width[] | undefined): Pick<NodeWork, 'filters'> {
  const channels = output?.[1];
  if (node.opType !== 'Conv' || intAttribute(node, 'group', 1) !== 1 || channels === undefined) return {};
  return { filters: (kept) => sizesAt([channels], kept)[0]! };
}

/** When a channel, or a position that it owns, goes: as the how-manieth of which group. */
interface Place {
  readonly group: number;
  readonly turn: number;
}

interface Width {
  /** Positions that always stay. */
  readonly constant: number;
  /** Of each group's positions, how many stay when it keeps 0, 1, 2 … channels. */
  readonly terms: readonly { readonly group: number; readonly staying: Uint32Array }[];
}

function sizesAt(widths: readonly Width[], kept: Kept): number[] {
  return widths.map(({ constant, terms }) => {
    let size = constant;
    for (const { group, staying } of terms) size += staying[kept[group]!]!;
    return size;
  });
}

function groupsIn(shapes: readonly (readonly Width[] | undefined)[]): number[] {
  return [
    ...new Set(
      shapes.flatMap((shape) => (shape ?? []).flatMap(({ terms }) => terms.map(({ group }) => group))),
    ),
  ];
}
