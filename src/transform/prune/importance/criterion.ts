import { BonsaiError, InvalidArgumentError } from '../../../base/errors.ts';
import { halfNumbers, isHalf } from '../../../base/half.ts';
import { checkOptionNames } from '../../../base/options.ts';
import { elementsOf, type Tensor } from '../../../base/tensor.ts';
import type { Group, Member } from '../groups.ts';

/**
 * Scores the channels of a group; the lowest go first. Criteria that need more than the weights (gradients,
 * activations) gather it beforehand and close over it.
 */
export interface Criterion {
  readonly name: string;
  /** @returns one score ≥ 0 for each channel of the group, on a scale that compares between groups */
  scores(group: Group): Float64Array;
}

/**
 * The scores that a criterion gives a group, which may be anybody's.
 * @throws InvalidArgumentError for a criterion that is none, and for anything but one number for each channel
 */
export function scoresOf(criterion: Criterion, group: Group): Float64Array {
  if (typeof criterion?.scores !== 'function') {
    throw new InvalidArgumentError(
      'The criterion is neither a name nor an object { name, scores(group) } that gives one score for each channel.',
    );
  }
  const given: unknown = criterion.scores(group);
  const isList = Array.isArray(given) || given instanceof Float64Array || given instanceof Float32Array;
  if (isList && given.length === group.channels) {
    return given instanceof Float64Array ? given : Float64Array.from(given, Number);
  }
  throw new InvalidArgumentError(
    `The criterion "${criterion.name}" gave ${isList ? `${given.length} scores` : given === null ? 'null' : `no list but a ${typeof given}`} ` +
      `for the ${group.channels} channels of ${group.producers.join(', ')}; expected a Float64Array of one score for each.`,
  );
}

/** How the scores of a group's members become one score for each channel. */
export interface GroupOptions {
  /** Which slices count: those that make the channel, or also those that consume it. Default 'out+in', as Torch-Pruning. */
  readonly members?: (typeof MEMBERS)[number];
  /** Over members; 'first' takes the first producer alone. Default 'mean'. */
  readonly reduce?: (typeof REDUCTIONS)[number];
  /** Divides a group's scores by their mean or their largest, so that groups of different scale compare. Default 'mean'. */
  readonly normalise?: (typeof NORMALISATIONS)[number];
}

export const MEMBERS = ['out', 'out+in'] as const;
export const REDUCTIONS = ['mean', 'sum', 'max', 'prod', 'first'] as const;
export const NORMALISATIONS = ['mean', 'none', 'max'] as const;

export const groupDefaults = {
  members: 'out+in',
  reduce: 'mean',
  normalise: 'mean',
} as const satisfies GroupOptions;

/** Scores of one member of a group, one for each channel; undefined: this member says nothing about them. */
export type MemberScore = (member: Member, channels: number) => Float64Array | undefined;

/**
 * A criterion that asks every member of a group that weighs the channels (kernels, and BatchNormalization's scale),
 * then reduces and normalises. Source: DepGraph (Fang et al. 2023), section 3.3.
 * @param fallback scores groups in which no member says anything; absent: such a group's channels all score 0
 * @throws InvalidArgumentError for an option that does not exist
 */
export function memberCriterion(
  name: string,
  score: MemberScore,
  options: GroupOptions = {},
  fallback?: MemberScore,
): Criterion {
  const { members, reduce, normalise } = checkedOptions(options);
  return {
    name,
    scores(group) {
      const asked = askedMembers(group, members);
      const tell = (rule: MemberScore) =>
        asked.flatMap((member) => {
          const scores = rule(member, group.channels);
          return scores === undefined ? [] : [scores];
        });
      let parts = tell(score);
      if (parts.length === 0 && fallback !== undefined) parts = tell(fallback);
      return normalised(reduced(parts, group.channels, reduce), normalise);
    },
  };
}

/** The members of a group whose scores count: those that weigh the channels; all where none does. */
export function askedMembers(
  group: Group,
  members: Required<GroupOptions>['members'] = groupDefaults.members,
): readonly Member[] {
  const counted = group.members.filter((member) => members === 'out+in' || member.direction === 'out');
  const weights = counted.filter(isWeight);
  return weights.length > 0 ? weights : counted;
}

/**
 * A criterion from scores that were computed before, by the group's key (kept in a file, for instance).
 * @throws BonsaiError `unsupported` when scoring a group that has none, or another number of channels
 */
export function recordedCriterion(
  name: string,
  recorded: Readonly<Record<string, readonly number[]>>,
): Criterion {
  return {
    name,
    scores({ key, channels, producers }) {
      const scores = Object.hasOwn(recorded, key) ? recorded[key]! : [];
      if (scores.length === channels) return Float64Array.from(scores);
      throw new BonsaiError(
        'unsupported',
        `There are ${scores.length} recorded scores for the ${channels} channels of ${producers.join(', ')}: they are ` +
          'of another network. Gather them again.',
      );
    },
  };
}

/** @throws InvalidArgumentError for what is no object of `GroupOptions`, naming `of`, what holds them */
export function checkGroupOptionNames(of: string, options: unknown): void {
  checkOptionNames(of, options, ['members', 'reduce', 'normalise'], {
    example: "{ reduce: 'max' }",
    hints: { normalize: "normalise: 'none'" },
  });
}

