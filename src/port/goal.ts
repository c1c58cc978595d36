import { BonsaiError } from '../base/errors.ts';
import { ownValue } from '../base/own-value.ts';
import { probeBlockSize } from '../engine/probe-block.ts';
import { describeTarget } from '../engine/target.ts';
import type { Model } from '../graph/model.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { allocate, costAt } from '../transform/prune/allocate.ts';
import {
  checkGoal,
  fastAllocations,
  formatGoal,
  type Goal,
  type GoalOptions,
  type GoalProblem,
  goalProblem,
  hurryDefaults,
  keptByKey,
  type ShareResult,
  type SpeedGoal,
  solveShare,
} from '../transform/prune/goal.ts';
import { distanceOf } from '../transform/prune/nearest.ts';
import { type PruneResult, prune } from '../transform/prune/prune.ts';
import { compareLatency } from './profile/compare-latency.ts';
import { profileLatency } from './profile/latency.ts';
import {
  type LatencyTable,
  type Level,
  latencyItems,
  measureLatencyTable,
  measureSegments,
  type SegmentMeasure,
} from './profile/latency-table.ts';
import { repeatUntilStable } from './profile/throughput.ts';
import { digestOf, type StepCache } from './step-cache.ts';

/**
 * Prunes a network to a goal. Shares of multiply-accumulates and parameters are a matter of counting
 * (`pruneToShare`); but with alignment 'auto' the widths for a share of multiply-accumulates are, of several allocations
 * that keep it, those that measure fastest here (`fastAllocations`). Throughput and latency are measured on this machine: first what every segment of the network takes
 * at block multiples (`measureLatencyTable`), from which the widths with the least saliency lost within the budget
 * follow (`allocate`); then the network so pruned as a whole, whose measured time corrects the budget, until it lies at
 * most `goalBand` better than the goal. Throughput means 1 / latency of ONNX Runtime alone at batch 1, on one thread
 * unless `threads` says otherwise; a server's is lower, and can be the measure by way of `measure.network`.
 *
 * Of the networks measured, the one returned meets the goal with the least saliency lost; should another with more
 * multiply-accumulates have measured faster than it, that one. Apart from the measurements, which the result records,
 * the outcome is determined by the arguments. A network that meets the goal as it is comes back whole.
 * @throws InvalidArgumentError for options that make no sense and shares that cannot be reached
 * @throws BonsaiError `unsupported` where no widths measure fast enough, with the fastest that was found; `empty_group` if
 *   nothing can be pruned; `aborted`; what measuring and the criterion throw
 */
export async function pruneToGoal(
  model: Model,
  goal: Goal,
  options: PruneToGoalOptions = {},
): Promise<GoalResult> {
  const { align: asked = 'auto', signal } = options;
  checkGoal(goal);
  if (signal?.aborted) throw new BonsaiError('aborted', 'Pruning to a goal was stopped before it began.');
  const align = asked === 'auto' ? await probeBlockSize() : asked;
  if ('share' in goal) {
    const problem = goalProblem(model, { ...options, align });
    const result = solveShare(problem, goal, options);
    if (goal.kind === 'flops' && asked === 'auto' && align > 1)
      return fastestOfShare(problem, result, { ...options, align });
    options.onProgress?.({ phase: 'search', share: 1 });
    return { ...result, align, iterations: [] };
  }
  return pruneToSpeed(model, goal, { ...options, align });
}

export interface PruneToGoalOptions extends Omit<GoalOptions, 'align'> {
  /**
   * Kept channels are a multiple of this; 'auto' (default): of the engine's block on this machine, and where a share of
   * multiply-accumulates leaves a choice, what is fastest here.
   */
  readonly align?: number | 'auto';
  /** Intra-op threads of ONNX Runtime while measuring. */
  readonly threads?: number;
  /** Other ways to measure, such as the throughput of a server. */
  readonly measure?: Partial<GoalMeasure>;
  /** Where measured tables are kept, by network and target. Without, they are measured each time. */
  readonly cache?: StepCache;
  readonly onProgress?: (progress: GoalProgress) => void;
  readonly signal?: AbortSignal;
}

