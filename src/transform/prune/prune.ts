import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { checkIsModel, checkOptionNames } from '../../base/options.ts';
import { type Model, type Shape, withMetadata } from '../../graph/model.ts';
import { countParameters, tryCountCost } from '../../ops/count.ts';
import { foldConstants } from '../passes/fold-constants.ts';
import { type ChannelMeans, compensateMeans } from './compensate.ts';
import { type FrozenProducer, type Group, groupsOf, nothingToPrune } from './groups.ts';
import {
  type Criterion,
  checkedOptions,
  checkGroupOptionNames,
  type GroupOptions,
  isWeight,
  scoresOf,
} from './importance/criterion.ts';
import { type CriterionName, weightCriterion } from './importance/table.ts';
import { propagateLabels } from './labels.ts';
import { lastChannels } from './last-channels.ts';
import { removeChannels } from './remove-channels.ts';

/**
 * Removes the least important channels of a network, group by group. The ratio is relative to the network that was
 * never pruned: the file remembers the first widths, so that pruning to 0.25 and then to 0.5 leaves half.
 * What the graph computes without data (Constant nodes, shape arithmetic) is folded first.
 * @throws InvalidArgumentError for a ratio outside [0, 1), an alignment that is not a positive integer, kept
 *   counts that no group can have, choices that do not exist, and a criterion that does not give one score for each channel
 * @throws BonsaiError `empty_group` if the network has nothing that can be pruned; what the criterion throws
 */
export function prune(model: Model, options: PruneOptions): PruneResult {
  checkIsModel('prune', model);
  checkOptionNames('prune', options, OPTIONS, { example: '{ ratio: 0.5 }', hints: OPTION_HINTS });
  const settings = checkedSettings(options);
  const folded = foldConstants(model);
  const criterion = criterionOf(folded, options);

  const propagation = propagateLabels(folded);
  const { groups, frozen } = groupsOf(propagation);
  if (groups.length === 0) throw nothingToPrune(frozen);
  const baseChannels = new Map(Object.entries(pruningOf(model)?.channels ?? {}));
  const candidates = groups.map((group): Candidate => {
    const base = Math.max(baseChannels.get(group.key) ?? group.channels, group.channels);
    baseChannels.set(group.key, base);
    return { group, base, scores: scoresOf(criterion, group), align: alignmentOf(group, settings.align) };
  });
  const kept =
    settings.scope === 'global'
      ? keptGlobally(candidates, settings, options.kept)
      : keptUniformly(candidates, settings);
  overrideKept(kept, groups, options.kept);

  const scoreOf = new Map<number, number>();
  for (const { group, scores } of candidates)
    for (const [i, unit] of group.units.entries()) scoreOf.set(unit, scores[i]!);
  const stays = lastChannels(propagation, scoreOf);
  const removed: number[] = [];
  const outcomes = candidates.map(({ group, scores }, i) => {
    const doomed = lowest(group, scores, group.channels - kept[i]!, stays);
    for (const unit of doomed) removed.push(group.units[unit]!);
    const { key, producers, channels } = group;
    const gone = Array.from(doomed).sort((a, b) => a - b);
    return { key, producers, channels, kept: channels - doomed.length, removed: gone };
  });

  const record: PruningRecord = {
    criterion: criterion.name,
    scope: settings.scope,
    ratio: settings.ratio,
    align: settings.align,
    channels: Object.fromEntries(baseChannels),
  };
  const repaired =
    options.means === undefined
      ? propagation
      : propagateLabels(compensateMeans(propagation, removed, options.means));
  const reference = repaired.model;
  const result = withMetadata(removeChannels(repaired, removed), {
    [PRUNING_KEY]: JSON.stringify(record),
  });
  const [before, after] = [folded, result].map((network) =>
    tryCountCost(network, { inputs: options.inputs }),
  );
  return {
    model: result,
    reference,
    groups: outcomes,
    frozen,
    parameters: { before: countParameters(folded), after: countParameters(result) },
    ...macsOf(before!, after!),
  };
}

