import { BonsaiError } from '../../../base/errors.ts';
import { elementsOf } from '../../../base/tensor.ts';
import { floatAttribute } from '../../../graph/attributes.ts';
import { GraphBuilder } from '../../../graph/build.ts';
import { type Model, type Node, opsetOf, withGraph } from '../../../graph/model.ts';
import { removeUnused } from '../../../graph/walk.ts';
import type { Labels } from '../../../ops/op.ts';
import type { Group } from '../groups.ts';
import { groupsOf } from '../groups.ts';
import { labelsOf, nameOf, type Propagation } from '../labels.ts';
import { type Criterion, checkedOptions, type GroupOptions, normalised, reduced } from './criterion.ts';

/** 'apoz': share of values that are not 0; 'mean-activation': mean of |a|. Both over examples and positions. */
export type ActivationCriterionName = 'apoz' | 'mean-activation';

/** What is averaged: [a ≠ 0], |a|, or a itself. */
export type ActivationMean = ActivationCriterionName | 'value';

/** A value of the network at which channels are measured, behind their activation function. */
export interface ActivationSite {
  /** The value's name, with a mark where the labels are those that cross its channels. */
  readonly key: string;
  readonly value: string;
  readonly labels: Labels;
  /** Whether what makes the value gives exact zeros (Relu does, SiLU does not). */
  readonly hasZeros: boolean;
}

/**
 * Scores channels by what they put out: APoZ as 1 − (share of zeros), or the mean of |a|. A channel that is mostly 0
 * says little. Source: Hu et al. 2016, "Network Trimming".
 *
 * It is measured where the next layers read: from each kernel that consumes the channels back over pooling, Concat
 * and other movement to what computed the value. For Conv → BatchNormalization → Relu that is the output of Relu.
 * @param means for each measured value, the mean at each position of its labels (`withActivationMeans`)
 * @throws BonsaiError `unsupported` for APoZ when scoring a group behind which values have no exact zeros
 */
export function activationCriterion(
  name: ActivationCriterionName,
  propagation: Propagation,
  means: ReadonlyMap<string, Float64Array>,
  options: GroupOptions = {},
): Criterion {
  const { reduce, normalise } = checkedOptions(options);
  const sites = activationSites(propagation);
  return {
    name,
    scores(group) {
      const parts = (sites.get(group.key) ?? []).flatMap((site) => {
        const values = means.get(site.key);
        if (values === undefined) return [];
        if (name === 'apoz' && !site.hasZeros) throw noZeros(group, site.value);
        return [byUnit(group, propagation, site.labels, values)];
      });
      if (parts.length === 0) {
        throw new BonsaiError(
          'unsupported',
          `The criterion "${name}" has no measurement of the channels of ${group.producers.join(', ')}: no layer ` +
            'reads them through a kernel. Use a criterion of the weights, such as l2.',
        );
      }
      return normalised(reduced(parts, group.channels, reduce), normalise);
    },
  };
}

/** The values at which each group's channels are measured, by the group's key. */
export function activationSites(propagation: Propagation): Map<string, ActivationSite[]> {
  const { model, crossing } = propagation;
  const { nodes } = model.graph;
  const makers = new Map<string, Node>();
  for (const node of nodes) for (const output of node.outputs) if (output !== '') makers.set(output, node);
  const byName = new Map(nodes.map((node) => [nameOf(node), node]));

  const sites = new Map<string, ActivationSite[]>();
  for (const group of groupsOf(propagation).groups) {
    const units = new Set(group.units);
    const found = new Map<string, ActivationSite>();
    const isOurs = (labels: Labels) =>
      labels.data.some((label) => label >= 0 && units.has(propagation.roots[label]!));
    const seen = new Set<string>();
    const visit = (value: string) => {
      if (seen.has(value)) return;
      seen.add(value);
      const labels = labelsOf(propagation, value).find(isOurs);
      const maker = makers.get(value);
      if (labels === undefined || maker === undefined) return;
      const key = labels === crossing.get(value) ? `${value}/crossing` : value;
      if (MOVEMENT.has(maker.opType)) maker.inputs.forEach(visit);
      else found.set(key, { key, value, labels, hasZeros: hasZeros(model, makers, maker) });
    };
    for (const member of group.members) {
      if (member.direction === 'in') byName.get(member.node)?.inputs.forEach(visit);
    }
    sites.set(group.key, [...found.values()]);
  }
  return sites;
}

/**
 * The network with one more output for each site, `means/<key>`: the mean over all axes along which the channel does
 * not change, of [a ≠ 0], |a| or a, with the shape of the site's labels. What only the old outputs need is dropped.
 * @throws BonsaiError `unsupported` for opsets below 6
 */