export interface GoalMeasure {
  /** Milliseconds that one inference of an ONNX file takes (1000 / throughput). */
  readonly network: (model: Uint8Array) => Promise<number>;
  /** Milliseconds of small networks, on the same scale up to one factor. */
  readonly segments: SegmentMeasure;
}

export interface GoalProgress {
  /** 'segments': the table is measured; 'search': whole networks are. */
  readonly phase: 'segments' | 'search';
  /** Of the whole work, in [0, 1]; never falls. */
  readonly share: number;
}

export interface GoalResult extends PruneResult {
  readonly goal: Goal;
  readonly align: number;
  /** For shares: what is left. */
  readonly share?: number;
  /** For shares: the nearest one on the other side of the goal that the search found widths for, if any. */
  readonly acrossShare?: number;
  /** Where something was measured: the result and the network as it came. */
  readonly measured?: MeasuredGoal;
  /** Every network that was measured as a whole, in order. */
  readonly iterations: readonly GoalIteration[];
}

export interface MeasuredGoal {
  readonly latencyMs: number;
  readonly throughputPerSecond: number;
  readonly before: { readonly latencyMs: number; readonly throughputPerSecond: number };
  /** What was measured, for people. */
  readonly of: string;
}

export interface GoalIteration {
  /** Channels kept, in the order of the result's groups. */
  readonly kept: readonly number[];
  /** Multiply-accumulates as estimated by the search, which is exact for almost all networks. */
  readonly macs: number;
  /** Σ of the groups' losses (`choicesOf`). */
  readonly loss: number;
  /** From the table, scaled to the whole network that came in; absent for that network. */
  readonly predictedMs?: number;
  readonly measuredMs: number;
}

/** A result may be this much faster than the goal, as a factor; slower it may not be. */
export const goalBand = 1.1;

export const speedDefaults = {
  /** Aims at the middle of the band, so that noise on either side stays within. */
  aim: 1.05,
  /** Halving the interval would take this many from 100 % to half a percent; interpolation takes two to four. */
  iterations: 8,
  /** Shares of the width at which segments are measured; in between, time is interpolated. */
  levels: [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1],
  /** A window of runs whose median is one figure: long against the scheduler's slices. */
  windowMs: 300,
  minRuns: 7,
  maxRuns: 1000,
  /** Windows must agree this well, at best; a machine that others use never gets there and gives its calmest three. */
  spreadLimit: 1.04,
  maxWindows: 6,
  /** Runs that tell how many fit a window. */
  probeRuns: 5,
  /** All runs of a race between networks; a hundred turns of networks of a few milliseconds each. */
  raceMs: 5000,
  /** Networks whose times differ by less than this factor are as fast as each other. */
  tie: 1.02,
  /** Share of the work that the table is; the rest are whole networks. */
  tableShare: 0.6,
} as const;

type Settings = PruneToGoalOptions & { readonly align: number };

/**
 * Of a network pruned to a share of multiply-accumulates and its rivals of the same share, the one that measures
 * fastest; of those that are as fast, the one that loses least.
 */
