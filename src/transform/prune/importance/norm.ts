import {
  type Criterion,
  type GroupOptions,
  type MemberScore,
  memberCriterion,
  sumByChannel,
  weightsOf,
} from './criterion.ts';

/**
 * L1: the sum of |w| over a channel's slices of a member. Source: Li et al. 2017, "Pruning Filters for Efficient
 * ConvNets".
 */
export function l1Criterion(options: GroupOptions = {}): Criterion {
  return memberCriterion('l1', l1OfMember, options);
}

/**
 * L2: the root of the sum of w² over a channel's slices of a member. The root matters once several members are
 * reduced: squares would let one large member decide.
 */
export function l2Criterion(options: GroupOptions = {}): Criterion {
  return memberCriterion('l2', l2OfMember, options);
}

export const l1OfMember: MemberScore = (member, channels) =>
  sumByChannel(member, channels, weightsOf(member), 'magnitude');

const l2OfMember: MemberScore = (member, channels) =>
  sumByChannel(member, channels, weightsOf(member), 'square').map(Math.sqrt);