export interface PruneOptions {
  /** Share of channels to remove, in [0, 1), relative to the network before any pruning. */
  readonly ratio: number;
  /** What makes a channel unimportant: a name, or one that was gathered from data. */
  readonly criterion?: CriterionName | Criterion;
  /** How a criterion given by name makes one score of a group's members. */
  readonly importance?: GroupOptions;
  /** Of the criterion 'random'. */
  readonly seed?: number;
  /**
   * 'uniform': every group loses the same share. 'global': the channels with the lowest scores of the whole network
   * go, whichever group they are in, until the share of all channels is gone.
   */
  readonly scope?: (typeof SCOPES)[number];
  /** With scope 'global', the largest share that a group may lose, in (0, 1). */
  readonly maxRatio?: number;
  /**
   * Channels to keep, by `Group.key`, instead of what ratio, scope and alignment say; groups that are not listed keep
   * what those say; with scope 'global' the ratio is of these groups' channels.
   */
  readonly kept?: ReadonlyMap<string, number>;
  /**
   * Kept channels are a multiple of this where the group is that wide; 1: any number. The engine's block size is best.
   * Units that are several channels wide (attention heads) need fewer of them (`alignmentOf`).
   */
  readonly align?: number;
  /** How a kept count between two multiples is rounded. Default 'nearest', with alignment 1 'down'. */
  readonly rounding?: Rounding;
  /**
   * Means of what layers read (`gatherMeans`): what removed channels gave on average goes into the biases of the layers
   * that read them. For networks whose BatchNormalization was folded away. Absent: it is lost.
   */
  readonly means?: ChannelMeans;
  /** Shapes at which to count, by input name, where the file leaves more than the batch open. */
  readonly inputs?: Readonly<Record<string, Shape>>;
}

/** The names of all options: the compiler compares the list with the type. */
const OPTION_TABLE: Readonly<Record<keyof PruneOptions, true>> = {
  ratio: true,
  criterion: true,
  importance: true,
  seed: true,
  scope: true,
  maxRatio: true,
  kept: true,
  align: true,
  rounding: true,
  means: true,
  inputs: true,
};
const OPTIONS = Object.keys(OPTION_TABLE);
const OPTION_HINTS = {
  members: "importance: { members: 'out' }",
  reduce: "importance: { reduce: 'max' }",
  normalise: "importance: { normalise: 'none' }",
  normalize: "importance: { normalise: 'none' }",
};

export const SCOPES = ['uniform', 'global'] as const;

export const ROUNDINGS = ['nearest', 'down', 'up'] as const;
export type Rounding = (typeof ROUNDINGS)[number];

export const pruneDefaults = {
  /** The figure that the literature compares by; L1 and L2 differ little on CNNs (PRUNING.md section 8). */
  criterion: 'l2',
  /** ONNX Runtime's block on x86-64 without AVX-512; widths off the block can run slower than unpruned ones. */
  align: 8,
  /** With which the literature's figures compare. */
  scope: 'uniform',
  /** Without a cap a global threshold can empty whole layers; a tenth of the width still passes information on. */
  maxRatio: 0.9,
} as const satisfies Partial<PruneOptions>;

export interface PruneResult {
  readonly model: Model;
  /** The network at full width of which `model` is what stays: constants folded, biases compensated if means were given. */
  readonly reference: Model;
  readonly groups: readonly PrunedGroup[];
  readonly frozen: readonly FrozenProducer[];
  readonly parameters: { readonly before: number; readonly after: number };
  /** Of one inference; absent where the file does not tell the shapes that it takes to count them. */
  readonly macs?: { readonly before: number; readonly after: number };
  /** Why the multiply-accumulates are unknown, and what would tell them; present where `macs` is absent. */
  readonly uncounted?: string;
}

export interface PrunedGroup extends Pick<Group, 'key' | 'producers' | 'channels'> {
  readonly kept: number;
  /** Positions of the channels that went, ascending. */
  readonly removed: readonly number[];
}

/** Where a pruned network's file says how it was pruned (JSON, `PruningRecord`). */
export const PRUNING_KEY = 'bonsai.pruning';

export interface PruningRecord {
  readonly criterion: string;
  readonly scope: string;
  readonly ratio: number;
  readonly align: number;
  /** Channels of each group, by `Group.key`, before any pruning. */
  readonly channels: Readonly<Record<string, number>>;
}

/**
 * How a network was pruned, from its metadata; undefined: it was not, as far as the file says.
 * @throws BonsaiError `corrupt_model` if the entry is there but unreadable
 */
export function pruningOf(model: Model): PruningRecord | undefined {
  const text = model.metadata.get(PRUNING_KEY);
  if (text === undefined) return undefined;
  try {
    const record: unknown = JSON.parse(text);
    if (isPruningRecord(record)) return record;
  } catch (cause) {
    throw new BonsaiError(
      'corrupt_model',
      `Metadata "${PRUNING_KEY}" is not JSON; remove it or prune the base again.`,
      { cause },
    );
  }
  throw new BonsaiError(
    'corrupt_model',
    `Metadata "${PRUNING_KEY}" is not a pruning record; remove it or prune the base again.`,
  );
}

