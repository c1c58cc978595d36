import { workerUrl } from '../../base/worker-url.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model, Shape } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import type { Kept, NetworkWork, WorkItem } from '../../transform/prune/network-work.ts';
import { runJob } from '../worker-job.ts';
import { type ExtractedSegment, extractSegments } from './segments.ts';

/**
 * What each segment of a network takes on this machine at the widths that pruning may give it. The network is pruned
 * to a dozen levels, every group at block multiples; at each level every segment (`segmentsOf`) is measured alone, and
 * segments that do the same work are measured once. That takes as long as a few hundred small sessions, where
 * measuring whole networks would take one per group and width, and would look for the difference of one group in the
 * noise of the whole. What it leaves out (reordering between layouts, the caches' state) is proportional enough to be
 * caught by one factor, which the caller finds by measuring whole networks.
 * @param levels the network at each level, the whole one first, and the channels that its groups keep there
 * @param work the whole network's, in terms of the same groups
 */
export async function measureLatencyTable(
  levels: readonly Level[],
  work: NetworkWork,
  options: LatencyTableOptions,
): Promise<LatencyTable> {
  const { measure, inputs, onProgress } = options;
  const workOf = new Map(work.nodes.map((node) => [node.output, node]));
  const known = new Map<string, number>();
  const segments = new Map<string, SegmentTimes & { points: SegmentPoint[] }>();
  for (const [index, { prune, kept }] of levels.entries()) {
    const found = extractSegments(prune(), inputs);
    const fresh = new Map<string, ExtractedSegment>();
    for (const segment of found) if (!known.has(segment.signature)) fresh.set(segment.signature, segment);
    const models = [...fresh.values()].map(({ model }) => writeModel(model));
    const times = await measure(models, (done) =>
      onProgress?.((index + done / Math.max(1, models.length)) / levels.length),
    );
    for (const [i, signature] of [...fresh.keys()].entries()) known.set(signature, times[i]!);
    for (const { outputs, signature } of found) {
      const ms = known.get(signature)!;
      if (!Number.isFinite(ms)) continue;
      const key = outputs.at(-1)!;
      const segment = segments.get(key) ?? { outputs, points: [] };
      const nodes = outputs.map((output) => workOf.get(output)).filter((node) => node !== undefined);
      segment.points.push({ work: amountOf(nodes, kept), ms });
      segments.set(key, segment);
    }
    onProgress?.((index + 1) / levels.length);
  }
  return {
    segments: [...segments.values()].map(({ outputs, points }) => ({
      outputs,
      points: ascending(points),
    })),
  };
}

export interface Level {
  readonly kept: Kept;
  /** The network at this level; asked for once, when its turn comes. */
  readonly prune: () => Model;
}

export interface LatencyTable {
  readonly segments: readonly SegmentTimes[];
}

export interface SegmentTimes {
  /** The first output of each node of the segment. */
  readonly outputs: readonly string[];
  /** Work and time, both ascending. */
  readonly points: readonly SegmentPoint[];
}

export interface SegmentPoint {
  /** Multiply-accumulates; elements read and written for segments that do not multiply. */
  readonly work: number;
  readonly ms: number;
}

export interface LatencyTableOptions {
  /** Time of one inference of each small network in ms; NaN for one that cannot run. */
  readonly measure: SegmentMeasure;
  /** Shapes of the network's inputs, where the file leaves more than the batch open. */
  readonly inputs?: Readonly<Record<string, Shape>>;
  /** @param share of the measurements that are done, in [0, 1] */
  readonly onProgress?: (share: number) => void;
}

export type SegmentMeasure = (
  models: readonly Uint8Array[],
  onDone: (count: number) => void,
) => Promise<readonly number[]>;

/** The table as items of a search: the time of each segment at the widths of its groups, between the measured points. */
export function latencyItems(table: LatencyTable, work: NetworkWork): WorkItem[] {
  const workOf = new Map(work.nodes.map((node) => [node.output, node]));
  return table.segments.map(({ outputs, points }) => {
    const nodes = outputs.map((output) => workOf.get(output)).filter((node) => node !== undefined);
    return {
      groups: [...new Set(nodes.flatMap(({ groups }) => groups))],
      amount: (kept) => interpolate(points, amountOf(nodes, kept)),
    };
  });
}

