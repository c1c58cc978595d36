import { BonsaiError } from '../../base/errors.ts';
import { elementsOf } from '../../base/tensor.ts';
import type { Group, Member } from './groups.ts';

/**
 * Scores the channels of a group; the lowest go first. Criteria that need more than the weights (gradients,
 * activations) gather it beforehand and close over it.
 */
export interface Criterion {
  readonly name: string;
  /** @returns one score ≥ 0 for each channel of the group, on a scale that compares between groups */
  scores(group: Group): Float64Array;
}

/** Names of the criteria that need nothing but the weights. */
export const NORM_CRITERIA = ['l1', 'l2'] as const;
export type NormName = (typeof NORM_CRITERIA)[number];

export interface NormOptions {
  /** Which slices count: those that make the channel, or also those that consume it. Default 'out+in', as Torch-Pruning. */
  readonly slices?: 'out' | 'out+in';
  /** How the scores of a group's members become one. Default 'mean'. */
  readonly reduce?: 'mean' | 'sum' | 'max';
}

/**
 * The p-norm of a channel's weights: for every member of the group that weighs the channel (kernels, and BatchNorm's
 * scale), the norm over the channel's slices in it; reduced over members; divided by the group's mean, so that
 * groups of different scale compare. Source: PRUNING.md section 1.
 * @throws BonsaiError `unsupported` for weights that are not float32 or float64
 */
export function normCriterion(name: NormName, options: NormOptions = {}): Criterion {
  const { slices = 'out+in', reduce = 'mean' } = options;
  return {
    name,
    scores(group) {
      const counted = group.members.filter((member) => slices === 'out+in' || member.direction === 'out');
      const weights = counted.filter(isWeight);
      const scores = new Float64Array(group.channels);
      const members = weights.length > 0 ? weights : counted;
      for (const member of members) {
        const norms = channelNorms(member, group.channels, name);
        for (let unit = 0; unit < scores.length; unit++) {
          scores[unit] =
            reduce === 'max' ? Math.max(scores[unit]!, norms[unit]!) : scores[unit]! + norms[unit]!;
        }
      }
      if (reduce === 'mean')
        for (let unit = 0; unit < scores.length; unit++) scores[unit]! /= Math.max(1, members.length);
      return dividedByMean(scores);
    },
  };
}

/** The input of BatchNormalization that scales a channel; its bias and statistics say nothing about importance. */
const BATCH_NORM_SCALE_INPUT = 1;

function isWeight(member: Member): boolean {
  if (member.opType === 'BatchNormalization') return member.input === BATCH_NORM_SCALE_INPUT;
  return member.tensor.shape.filter((size) => size > 1).length > 1;
}

/** For each channel, the norm over all the slices of a member that belong to it (after Flatten a channel has many). */
function channelNorms(member: Member, channels: number, norm: NormName): Float64Array {
  const { tensor, axis } = member;
  if (tensor.dtype !== 'float32' && tensor.dtype !== 'float64') {
    throw new BonsaiError(
      'unsupported',
      `Cannot score "${member.parameter}" of ${member.node}: its weights are ${tensor.dtype}. Prune before quantising.`,
    );
  }
  const data = elementsOf(tensor) as Float32Array | Float64Array; // Its dtype was just checked.
  const size = tensor.shape[axis]!;
  const inner = tensor.shape.slice(axis + 1).reduce((product, length) => product * length, 1);
  const outer = data.length / (size * inner);
  const sums = new Float64Array(channels);
  for (let i = 0; i < member.indices.length; i++) {
    let sum = 0;
    for (let block = 0; block < outer; block++) {
      const start = (block * size + member.indices[i]!) * inner;
      for (let at = start; at < start + inner; at++)
        sum += norm === 'l1' ? Math.abs(data[at]!) : data[at]! * data[at]!;
    }
    sums[member.units[i]!]! += sum;
  }
  return norm === 'l1' ? sums : sums.map(Math.sqrt);
}

function dividedByMean(scores: Float64Array): Float64Array {
  const mean = scores.reduce((sum, score) => sum + score, 0) / Math.max(1, scores.length);
  return mean > 0 ? scores.map((score) => score / mean) : scores;
}