/**
 * How many of n channels to keep: n · (1 - ratio), rounded to a multiple of `align`, at least one block, or all
 * where there are fewer. At n = 64, ratio 0.3, align 8: 44.8 lies between 40 and 48, nearest 48 (5.6 blocks → 6).
 */
export function keptChannels(n: number, ratio: number, align: number, rounding: Rounding): number {
  // The tolerance keeps 10 · (1 - 0.7) = 3.0000000000000004 from being rounded up to 4.
  const blocks = (n * (1 - ratio)) / align;
  const whole =
    rounding === 'nearest'
      ? Math.round(blocks)
      : rounding === 'down'
        ? Math.floor(blocks + ROUNDING_TOLERANCE)
        : Math.ceil(blocks - ROUNDING_TOLERANCE);
  return Math.min(n, Math.max(1, whole) * align);
}

/** Far above the error of two float64 operations, far below one channel of any network. */
export const ROUNDING_TOLERANCE = 1e-9;

type Counted = ReturnType<typeof tryCountCost>;

function macsOf(before: Counted, after: Counted): Pick<PruneResult, 'macs' | 'uncounted'> {
  if ('uncounted' in before) return before;
  if ('uncounted' in after) return after;
  return { macs: { before: before.macs, after: after.macs } };
}

/**
 * The multiple at which units of a group are kept, for channels to be kept at multiples of `align`. Where a unit owns w
 * slices of every kernel (the width of an attention head), w of the alignment's factors are there already: heads of 64
 * may be kept one by one at alignment 8. A unit that owns one slice of any kernel counts as one channel.
 */
export function alignmentOf(group: Group, align: number): number {
  let width = Number.POSITIVE_INFINITY;
  for (const member of group.members) {
    if (isWeight(member)) width = Math.min(width, Math.floor(member.indices.length / group.channels));
  }
  return Number.isFinite(width) && width > 0 ? align / greatestCommonDivisor(align, width) : align;
}

interface Candidate {
  readonly group: Group;
  /** Channels before any pruning. */
  readonly base: number;
  readonly scores: Float64Array;
  readonly align: number;
}

interface Settings {
  readonly ratio: number;
  readonly scope: (typeof SCOPES)[number];
  readonly maxRatio: number;
  readonly align: number;
  readonly rounding: Rounding;
}

function checkedSettings(options: PruneOptions): Settings {
  const { ratio, align = pruneDefaults.align, scope = pruneDefaults.scope } = options;
  const { maxRatio = pruneDefaults.maxRatio, rounding = align === 1 ? 'down' : 'nearest' } = options;
  if (typeof ratio !== 'number' || !(ratio >= 0 && ratio < 1))
    throw new InvalidArgumentError(
      `The pruning ratio is ${shown(ratio)}; it should be a number of at least 0 and below 1.`,
    );
  if (!Number.isInteger(align) || align < 1)
    throw new InvalidArgumentError(`The alignment is ${align}; it should be a positive integer.`);
  if (!SCOPES.includes(scope))
    throw new InvalidArgumentError(`The scope is "${scope}"; it should be one of ${SCOPES.join(', ')}.`);
  if (!ROUNDINGS.includes(rounding))
    throw new InvalidArgumentError(
      `The rounding is "${rounding}"; it should be one of ${ROUNDINGS.join(', ')}.`,
    );
  if (typeof maxRatio !== 'number' || !(maxRatio > 0 && maxRatio < 1))
    throw new InvalidArgumentError(
      `\`maxRatio\` (--max-ratio) is ${shown(maxRatio)}; it should be a number above 0 and below 1.`,
    );
  if (scope === 'global' && ratio > maxRatio) {
    throw new InvalidArgumentError(
      `The pruning ratio is ${ratio}, but no group may lose more than ${maxRatio}. Lower the ratio (--ratio) or raise \`maxRatio\` (--max-ratio).`,
    );
  }
  if (options.kept !== undefined && !(options.kept instanceof Map)) {
    throw new InvalidArgumentError(
      'The option "kept" is no Map; expected one from the key of a group to the channels that it keeps.',
    );
  }
  return { ratio, scope, maxRatio, align, rounding };
}

