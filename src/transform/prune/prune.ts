import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { type Model, type Shape, withMetadata } from '../../graph/model.ts';
import { countCost, countParameters } from '../../ops/count.ts';
import { type FrozenProducer, type Group, groupsOf } from './groups.ts';
import { type Criterion, NORM_CRITERIA, type NormName, normCriterion } from './importance.ts';
import { propagateLabels } from './labels.ts';
import { removeChannels } from './remove-channels.ts';

/**
 * Removes the least important share of channels from every dependency group. The ratio is relative to the network
 * that was never pruned: the file remembers the first widths, so that pruning to 0.25 and then to 0.5 leaves half.
 * @throws InvalidArgumentError for a ratio outside [0, 1) or an alignment that is not a positive integer
 * @throws BonsaiError `empty_group` if the network has nothing that can be pruned
 */
export function prune(model: Model, options: PruneOptions): PruneResult {
  const {
    ratio,
    align = pruneDefaults.align,
    rounding = pruneDefaults.rounding,
    scope = 'uniform',
  } = options;
  if (!(ratio >= 0 && ratio < 1))
    throw new InvalidArgumentError(`The pruning ratio is ${ratio}; it should be at least 0 and below 1.`);
  if (!Number.isInteger(align) || align < 1)
    throw new InvalidArgumentError(`The alignment is ${align}; it should be a positive integer.`);
  const criterion = criterionOf(options.criterion ?? pruneDefaults.criterion);

  const propagation = propagateLabels(model);
  const { groups, frozen } = groupsOf(propagation);
  if (groups.length === 0) {
    const reasons = frozen.map(({ node, reason }) => `${node} (${reason})`).join(', ');
    throw new BonsaiError(
      'empty_group',
      `The network has no channels that can be pruned. Frozen: ${reasons || 'none'}.`,
    );
  }
  const baseChannels = new Map(Object.entries(pruningOf(model)?.channels ?? {}));
  const removed: number[] = [];
  const outcomes = groups.map((group) => {
    const base = Math.max(baseChannels.get(group.key) ?? group.channels, group.channels);
    baseChannels.set(group.key, base);
    const kept = Math.min(group.channels, keptChannels(base, ratio, align, rounding));
    for (const unit of lowest(criterion.scores(group), group.channels - kept))
      removed.push(group.units[unit]!);
    return { key: group.key, producers: group.producers, channels: group.channels, kept };
  });

  const record: PruningRecord = {
    criterion: criterion.name,
    scope,
    ratio,
    align,
    channels: Object.fromEntries(baseChannels),
  };
  const result = withMetadata(removeChannels(propagation, removed), {
    [PRUNING_KEY]: JSON.stringify(record),
  });
  const [before, after] = [model, result].map((network) => countMacs(network, options.inputs));
  return {
    model: result,
    groups: outcomes,
    frozen,
    parameters: { before: countParameters(model), after: countParameters(result) },
    ...(before !== undefined && after !== undefined && { macs: { before, after } }),
  };
}

export interface PruneOptions {
  /** Share of channels to remove from each group, in [0, 1), relative to the network before any pruning. */
  readonly ratio: number;
  readonly criterion?: NormName | Criterion;
  /** 'uniform': every group loses the same share. */
  readonly scope?: 'uniform';
  /** Kept channels are a multiple of this where the group is that wide; 1: any number. The engine's block size is best. */
  readonly align?: number;
  /** How a kept count between two multiples is rounded. */
  readonly rounding?: Rounding;
  /** Shapes at which to count, by input name, where the file leaves more than the batch open. */
  readonly inputs?: Readonly<Record<string, Shape>>;
}

export type Rounding = 'nearest' | 'down' | 'up';

export const pruneDefaults = {
  /** The figure that the literature compares by; L1 and L2 differ little on CNNs (PRUNING.md section 8). */
  criterion: 'l2',
  /** ONNX Runtime's block on x86-64 without AVX-512; widths off the block can run slower than unpruned ones. */
  align: 8,
  /** Stays closest to the ratio asked for. */
  rounding: 'nearest',
} as const satisfies Partial<PruneOptions>;

export interface PruneResult {
  readonly model: Model;
  readonly groups: readonly PrunedGroup[];
  readonly frozen: readonly FrozenProducer[];
  readonly parameters: { readonly before: number; readonly after: number };
  /** Of one inference; absent where the file does not tell the shapes that it takes to count them. */
  readonly macs?: { readonly before: number; readonly after: number };
}

export interface PrunedGroup extends Pick<Group, 'key' | 'producers' | 'channels'> {
  readonly kept: number;
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

/** Undefined where shapes are unknown, or where the sizes that the file leaves open cannot all be 1. */
function countMacs(model: Model, inputs: PruneOptions['inputs']): number | undefined {
  try {
    return countCost(model, { inputs }).macs;
  } catch (error) {
    if (error instanceof BonsaiError && (error.code === 'unsupported' || error.code === 'shape_mismatch'))
      return undefined;
    throw error;
  }
}

function criterionOf(given: NormName | Criterion): Criterion {
  if (typeof given === 'object') return given;
  if (!NORM_CRITERIA.includes(given)) {
    throw new InvalidArgumentError(
      `There is no pruning criterion "${given}"; there are ${NORM_CRITERIA.join(', ')}.`,
    );
  }
  return normCriterion(given);
}

/** Positions of the `count` lowest scores; of equal ones those further back, so that results are reproducible. */
function lowest(scores: Float64Array, count: number): number[] {
  return [...scores.keys()].sort((a, b) => scores[a]! - scores[b]! || b - a).slice(0, count);
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