/**
 * Time at an amount of work: linear between points, proportional below the first, and beyond the last with the last
 * point's time per work.
 */
export function interpolate(points: readonly SegmentPoint[], work: number): number {
  const above = points.findIndex((point) => point.work >= work);
  const to = points[above === -1 ? points.length - 1 : above];
  if (to === undefined) return 0;
  const from = above > 0 ? points[above - 1]! : { work: 0, ms: 0 };
  if (above === -1 || to.work === from.work) return to.work === 0 ? to.ms : (to.ms * work) / to.work;
  return from.ms + ((work - from.work) / (to.work - from.work)) * (to.ms - from.ms);
}

/**
 * Points in the order of work with times that never fall: neighbours that do are replaced by their mean (isotonic
 * regression by pooling), because more work at block multiples does take longer, and a dip is noise.
 */
export function ascending(points: readonly SegmentPoint[]): SegmentPoint[] {
  const sorted = [...points].sort((a, b) => a.work - b.work);
  const pools: { ms: number; members: SegmentPoint[] }[] = [];
  for (const point of sorted) {
    let pool = { ms: point.ms, members: [point] };
    for (let last = pools.at(-1); last !== undefined && last.ms >= pool.ms; last = pools.at(-1)) {
      const members = [...last.members, ...pool.members];
      pool = { ms: members.reduce((sum, { ms }) => sum + ms, 0) / members.length, members };
      pools.pop();
    }
    pools.push(pool);
  }
  const risen = pools.flatMap(({ ms, members }) => members.map(({ work }) => ({ work, ms })));
  return risen.filter(({ work }, i) => work !== risen[i - 1]?.work);
}

function amountOf(
  nodes: readonly { macs(kept: Kept): number; elements(kept: Kept): number }[],
  kept: Kept,
): number {
  const macs = nodes.reduce((sum, node) => sum + node.macs(kept), 0);
  return macs > 0 ? macs : nodes.reduce((sum, node) => sum + node.elements(kept), 0);
}

/**
 * Times of small networks by ONNX Runtime, one after the other in a worker thread: for each the fastest of several
 * runs, less what a call of the engine takes in itself.
 * @throws BonsaiError `aborted`, `worker_lost`
 */
export async function measureSegments(
  models: readonly Uint8Array[],
  options: SegmentOptions = {},
): Promise<number[]> {
  const { threads, minRuns, budgetMs, seed } = { ...segmentDefaults, ...options };
  const order: SegmentOrder = { models: [emptyNetwork(), ...models], threads, minRuns, budgetMs, seed };
  const times: number[] = [];
  await runJob<SegmentOrder, SegmentEvent, true>(workerUrl(import.meta.url, 'segment-worker'), order, {
    signal: options.signal,
    onEvent({ index, ms }) {
      times[index] = ms;
      if (index > 0) options.onDone?.(index);
    },
  });
  const [callMs, ...measured] = times;
  return measured.map((ms) => Math.max(ms - callMs!, ms * segmentDefaults.leastShare));
}

export interface SegmentOptions {
  /** Intra-op threads of ONNX Runtime. */
  readonly threads?: number;
  readonly minRuns?: number;
  readonly budgetMs?: number;
  readonly seed?: number;
  readonly signal?: AbortSignal;
  readonly onDone?: (count: number) => void;
}

export const segmentDefaults = {
  threads: 1,
  /** Enough that one run in ten undisturbed is found; the first, which warms up, is never the fastest. */
  minRuns: 12,
  /** Small segments run in a few dozen microseconds; within this many milliseconds they run hundreds of times. */
  budgetMs: 15,
  seed: 1,
  /** Of a time that a call without work takes as well, what is left at least: nothing is free. */
  leastShare: 0.05,
} as const;

export interface SegmentOrder {
  readonly models: readonly Uint8Array[];
  readonly threads: number;
  readonly minRuns: number;
  readonly budgetMs: number;
  readonly seed: number;
}

export interface SegmentEvent {
  readonly index: number;
  readonly ms: number;
}

/** What a call costs that computes next to nothing. */
function emptyNetwork(): Uint8Array {
  const build = new GraphBuilder('empty');
  const x = build.input('x', 'float32', [1, 1]);
  build.output(build.op('Relu', [x]), 'float32', [1, 1]);
  return writeModel(modelOf(build.finish()));
}
