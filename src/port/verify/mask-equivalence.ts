import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { ownValue } from '../../base/own-value.ts';
import { permutation, type Random, seededRandom } from '../../base/random.ts';
import {
  elementCount,
  elementsOf,
  float32Tensor,
  int64Tensor,
  type Tensor,
  tensorOf,
} from '../../base/tensor.ts';
import { Session, type SessionOptions } from '../../engine/session.ts';
import type { Model, Shape, ValueInfo } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { checkInputShapes } from '../../ops/input-shapes.ts';
import { unrounded } from '../../transform/passes/unrounded.ts';
import type { AttentionUnit } from '../../transform/prune/attention.ts';
import { type Group, groupsOf } from '../../transform/prune/groups.ts';
import { type Propagation, propagateLabels } from '../../transform/prune/labels.ts';
import { lastChannels } from '../../transform/prune/last-channels.ts';
import { maskable } from '../../transform/prune/mask.ts';
import type { PrunedGroup } from '../../transform/prune/prune.ts';
import { removeChannels } from '../../transform/prune/remove-channels.ts';
import { sizesByWeights } from '../open-sizes.ts';

/**
 * Runs the oracle of pruning in ONNX Runtime, on the calling thread: random channels of one random group after the other, in
 * the end of all groups at once, are removed, and the outputs compared with those of the full network in which nothing reads these channels (`maskChannels`).
 * Where a pruned network is given (`delivered`), it is compared as well, on the channels that it lost.
 * Everything random follows from the seed. A correct pruner differs by rounding alone, about 1e-6.
 * @throws InvalidArgumentError for counts that are not positive, and for inputs of unknown rank that no shape is given for
 * Where all groups are such that nothing can be compared (`Verification.skipped`), the result says so with 0 groups.
 * Quantised networks run without the rounding of activations to their steps (`unrounded`), which makes a whole step of the
 * last bit of a sum, and without the engine's fused kernels, which round differently from the nodes that they replace.
 * @throws BonsaiError `empty_group` if the network has no groups
 * @throws BonsaiError `load_failed`, `engine_failure` if the engine refuses either network; `aborted`
 */
export async function maskEquivalence(model: Model, options: MaskEquivalenceOptions): Promise<Verification> {
  const { seed, groups: trials, inputs = verifyDefaults.inputs, intraOpThreads } = options;
  for (const [what, count] of Object.entries({ groups: trials, inputs })) {
    if (!Number.isInteger(count) || count < 1) {
      throw new InvalidArgumentError(`${count} ${what} cannot be verified; expected a positive integer.`);
    }
  }
  const propagation = propagateLabels(model, { attention: options.attention });
  const { groups } = groupsOf(propagation);
  const exact = groups.filter((group) => group.inexact === undefined && group.channels > 1);
  if (groups.length === 0) {
    throw new BonsaiError(
      'empty_group',
      'The network has no groups of channels, so there is nothing to compare.',
    );
  }
  const skipped = groups.filter((group) => group.inexact !== undefined).length;
  if (exact.length === 0) return { groups: 0, inputs, maxRelativeError: 0, skipped, isSensitive: false };
  const shapes = inputShapes(model, options.shapes);
  const random = seededRandom(seed);
  const feeds = Array.from({ length: inputs }, (_, i) =>
    randomFeeds(model, shapes, random.fork(`input ${i}`)),
  );
  const order = permutation(exact.length, random.fork('order'));
  const oracle = maskable(propagation);
  const session = { intraOpThreads, optimization: isQuantized(model) ? 'basic' : 'all' } as const;
  const masked = await Session.create(writeModel(unrounded(oracle.model)), session);
  let maxRelativeError = 0;
  let isSensitive = false;
  let delivered: DeliveredVerification | undefined;
  try {
    const whole = await outputsOf(masked, model, options.shapes, shapes, feeds, oracle.masks([]));
    for (let trial = 0; trial <= trials; trial++) {
      // The last one takes channels of all groups at once, as pruning does: cuts must not get into each other's way.
      const cut = trial < trials ? [exact[order[trial % exact.length]!]!] : exact;
      const drawn = cut.flatMap((group) => randomUnits(group, random.fork(`group ${trial} ${group.key}`)));
      const removed = withoutLast(propagation, groups, drawn);
      const masks = oracle.masks(removed);
      const pruned = await Session.create(
        writeModel(unrounded(removeChannels(propagation, removed))),
        session,
      );
      try {
        for (const [i, feed] of feeds.entries()) {
          if (options.isStopRequested?.()) throw new BonsaiError('aborted', 'Stopped on request.');
          const [actual, expected] = [await pruned.run(feed), await masked.run({ ...feed, ...masks })];
          maxRelativeError = Math.max(maxRelativeError, relativeError(actual, expected));
          isSensitive ||= relativeError(expected, whole[i]!) > MASK_TOLERANCE;
        }
      } finally {
        await pruned.release();
      }
      options.onProgress?.({ done: trial + 1, total: trials + 1, maxRelativeError });
    }
    delivered = await compareDelivered(options, session, groups, async (network, removed) => {
      const masks = oracle.masks(removed);
      let worst = 0;
      for (const feed of feeds) {
        if (options.isStopRequested?.()) throw new BonsaiError('aborted', 'Stopped on request.');
        const [actual, expected] = [await network.run(feed), await masked.run({ ...feed, ...masks })];
        worst = Math.max(worst, relativeError(actual, expected));
      }
      return { inputs, maxRelativeError: worst };
    });
  } finally {
    await masked.release();
  }
  return {
    groups: trials,
    inputs,
    maxRelativeError,
    skipped,
    isSensitive,
    ...(delivered !== undefined && { delivered }),
  };
}