/** @throws InvalidArgumentError for an option that does not exist */
export function checkedOptions(options: GroupOptions): Required<GroupOptions> {
  const { members = groupDefaults.members, reduce = groupDefaults.reduce } = options;
  const { normalise = groupDefaults.normalise } = options;
  checkChoice('members', members, MEMBERS);
  checkChoice('reduce', reduce, REDUCTIONS);
  checkChoice('normalise', normalise, NORMALISATIONS);
  return { members, reduce, normalise };
}

/** One score per channel from those of several members. No members: all 0. */
export function reduced(
  parts: readonly Float64Array[],
  channels: number,
  reduce: Required<GroupOptions>['reduce'],
): Float64Array {
  const [first, ...others] = parts;
  const scores = first === undefined ? new Float64Array(channels) : Float64Array.from(first);
  if (reduce === 'first') return scores;
  for (const part of others) {
    for (let unit = 0; unit < channels; unit++) {
      if (reduce === 'max') scores[unit] = Math.max(scores[unit]!, part[unit]!);
      else if (reduce === 'prod') scores[unit]! *= part[unit]!;
      else scores[unit]! += part[unit]!;
    }
  }
  if (reduce === 'mean')
    for (let unit = 0; unit < channels; unit++) scores[unit]! /= Math.max(1, parts.length);
  return scores;
}

/** The scores over their mean or their largest; as they are where that is 0. */
export function normalised(
  scores: Float64Array,
  normalise: Required<GroupOptions>['normalise'],
): Float64Array {
  if (normalise === 'none') return scores;
  let [sum, largest] = [0, 0];
  for (const score of scores) {
    sum += score;
    largest = Math.max(largest, score);
  }
  const scale = normalise === 'mean' ? sum / Math.max(1, scores.length) : largest;
  return scale > 0 ? scores.map((score) => score / scale) : scores;
}

/** The input of BatchNormalization that scales a channel; its bias and statistics say nothing about importance. */
export const BATCH_NORM_SCALE_INPUT = 1;

/** Whether a member is the scale of a BatchNormalization. */
export function isScale(member: Member): boolean {
  return member.opType === 'BatchNormalization' && member.input === BATCH_NORM_SCALE_INPUT;
}

/** Whether a member weighs channels: a kernel, or BatchNormalization's scale. */
export function isWeight(member: Member): boolean {
  if (member.opType === 'BatchNormalization') return isScale(member);
  let longAxes = 0;
  for (const size of member.tensor.shape) if (size > 1) longAxes++;
  return longAxes > 1;
}

/**
 * Adds up w, |w| or w² over all elements of a member that belong to each channel (after Flatten a channel has many
 * slices). One pass in the order of memory, and a loop for each term: over 86 million weights a function for the term
 * costs three times as much as the arithmetic.
 * @param values elements of the member's tensor, or of another of its shape (accumulated gradients)
 */
export function sumByChannel(
  member: Member,
  channels: number,
  values: Float32Array | Float64Array,
  term: 'value' | 'magnitude' | 'square',
): Float64Array {
  const { size, inner, outer } = stridesOf(member);
  const { indices, units } = member;
  const sums = new Float64Array(channels);
  for (let block = 0; block < outer; block++) {
    for (let i = 0; i < indices.length; i++) {
      const start = (block * size + indices[i]!) * inner;
      const end = start + inner;
      let sum = 0;
      if (term === 'square') for (let at = start; at < end; at++) sum += values[at]! * values[at]!;
      else if (term === 'magnitude') for (let at = start; at < end; at++) sum += Math.abs(values[at]!);
      else for (let at = start; at < end; at++) sum += values[at]!;
      sums[units[i]!]! += sum;
    }
  }
  return sums;
}

/** The tensor as `outer` blocks of `size` slices of `inner` elements, cut along the member's axis. */
export function stridesOf({ tensor, axis }: Member): { size: number; inner: number; outer: number } {
  let [inner, outer] = [1, 1];
  for (let at = 0; at < axis; at++) outer *= tensor.shape[at]!;
  for (let at = axis + 1; at < tensor.shape.length; at++) inner *= tensor.shape[at]!;
  return { size: tensor.shape[axis]!, inner, outer };
}

/** Numbers of the weights, those of 16-bit floats as float32. @throws BonsaiError `unsupported` for other types */
export function weightsOf(member: Member): Float32Array | Float64Array {
  const { tensor } = member;
  const { dtype } = tensor;
  if (isHalf(dtype)) return halfNumbers({ ...tensor, dtype });
  if (!isFloat(tensor)) {
    throw new BonsaiError(
      'unsupported',
      `Cannot score "${member.parameter}" of ${member.node}: its weights are ${dtype}, expected floats. ` +
        'Prune the network before its weights become integers.',
    );
  }
  return elementsOf(tensor) as Float32Array | Float64Array; // Its dtype was just checked.
}

function isFloat(tensor: Tensor): boolean {
  return tensor.dtype === 'float32' || tensor.dtype === 'float64';
}

function checkChoice(name: string, value: string, choices: readonly string[]): void {
  if (choices.includes(value)) return;
  throw new InvalidArgumentError(`${name} is "${value}"; it should be one of ${choices.join(', ')}.`);
}
