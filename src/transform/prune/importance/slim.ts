import { BonsaiError } from '../../../base/errors.ts';
import type { Model } from '../../../graph/model.ts';
import {
  type Criterion,
  type GroupOptions,
  isScale,
  type MemberScore,
  memberCriterion,
  weightsOf,
} from './criterion.ts';
import { l1OfMember } from './norm.ts';

/**
 * Network slimming: |γ| of the BatchNormalization that a channel passes. It means something where γ was trained to be
 * sparse (the recipe's `scaleL1`); a layer that a scale-invariant one follows can otherwise have any γ. A group whose
 * channels pass no BatchNormalization (the hidden layer of a gate) is scored by L1 instead.
 * Source: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming".
 * @throws BonsaiError `unsupported` for a network without BatchNormalization
 */
export function slimCriterion(model: Model, options: GroupOptions = {}): Criterion {
  requireBatchNorm(model, 'slim', 'l1 or fpgm');
  return memberCriterion('slim', scaleOfMember, options, l1OfMember);
}

const scaleOfMember: MemberScore = (member, channels) => {
  if (!isScale(member)) return undefined;
  const gamma = weightsOf(member);
  const scores = new Float64Array(channels);
  for (const [i, unit] of member.units.entries()) scores[unit]! += Math.abs(gamma[member.indices[i]!]!);
  return scores;
};

/** @throws BonsaiError `unsupported` for a network without BatchNormalization, naming what else to use */
export function requireBatchNorm(model: Model, criterion: string, instead: string): void {
  if (model.graph.nodes.some((node) => node.opType === 'BatchNormalization')) return;
  throw new BonsaiError(
    'unsupported',
    `The criterion "${criterion}" reads the scales of BatchNormalization, and the network has none: its exporter ` +
      `folded them into the convolutions. Export in training form (unfolded), or use ${instead}.`,
  );
}