/**
 * What the full network answers, each time.
 * @throws BonsaiError `engine_failure` that says which sizes were tried, where the file leaves them open
 */
async function outputsOf(
  session: Session,
  { graph }: Model,
  given: VerifyOptions['shapes'],
  shapes: ReadonlyMap<string, readonly number[]>,
  feeds: readonly Readonly<Record<string, Tensor>>[],
  masks: Readonly<Record<string, Tensor>>,
): Promise<Record<string, Tensor>[]> {
  const outputs: Record<string, Tensor>[] = [];
  try {
    for (const feed of feeds) outputs.push(await session.run({ ...feed, ...masks }));
  } catch (cause) {
    const open = graph.inputs.filter(
      ({ name, type }) =>
        ownValue(given, name) === undefined && type?.shape?.some((size) => typeof size !== 'number'),
    );
    if (open.length === 0 || !(cause instanceof BonsaiError)) throw cause;
    const tried = open.map(({ name }) => `--shape ${name}=${shapes.get(name)!.join(',')}`).join(' ');
    throw new BonsaiError(
      cause.code,
      `The file leaves sizes of its inputs open, and the network cannot compute what was tried (${tried}): give sizes ` +
        `that it takes with --shape. ${cause.message}`,
      { cause },
    );
  }
  return outputs;
}

/** Whether a network computes with integers that stand for real numbers. */
function isQuantized({ graph }: Model): boolean {
  return graph.nodes.some(({ opType }) => QUANTIZED.test(opType));
}

const QUANTIZED = /Quantize|^QLinear|Integer$/;

/** Undefined where there is nothing to compare, or the network lost channels over which means are taken. */
async function compareDelivered(
  { delivered }: MaskEquivalenceOptions,
  session: SessionOptions,
  groups: readonly Group[],
  compare: (network: Session, removed: readonly number[]) => Promise<DeliveredVerification>,
): Promise<DeliveredVerification | undefined> {
  if (delivered === undefined) return undefined;
  const groupOf = new Map(groups.map((group) => [group.key, group]));
  const removed: number[] = [];
  for (const { key, removed: positions } of delivered.groups) {
    const group = groupOf.get(key);
    if (group === undefined)
      throw new InvalidArgumentError(
        `The pruned network lost channels of the group "${key}", which the network to compare with does not have.`,
      );
    if (group.inexact !== undefined && positions.length > 0) return undefined;
    for (const position of positions) removed.push(group.units[position]!);
  }
  const network = await Session.create(writeModel(unrounded(delivered.model)), session);
  try {
    return await compare(network, removed);
  } finally {
    await network.release();
  }
}