/** A value as people write it, so that text is told from the number that it reads like. */
function shown(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

function keptUniformly(candidates: readonly Candidate[], { ratio, rounding }: Settings): number[] {
  return candidates.map(({ group, base, align }) =>
    Math.min(group.channels, keptChannels(base, ratio, align, rounding)),
  );
}

/**
 * Blocks of channels (what brings a group to the next lower multiple of its alignment) in the order of their mean
 * score, the lowest first, until the ratio is reached. Within a group scores ascend from block to block, so the order
 * takes a group's blocks one after the other.
 */
function keptGlobally(
  candidates: readonly Candidate[],
  settings: Settings,
  given: PruneOptions['kept'],
): number[] {
  const { ratio, maxRatio, rounding } = settings;
  const kept = candidates.map(({ group }) => group.channels);
  let wanted = 0;
  const blocks: { candidate: number; size: number; score: number }[] = [];
  for (const [candidate, { group, base, scores, align }] of candidates.entries()) {
    if (given?.has(group.key)) continue;
    wanted += ratio * base - (base - group.channels);
    const least = keptChannels(base, maxRatio, align, 'up');
    const ascending = Float64Array.from(scores).sort();
    for (let left = group.channels; ; ) {
      const size = left % align || align;
      if (left - size < Math.max(1, least)) break;
      const from = group.channels - left;
      let sum = 0;
      for (let i = from; i < from + size; i++) sum += ascending[i]!;
      blocks.push({ candidate, size, score: sum / size });
      left -= size;
    }
  }
  blocks.sort((a, b) => a.score - b.score || a.candidate - b.candidate);
  for (const { candidate, size } of blocks) {
    const needed = rounding === 'nearest' ? size / 2 : rounding === 'up' ? size : ROUNDING_TOLERANCE * 2;
    if (wanted + ROUNDING_TOLERANCE < needed) break;
    kept[candidate]! -= size;
    wanted -= size;
  }
  return kept;
}

/** @throws InvalidArgumentError for a group that is not there or a count that it cannot keep */
function overrideKept(
  counts: number[],
  groups: readonly Group[],
  kept: ReadonlyMap<string, number> | undefined,
): void {
  if (kept === undefined) return;
  const places = new Map(groups.map((group, i) => [group.key, i]));
  for (const [key, count] of kept) {
    const place = places.get(key);
    if (place === undefined) {
      throw new InvalidArgumentError(
        `Channels of the group "${key}" are to be kept, but the network has no such group that can be pruned.`,
      );
    }
    const { channels } = groups[place]!;
    if (!Number.isInteger(count) || count < 1 || count > channels) {
      throw new InvalidArgumentError(
        `${count} channels of the group "${key}" are to be kept; it should be an integer from 1 to ${channels}.`,
      );
    }
    counts[place] = count;
  }
}

/** @throws what `weightCriterion` throws */
function criterionOf(model: Model, options: PruneOptions): Criterion {
  const { criterion = pruneDefaults.criterion, importance = {}, seed } = options;
  // Checked also where nothing asks for them: a value that does not exist is a mistake with every criterion.
  checkGroupOptionNames('importance', importance);
  checkedOptions(importance);
  if (typeof criterion === 'object') return criterion;
  return weightCriterion(criterion, model, { ...importance, seed });
}

/**
 * Positions of the `count` lowest scores, without the classes that stay; of equal ones those further back, so that
 * results are reproducible.
 * @throws BonsaiError `unsupported` where a score is not a number
 */
function lowest(group: Group, scores: Float64Array, count: number, stays: ReadonlySet<number>): Uint32Array {
  if (count <= 0) return new Uint32Array(0);
  if (scores.some(Number.isNaN)) {
    throw new BonsaiError(
      'unsupported',
      `Channels of ${group.producers.join(', ')} have a score that is not a number, so they cannot be ranked. ` +
        'Look for NaN or infinite weights there.',
    );
  }
  const order = Uint32Array.from(scores, (_, i) => i);
  const candidates = order.filter((i) => !stays.has(group.units[i]!));
  return candidates.sort((a, b) => scores[a]! - scores[b]! || b - a).subarray(0, count);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

function isPruningRecord(value: unknown): value is PruningRecord {
  if (typeof value !== 'object' || value === null) return false;
  const { channels, ratio } = value as Partial<PruningRecord>; // Each field is checked by what follows.
  return (
    typeof ratio === 'number' &&
    typeof channels === 'object' &&
    channels !== null &&
    Object.values(channels).every((count) => Number.isInteger(count))
  );
}