async function fastestOfShare(
  problem: GoalProblem,
  counted: ShareResult,
  options: Settings,
): Promise<GoalResult> {
  const { onProgress, align, inputs, threads = 1 } = options;
  const { choices, folded, criterion, work } = problem;
  const keptOf = ({ groups }: PruneResult) => groups.map(({ kept }) => kept);
  const lossOf = (kept: readonly number[]) =>
    choices.reduce((sum, choice, group) => sum + choice.loss[choice.kept.indexOf(kept[group]!)]!, 0);
  const macsOf = (kept: ArrayLike<number>) => work.nodes.reduce((sum, node) => sum + node.macs(kept), 0);
  const candidates: ShareResult[] = [counted];
  const { goal, share: reached } = counted;
  const farthest = Math.max(distanceOf(reached, goal.share), Math.log(1 + hurryDefaults.excess));
  const least = Math.min(reached, goal.share);
  for (const { kept } of fastAllocations(problem, least)) {
    const options = { ratio: 0, align, criterion, kept: keptByKey(choices, kept), inputs };
    const rival = prune(folded, options);
    const share = (rival.macs?.after ?? 0) / (counted.macs?.before ?? Number.POSITIVE_INFINITY);
    // Widths may be too coarse for a rival of the same work, and where they were estimated wrongly it may have less.
    if (share >= least && distanceOf(share, goal.share) <= farthest)
      candidates.push({ ...rival, goal, share, acrossShare: counted.acrossShare });
  }
  const times = await raceNetworks([folded, ...candidates.map(({ model }) => model)], folded, options);
  const [beforeMs, ...ms] = times;
  const iterations = candidates.map((candidate, i): GoalIteration => {
    const kept = keptOf(candidate);
    return { kept, macs: macsOf(kept), loss: lossOf(kept), measuredMs: ms[i]! };
  });
  const bar = Math.min(...ms) * speedDefaults.tie;
  let best = -1;
  for (const [i, { measuredMs, loss }] of iterations.entries())
    if (measuredMs <= bar && (best < 0 || loss < iterations[best]!.loss)) best = i;
  onProgress?.({ phase: 'search', share: 1 });
  return {
    ...candidates[best]!,
    align,
    measured: {
      ...figures(iterations[best]!),
      before: figures({ measuredMs: beforeMs! }),
      of: measureName(options, threads),
    },
    iterations,
  };
}

/** Milliseconds of each network, taking turns so that what else the machine does meets them alike. */
async function raceNetworks(
  models: readonly Model[],
  original: Model,
  options: Settings,
): Promise<readonly number[]> {
  const { signal, onProgress, threads = 1, measure } = options;
  const bytes = models.map((model) => writeModel(model));
  if (measure?.network !== undefined) {
    const times: number[] = [];
    for (const each of bytes) times.push(await measure.network(each));
    return times;
  }
  const { raceMs, minRuns, maxRuns, probeRuns } = speedDefaults;
  const given = { threads, shapes: fixedShapes(original, options), signal };
  const probe = await compareLatency(bytes, { ...given, runs: probeRuns, warmup: 1 });
  const roundMs = probe.reduce((sum, { min }) => sum + min, 0);
  onProgress?.({ phase: 'search', share: PROBED_SHARE });
  const runs = Math.min(maxRuns, Math.max(minRuns, Math.ceil(raceMs / roundMs)));
  // The fastest run is the one that nobody disturbed.
  return (await compareLatency(bytes, { ...given, runs, warmup: probeRuns })).map(({ min }) => min);
}

/** Share of a race that is over once it is known how many runs it takes. */
const PROBED_SHARE = 0.1;

function measureName({ measure }: Settings, threads: number): string {
  if (measure?.network !== undefined) return 'as the caller measures';
  return `ONNX Runtime alone, batch 1, ${threads} thread${threads === 1 ? '' : 's'}`;
}