export interface VerifyOptions {
  /** How many times to draw a group and channels of it. Every group comes up before one does again. */
  readonly groups: number;
  /** Random inputs for each. Default 8: one is too weak, channels that happen to be quiet on it hide a wrong slice. */
  readonly inputs?: number;
  readonly seed: number;
  /** Shapes of inputs whose sizes the file leaves open, by name; else those that weights tell, an open batch is 1, other open sizes `OPEN_SIZE`. */
  readonly shapes?: Readonly<Record<string, Shape>>;
  /** What attention loses, as in pruning. */
  readonly attention?: AttentionUnit;
  readonly intraOpThreads?: number;
}

export interface MaskEquivalenceOptions extends VerifyOptions {
  /** What pruning made of this very network (of `PruneResult.reference`). */
  readonly delivered?: Delivered;
  readonly onProgress?: (progress: VerifyProgress) => void;
  readonly isStopRequested?: () => boolean;
}

/** A `PruneResult`, as far as it takes to compare it. */
export interface Delivered {
  readonly model: Model;
  readonly groups: readonly Pick<PrunedGroup, 'key' | 'removed'>[];
}

export interface DeliveredVerification {
  readonly inputs: number;
  /** As of the random channels. */
  readonly maxRelativeError: number;
}

export const verifyDefaults = { inputs: 8 } as const satisfies Partial<VerifyOptions>;

export interface VerifyProgress {
  readonly done: number;
  readonly total: number;
  readonly maxRelativeError: number;
}

export interface Verification {
  /** Groups compared, each with other random channels removed. */
  readonly groups: number;
  /** Random inputs for each. */
  readonly inputs: number;
  /** The largest difference of an output, relative to the largest value of that output for the same input. */
  readonly maxRelativeError: number;
  /** Groups of the network that cannot be compared because what stays computes something else (`Group.inexact`). */
  readonly skipped: number;
  /**
   * False if no removal of channels changed an output by more than `MASK_TOLERANCE` (a network whose weights are all 0,
   * a Softmax that is saturated), or nothing was compared: then the error says nothing.
   */
  readonly isSensitive: boolean;
  /**
   * Of the pruned network that was given, on the channels that it lost; absent where none was given, or where channels
   * went that cannot be compared (`skipped`).
   */
  readonly delivered?: DeliveredVerification;
}

/** Up to which error a pruned network counts as right: float32 sums in another order, over a hundred layers. */
export const MASK_TOLERANCE = 1e-4;

/** At least one channel of the group and never all, each with a probability that is random itself. */
function randomUnits(group: Group, random: Random): number[] {
  const share = random.uniform();
  const order = permutation(group.channels, random);
  const count = Math.min(group.channels - 1, Math.max(1, Math.round(share * group.channels)));
  return Array.from(order.subarray(0, count), (position) => group.units[position]!);
}

/** What was drawn, less one channel of each value that would lose all of its own (a half that Split cuts off). */
function withoutLast(propagation: Propagation, groups: readonly Group[], drawn: readonly number[]): number[] {
  const scores = new Map<number, number>();
  for (const { units } of groups) for (const unit of units) scores.set(unit, 1);
  for (const unit of drawn) scores.set(unit, 0);
  const last = lastChannels(propagation, scores);
  return drawn.filter((unit) => !last.has(unit));
}

/** For axes that the file leaves open: enough for five halvings of an image, little enough to be quick. */
export const OPEN_SIZE = 64;