export function withActivationMeans(
  model: Model,
  name: ActivationMean,
  sites: Iterable<Pick<ActivationSite, 'key' | 'value' | 'labels'>>,
): { readonly model: Model; readonly outputs: ReadonlyMap<string, string> } {
  const opset = opsetOf(model) ?? 1;
  if (opset < FIRST_OPSET) {
    throw new BonsaiError(
      'unsupported',
      `Measuring activations needs opset ${FIRST_OPSET} or later, the network is of opset ${opset}. Convert it first.`,
    );
  }
  const build = new GraphBuilder(model.graph.name, { ...model.graph, outputs: [] });
  const outputs = new Map<string, string>();
  for (const { key, value, labels } of sites) {
    if (outputs.has(key)) continue;
    const measured =
      name === 'apoz'
        ? build.op('Cast', [build.op('Cast', [value], { to: ONNX_BOOL })], { to: ONNX_FLOAT })
        : name === 'value'
          ? value
          : build.op('Abs', [value]);
    const axes = labels.shape.flatMap((size, axis) => (size === 1 ? [axis] : []));
    const output = `means/${key}`;
    if (axes.length === 0) build.op('Identity', [measured], {}, { outputs: [output] });
    else if (opset >= REDUCE_AXES_INPUT_OPSET) {
      build.op('ReduceMean', [measured, build.ints(axes)], { keepdims: 1 }, { outputs: [output] });
    } else build.op('ReduceMean', [measured], { axes, keepdims: 1 }, { outputs: [output] });
    build.output(output, 'float32', labels.shape);
    outputs.set(key, output);
  }
  return { model: withGraph(model, removeUnused(build.finish())), outputs };
}

/** Before it, Cast named its type in words. */
export const FIRST_OPSET = 6;
/** From it on, ReduceMean takes its axes as an input. */
const REDUCE_AXES_INPUT_OPSET = 18;
/** TensorProto.DataType. */
const ONNX_FLOAT = 1;
const ONNX_BOOL = 9;

/** Operators that only move, repeat or pool what another computed: APoZ behind a pooling would miss most zeros. */
const MOVEMENT: ReadonlySet<string> = new Set([
  'AveragePool',
  'Cast',
  'Concat',
  'DepthToSpace',
  'Dropout',
  'Expand',
  'Flatten',
  'Gather',
  'GlobalAveragePool',
  'GlobalMaxPool',
  'Identity',
  'MaxPool',
  'Pad',
  'ReduceMean',
  'Reshape',
  'Resize',
  'Slice',
  'SpaceToDepth',
  'Split',
  'Squeeze',
  'Tile',
  'Transpose',
  'Unsqueeze',
  'Upsample',
]);

function hasZeros(model: Model, makers: ReadonlyMap<string, Node>, node: Node): boolean {
  switch (node.opType) {
    case 'Relu':
    case 'ThresholdedRelu':
      return true;
    case 'Clip': {
      const bound = model.graph.initializers.get(node.inputs[1] ?? '');
      const low =
        bound === undefined
          ? floatAttribute(node, 'min', Number.NEGATIVE_INFINITY)
          : Number(elementsOf(bound)[0]);
      return low === 0;
    }
    // A gate keeps the zeros of what it scales; pooling and Concat those of their inputs.
    default:
      if (node.opType !== 'Mul' && !MOVEMENT.has(node.opType)) return false;
      return node.inputs.some((input) => {
        const maker = makers.get(input);
        return maker !== undefined && maker !== node && hasZeros(model, makers, maker);
      });
  }
}

/** The mean of a site's values over the positions that belong to each channel of the group. */
function byUnit(group: Group, propagation: Propagation, labels: Labels, values: Float64Array): Float64Array {
  const place = new Map<number, number>();
  for (const [position, unit] of group.units.entries()) place.set(unit, position);
  const sums = new Float64Array(group.channels);
  const counts = new Float64Array(group.channels);
  for (const [i, label] of labels.data.entries()) {
    const unit = label < 0 ? undefined : place.get(propagation.roots[label]!);
    if (unit === undefined) continue;
    sums[unit]! += values[i]!;
    counts[unit]!++;
  }
  return sums.map((sum, unit) => sum / Math.max(1, counts[unit]!));
}

function noZeros(group: Group, value: string): BonsaiError {
  return new BonsaiError(
    'unsupported',
    `The criterion "apoz" counts exact zeros, and "${value}", where the channels of ${group.producers.join(', ')} are ` +
      'read, is not made by an activation function that has them (Relu, Relu6). Use mean-activation.',
  );
}