async function pruneToSpeed(model: Model, goal: SpeedGoal, options: Settings): Promise<GoalResult> {
  const { signal, onProgress, threads = 1, align } = options;
  const wantedMs = goal.kind === 'latency' ? goal.latencyMs : 1000 / goal.perSecond;
  const problem = goalProblem(model, options);
  const { folded, choices, work, criterion } = problem;
  const whole = choices.map(({ kept }) => kept.at(-1)!);
  const measureNetwork =
    options.measure?.network ??
    ((bytes: Uint8Array) => measureWhole(bytes, { threads, shapes: fixedShapes(folded, options), signal }));

  const iterations: GoalIteration[] = [];
  const measured = new Map<string, GoalIteration>();
  const macsAt = (kept: readonly number[]) => work.nodes.reduce((sum, node) => sum + node.macs(kept), 0);
  const pruned = (kept: readonly number[]): PruneResult =>
    prune(folded, {
      ratio: 0,
      align,
      criterion,
      kept: keptByKey(choices, kept),
      inputs: options.inputs,
    });
  const take = async (kept: readonly number[], loss: number, predictedMs?: number) => {
    if (signal?.aborted)
      throw new BonsaiError(
        'aborted',
        `Pruning to ${formatGoal(goal)} was stopped after ${iterations.length} networks.`,
      );
    const bytes = writeModel(predictedMs === undefined ? folded : pruned(kept).model);
    const measuredMs = await measureNetwork(bytes);
    const iteration = {
      kept,
      macs: macsAt(kept),
      loss,
      measuredMs,
      ...(predictedMs !== undefined && { predictedMs }),
    };
    iterations.push(iteration);
    measured.set(kept.join(), iteration);
    if (predictedMs !== undefined) {
      const { tableShare, iterations: most } = speedDefaults;
      const searched = (iterations.length - 1) / most;
      onProgress?.({ phase: 'search', share: tableShare + (1 - tableShare) * searched });
    }
    return iteration;
  };
  const finish = (best: GoalIteration, before: GoalIteration): GoalResult => {
    onProgress?.({ phase: 'search', share: 1 });
    const result = pruned(best.kept);
    return {
      ...result,
      ...(best === before && { model }),
      goal,
      align,
      measured: {
        ...figures(best),
        before: figures(before),
        of: measureName(options, threads),
      },
      iterations,
    };
  };

  const before = await take(whole, 0);
  if (before.measuredMs <= wantedMs) return finish(before, before);
  const table = await tableOf(problem, { ...options, threads });
  const items = latencyItems(table, work);
  const unitsPerMs = costAt(items, whole) / before.measuredMs;
  const narrowest = costAt(
    items,
    choices.map(({ kept }) => kept[0]!),
  );

  const aimMs = wantedMs / speedDefaults.aim;
  let slow = { budget: costAt(items, whole), ms: before.measuredMs };
  let fast: { budget: number; ms: number } | undefined;
  let budget = aimMs * unitsPerMs;
  for (let round = 0; round < speedDefaults.iterations; round++) {
    const { kept, cost, loss } = allocate(choices, items, Math.max(budget, narrowest), 'below');
    const isKnown = measured.has(kept.join());
    // Single blocks are too coarse for the goal, or the whole network is as fast as narrower ones: nothing is left to try.
    if (isKnown && fast !== undefined) break;
    const { measuredMs: ms } = measured.get(kept.join()) ?? (await take(kept, loss, cost / unitsPerMs));
    if (ms <= wantedMs && ms >= wantedMs / goalBand) break;
    if (ms > wantedMs && budget <= narrowest) break;
    if (ms <= wantedMs) fast = { budget, ms };
    else slow = { budget, ms };
    budget = fast === undefined ? budget * Math.min(aimMs / ms, SLOWEST_DESCENT) : between(fast, slow, aimMs);
  }

  const best = chosen(iterations, wantedMs);
  if (best === undefined) {
    const fastest = iterations.reduce((a, b) => (b.measuredMs < a.measuredMs ? b : a));
    throw new BonsaiError(
      'unsupported',
      `The goal ${formatGoal(goal)} was not reached: the fastest of ${iterations.length} networks took ` +
        `${fastest.measuredMs.toFixed(3)} ms (${(1000 / fastest.measuredMs).toFixed(1)}/s), the whole one ` +
        `${before.measuredMs.toFixed(3)} ms. Ask for less, lower \`align\` (--align), raise \`maxRatio\` (--max-ratio), ${problem.hasWhole ? 'leave fewer groups whole (--skip, --inner), ' : ''}or prune on a machine that is less busy.`,
    );
  }
  return finish(best, before);
}

/** A budget falls by at least this factor where the network that it gave is still too slow. */
const SLOWEST_DESCENT = 0.97;

/** Linear interpolation of the budget at which the wanted time is met, kept clear of the ends so that it moves. */
function between(
  fast: { readonly budget: number; readonly ms: number },
  slow: { readonly budget: number; readonly ms: number },
  aimMs: number,
): number {
  const at = slow.ms > fast.ms ? (aimMs - fast.ms) / (slow.ms - fast.ms) : 0.5;
  return fast.budget + Math.min(0.95, Math.max(0.05, at)) * (slow.budget - fast.budget);
}

/**
 * Of the networks that meet the goal the one that loses least; never one that another with more work outruns.
 * @returns undefined if none meets the goal
 */