/** Definite shapes of all inputs: sizes given, those of the file, 1 for an open batch. */
function inputShapes(
  { graph }: Model,
  given: VerifyOptions['shapes'] = {},
): ReadonlyMap<string, readonly number[]> {
  checkInputShapes(graph, given);
  return new Map(
    graph.inputs.map(({ name, type }) => {
      const shape = ownValue(given, name) ?? type?.shape;
      if (shape === undefined) {
        throw new InvalidArgumentError(
          `The file does not tell the shape of the input "${name}"; give one to verify at, such as ${name}=1,3,224,224 (--shape).`,
        );
      }
      const isOpen = shape.some((size) => typeof size !== 'number');
      const weighed = isOpen ? sizesByWeights(graph, name, shape.length) : new Map<number, number>();
      return [
        name,
        shape.map((size, axis) =>
          typeof size === 'number' ? size : (weighed.get(axis) ?? (axis === 0 ? 1 : OPEN_SIZE)),
        ),
      ];
    }),
  );
}

/** Integers are indices more often than not; these two are valid in any table of at least two rows. */
export const RANDOM_INTEGERS = 2;

function randomFeeds(
  { graph }: Model,
  shapes: ReadonlyMap<string, readonly number[]>,
  random: Random,
): Record<string, Tensor> {
  return Object.fromEntries(
    graph.inputs.map((input) => [input.name, randomTensor(input, shapes.get(input.name)!, random)]),
  );
}

function randomTensor(input: ValueInfo, shape: readonly number[], random: Random): Tensor {
  const length = elementCount(shape);
  const integer = () => random.integer(RANDOM_INTEGERS);
  switch (input.type?.dtype) {
    case 'float32':
      return float32Tensor(
        shape,
        Float32Array.from({ length }, () => random.normal()),
      );
    case 'float64':
      return tensorOf(
        'float64',
        shape,
        Float64Array.from({ length }, () => random.normal()),
      );
    case 'int64':
      return int64Tensor(Array.from({ length }, integer), shape);
    case 'int32':
      return tensorOf('int32', shape, Int32Array.from({ length }, integer));
    case 'bool':
      return tensorOf('bool', shape, Uint8Array.from({ length }, integer));
    case 'uint8':
      return tensorOf(
        'uint8',
        shape,
        Uint8Array.from({ length }, () => random.integer(2 ** 8)),
      );
    default:
      throw new BonsaiError(
        'unsupported',
        `The input "${input.name}" is ${input.type?.dtype ?? 'no tensor'}; verifying feeds float32, float64, int32, int64, uint8 and bool.`,
      );
  }
}

/**
 * The largest difference between two results, relative to the largest magnitude of the same output; Infinity where
 * shapes differ or only one of them is a number. Integers (the class of an ArgMax) flip with the last bit of
 * what they are computed from, so they count only where there is nothing else.
 */
export function relativeError(
  actual: Readonly<Record<string, Tensor>>,
  expected: Readonly<Record<string, Tensor>>,
): number {
  const names = Object.keys(expected);
  const floats = names.filter((name) => expected[name]!.dtype.startsWith('float'));
  let worst = 0;
  for (const name of floats.length > 0 ? floats : names) {
    const [tensor, reference] = [actual[name], expected[name]!];
    if (tensor === undefined || tensor.shape.join() !== reference.shape.join())
      return Number.POSITIVE_INFINITY;
    const [a, b] = [elementsOf(tensor), elementsOf(reference)];
    let scale = 0;
    let difference = 0;
    for (let i = 0; i < b.length; i++) {
      const [left, right] = [Number(a[i]), Number(b[i])];
      if (Number.isFinite(right)) scale = Math.max(scale, Math.abs(right));
      if (!Object.is(left, right) && left !== right) {
        const apart = Math.abs(left - right);
        difference = Math.max(difference, Number.isNaN(apart) ? Number.POSITIVE_INFINITY : apart);
      }
    }
    if (difference > 0) worst = Math.max(worst, scale > 0 ? difference / scale : Number.POSITIVE_INFINITY);
  }
  return worst;
}
