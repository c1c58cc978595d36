import { BonsaiError } from '../../../base/errors.ts';
import type { Model } from '../../../graph/model.ts';
import type { Group } from '../groups.ts';
import {
  type Criterion,
  type GroupOptions,
  isScale,
  type MemberScore,
  memberCriterion,
  sumByChannel,
} from './criterion.ts';
import { requireBatchNorm } from './slim.ts';

/** For each parameter by name, one value per element (`squares`) or per channel (`gates`), added up over mini-batches. */
export type Accumulated = ReadonlyMap<string, Float64Array>;

/**
 * First-order Taylor expansion in the weights: Σ over a channel's weights of Σ over mini-batches of (g · w)², an
 * estimate of how the squared loss changes when the weight becomes 0.
 * Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", equation 8.
 * @param squares Σ over mini-batches of (g · w)², for every element of every trained parameter
 * @throws BonsaiError `unsupported` when scoring a group of which no parameter has a gradient
 */
export function taylorCriterion(squares: Accumulated, options: GroupOptions = {}): Criterion {
  return strict(memberCriterion('taylor', byElement(squares), options), squares);
}

/**
 * First-order Taylor expansion in a gate on each channel, behind its BatchNormalization: Σ over mini-batches of
 * (∂L/∂z)², where ∂L/∂z = Σ ∂L/∂y · y = γ·∂L/∂γ + β·∂L/∂β at z = 1. A group whose channels pass no BatchNormalization
 * is scored by the weights, as `taylorCriterion`. Source: Molchanov et al. 2019, section 3.2.
 * @param gates Σ over mini-batches of (γ·dγ + β·dβ)², by the name of γ
 * @throws BonsaiError `unsupported` for a network without BatchNormalization, and as `taylorCriterion`
 */
export function taylorGateCriterion(
  model: Model,
  gates: Accumulated,
  squares: Accumulated,
  options: GroupOptions = {},
): Criterion {
  requireBatchNorm(model, 'taylor-gate', 'taylor');
  const gate: MemberScore = (member, channels) => {
    const values = isScale(member) ? gates.get(member.parameter) : undefined;
    return values && sumByChannel(member, channels, values, 'value');
  };
  return strict(memberCriterion('taylor-gate', gate, options, byElement(squares)), squares);
}

function byElement(squares: Accumulated): MemberScore {
  return (member, channels) => {
    const values = squares.get(member.parameter);
    return values && sumByChannel(member, channels, values, 'value');
  };
}

/** All zeros would prune at random without a word: a group that nothing was gathered for is an error. */
function strict(criterion: Criterion, squares: Accumulated): Criterion {
  const isKnown = (group: Group) => group.members.some((member) => squares.has(member.parameter));
  return {
    name: criterion.name,
    scores(group) {
      if (isKnown(group)) return criterion.scores(group);
      if (group.members.some((member) => member.isInteger)) {
        throw new BonsaiError(
          'unsupported',
          `The criterion "${criterion.name}" has no gradient for any weight of ${group.producers.join(', ')}: they are ` +
            'integers behind DequantizeLinear, which are not trained. Score and prune the float network, and quantise ' +
            'after; or use a criterion of the weights alone, such as l2.',
        );
      }
      throw new BonsaiError(
        'unsupported',
        `The criterion "${criterion.name}" has no gradient for any weight of ${group.producers.join(', ')}: they are ` +
          'frozen, of an operator that is not trained, or gathered from another network. Use a criterion of the ' +
          'weights alone, such as l2.',
      );
    },
  };
}