export function chosen(candidates: readonly GoalIteration[], wantedMs: number): GoalIteration | undefined {
  let best: GoalIteration | undefined;
  for (const candidate of candidates) {
    if (candidate.measuredMs <= wantedMs && (best === undefined || candidate.loss < best.loss))
      best = candidate;
  }
  for (let better: GoalIteration | undefined = best; better !== undefined; ) {
    best = better;
    const { macs, measuredMs } = best;
    better = candidates.find((other) => other.macs > macs && other.measuredMs < measuredMs);
  }
  return best;
}

function figures({ measuredMs }: Pick<GoalIteration, 'measuredMs'>): {
  latencyMs: number;
  throughputPerSecond: number;
} {
  return { latencyMs: measuredMs, throughputPerSecond: 1000 / measuredMs };
}

/** The levels to measure segments at: every group at about the same share of its width, at widths that it may have. */
function levelsOf({ choices, folded, criterion, align }: GoalProblem): Level[] {
  const levels: Level[] = [];
  const seen = new Set<string>();
  for (const share of speedDefaults.levels) {
    const kept = choices.map(({ kept }) => nearest(kept, share * kept.at(-1)!));
    if (seen.has(kept.join())) continue;
    seen.add(kept.join());
    levels.push({
      kept,
      prune: () => prune(folded, { ratio: 0, align, criterion, kept: keptByKey(choices, kept) }).model,
    });
  }
  return levels;
}

function nearest(values: readonly number[], wanted: number): number {
  return values.reduce((best, value) => (Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best));
}

async function tableOf(
  problem: GoalProblem,
  options: Settings & { readonly threads: number },
): Promise<LatencyTable> {
  const { signal, onProgress, threads, cache, inputs } = options;
  const levels = levelsOf(problem);
  const slot = cache?.json<LatencyTable>(
    cache.key('latency-table', {
      network: digestOf(writeModel(problem.folded)),
      target: describeTarget({ cpus: threads }).fingerprint,
      levels: levels.map(({ kept }) => [...(kept as number[])]), // `levelsOf` makes arrays.
      inputs: inputs ?? {},
    }),
  );
  const measure =
    options.measure?.segments ??
    ((models: readonly Uint8Array[], onDone: (count: number) => void) =>
      measureSegments(models, { threads, signal, onDone }));
  // Other people's ways to measure are not known by the target, so what they gave is not kept.
  const isKept = options.measure?.segments === undefined;
  const known = isKept ? await slot?.load() : undefined;
  if (known !== undefined) return known;
  const table = await measureLatencyTable(levels, problem.work, {
    measure,
    inputs,
    onProgress: (share) => onProgress?.({ phase: 'segments', share: share * speedDefaults.tableShare }),
  });
  if (isKept) await slot?.save(table);
  return table;
}

/** The latency that stands: the median of windows that agree, each the median of many runs, in ms. */
async function measureWhole(
  bytes: Uint8Array,
  options: {
    readonly threads: number;
    readonly shapes: Readonly<Record<string, readonly number[]>>;
    readonly signal?: AbortSignal;
  },
): Promise<number> {
  const { windowMs, minRuns, maxRuns, probeRuns, spreadLimit, maxWindows } = speedDefaults;
  // With one thread, what others on the machine take away can be left out; so the figure is the network's own.
  const given = { ...options, undisturbed: options.threads === 1 };
  const probe = await profileLatency(bytes, { ...given, runs: probeRuns, warmup: 2 });
  const runs = Math.min(maxRuns, Math.max(minRuns, Math.ceil(windowMs / probe.median)));
  const windows = await repeatUntilStable(
    async () => (await profileLatency(bytes, { ...given, runs, warmup: probeRuns })).median,
    { spreadLimit, maxRepeats: maxWindows, signal: options.signal },
  );
  return windows.median;
}

function fixedShapes(model: Model, { inputs }: Settings): Record<string, readonly number[]> {
  return Object.fromEntries(
    model.graph.inputs.flatMap(({ name, type }) => {
      const shape = ownValue(inputs, name) ?? type?.shape;
      if (shape === undefined) return [];
      return [[name, shape.map((size) => (typeof size === 'number' ? size : 1))]];
    }),
  );
}
