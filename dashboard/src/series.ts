import type { Frame, TaskFrame, TaskOverview } from '../../src/serve/control/messages.ts';

/** Points of a line; more than so many are narrower than a pixel. */
const MAX_POINTS = 400;

/** Widths of points that people count in. */
const STEPS_MS = [2_000, 5_000, 10_000, 15_000, 30_000, 60_000];

/** Without a frame for so long there is a gap. */
const GAP_MS = 3_500;

/** Dots of a point that stands for several frames; a picture of more looks the same. */
const DOTS_PER_POINT = 6;

type Values = (number | null)[];

export interface Series {
  /** Seconds since the epoch. */
  readonly x: number[];
  /** Length of a point in ms; 0: each is a frame. */
  readonly stepMs: number;
  readonly cpuPercent: Values;
  readonly memoryMb: Values;
  readonly queued: Values;
  readonly demandRps: Values;
  readonly refusedRps: Values;
  readonly lateRps: Values;
  readonly tasks: ReadonlyMap<string, TaskSeries>;
}

export interface TaskSeries {
  readonly demandRps: Values;
  readonly answeredRps: Values;
  readonly refusedRps: Values;
  readonly lateRps: Values;
  readonly queued: Values;
  readonly sloMs: Values;
  readonly p50Ms: Values;
  readonly p99Ms: Values;
  /** Mean over the answers, of what is known. */
  readonly accuracy: Values;
  /** By point: the share of the answers of each version in memory. */
  readonly shares: (ReadonlyMap<number, number> | null)[];
  /** Flat, `DOT_FIGURES` each: seconds since the epoch, ms, version, 1 if that was beyond the objective of then. */
  readonly dots: number[];
}

/** What the charts show of a stretch of time. */
export function seriesOf(
  frames: readonly Frame[],
  tasks: readonly TaskOverview[],
  fromMs: number,
  toMs: number,
): Series {
  const stepMs = (toMs - fromMs) / 1000 <= MAX_POINTS ? 0 : stepOf(toMs - fromMs);
  const series: Series = {
    x: [],
    stepMs,
    cpuPercent: [],
    memoryMb: [],
    queued: [],
    demandRps: [],
    refusedRps: [],
    lateRps: [],
    tasks: new Map(tasks.map(({ task }) => [task, newTaskSeries()])),
  };
  const accuracies = new Map(
    tasks.map(({ task, versions }) => [task, new Map(versions.map((v) => [v.version, v.accuracy]))]),
  );
  // One point beyond each edge, so that lines go on to it.
  const marginMs = Math.max(stepMs, 2_000);
  let start = lowerBound(frames, fromMs - marginMs);
  const end = lowerBound(frames, toMs + marginMs);
  let lastMs: number | undefined;
  while (start < end) {
    const first = frames[start]!;
    let stop = start + 1;
    if (stepMs > 0) {
      const bucket = Math.floor(first.atMs / stepMs);
      while (stop < end && Math.floor(frames[stop]!.atMs / stepMs) === bucket) stop++;
    }
    if (lastMs !== undefined && first.atMs - lastMs > GAP_MS) gap(series, (lastMs + 1) / 1000);
    const part = frames.slice(start, stop);
    addPoint(series, part, stepMs, accuracies);
    addDots(series, part);
    lastMs = part.at(-1)!.atMs;
    start = stop;
  }
  return series;
}

function newTaskSeries(): TaskSeries {
  return {
    demandRps: [],
    answeredRps: [],
    refusedRps: [],
    lateRps: [],
    queued: [],
    sloMs: [],
    p50Ms: [],
    p99Ms: [],
    accuracy: [],
    shares: [],
    dots: [],
  };
}

function stepOf(spanMs: number): number {
  return STEPS_MS.find((stepMs) => spanMs / stepMs <= MAX_POINTS) ?? STEPS_MS.at(-1)!;
}

function gap(series: Series, x: number): void {
  series.x.push(x);
  for (const key of ['cpuPercent', 'memoryMb', 'queued', 'demandRps', 'refusedRps', 'lateRps'] as const)
    series[key].push(null);
  for (const task of series.tasks.values()) pushNothing(task);
}

function pushNothing(task: TaskSeries): void {
  for (const [key, values] of Object.entries(task)) if (key !== 'dots') values.push(null);
}

type Accuracies = ReadonlyMap<string, ReadonlyMap<number, number | undefined>>;

function addPoint(series: Series, part: readonly Frame[], stepMs: number, accuracies: Accuracies): void {
  const lastMs = part.at(-1)!.atMs;
  const x = stepMs === 0 ? lastMs : (Math.floor(lastMs / stepMs) + 0.5) * stepMs;
  const seconds = sum(part, ({ spanMs }) => spanMs) / 1000;
  series.x.push(x / 1000);
  series.cpuPercent.push(mean(part, ({ cpuUtilization: u }) => (u === undefined ? undefined : 100 * u)));
  series.memoryMb.push(mean(part, ({ memoryBytes: m }) => (m === undefined ? undefined : m / 2 ** 20)));
  let demand = 0;
  let refused = 0;
  let late = 0;
  let queued = 0;
  for (const [name, task] of series.tasks) {
    const own = part.flatMap(({ tasks }) => (Object.hasOwn(tasks, name) ? [tasks[name]!] : []));
    if (own.length === 0) {
      pushNothing(task);
      continue;
    }
    const refusals = sum(own, (frame) => frame.refused ?? frame.violations ?? 0);
    const delays = sum(own, (frame) => frame.late ?? 0);
    const arrivals = sum(own, (frame) => frame.arrivals);
    const waiting = Math.max(...own.map((frame) => frame.queued ?? 0));
    demand += arrivals;
    refused += refusals;
    late += delays;
    queued += waiting;
    task.demandRps.push(arrivals / seconds);
    task.answeredRps.push(
      own.every(({ answered }) => answered === undefined)
        ? null
        : sum(own, (frame) => frame.answered ?? 0) / seconds,
    );
    task.refusedRps.push(refusals / seconds);
    task.lateRps.push(delays / seconds);
    task.queued.push(waiting);
    task.sloMs.push(mean(own, ({ sloMs }) => sloMs));
    task.p50Ms.push(mean(own, ({ p50Ms }) => p50Ms));
    task.p99Ms.push(highest(own, ({ p99Ms }) => p99Ms));
    const shares = sharesOf(own);
    task.shares.push(shares);
    task.accuracy.push(meanAccuracy(shares, accuracies.get(name)!));
  }
  series.demandRps.push(demand / seconds);
  series.refusedRps.push(refused / seconds);
  series.lateRps.push(late / seconds);
  series.queued.push(queued);
}

/** Versions in memory at any time of it, with their shares of the answers; of one that tells none, the serving one has all. */
function sharesOf(frames: readonly TaskFrame[]): ReadonlyMap<number, number> {
  const counts = new Map<number, number>();
  let total = 0;
  for (const { resident, answersBy, servingVersion, arrivals, answered } of frames) {
    for (const version of Object.keys(resident))
      if (!counts.has(Number(version))) counts.set(Number(version), 0);
    for (const [version, count] of Object.entries(answersBy ?? {})) {
      counts.set(Number(version), (counts.get(Number(version)) ?? 0) + count);
      total += count;
    }
    if (answered === undefined && servingVersion !== undefined) {
      counts.set(servingVersion, (counts.get(servingVersion) ?? 0) + arrivals);
      total += arrivals;
    }
  }
  if (total > 0) for (const [version, count] of counts) counts.set(version, count / total);
  return counts;
}

function meanAccuracy(
  shares: ReadonlyMap<number, number>,
  accuracies: ReadonlyMap<number, number | undefined>,
): number | null {
  let weight = 0;
  let total = 0;
  for (const [version, share] of shares) {
    const accuracy = accuracies.get(version);
    if (accuracy === undefined) continue;
    weight += share;
    total += share * accuracy;
  }
  return weight > 0 ? total / weight : null;
}

/** Numbers that tell of one dot. */
export const DOT_FIGURES = 4;

/** All dots of a frame; of several an even choice, and always the slowest. */
function addDots(series: Series, part: readonly Frame[]): void {
  for (const [name, task] of series.tasks) {
    const own: number[] = [];
    let slowest = 0;
    for (const { atMs, tasks } of part) {
      if (!Object.hasOwn(tasks, name)) continue;
      const { dots = [], sloMs = Number.POSITIVE_INFINITY } = tasks[name]!;
      for (let i = 0; i < dots.length; i += 3) {
        own.push((atMs - dots[i]!) / 1000, dots[i + 1]!, dots[i + 2]!, dots[i + 1]! > sloMs ? 1 : 0);
        if (dots[i + 1]! > own[slowest + 1]!) slowest = own.length - DOT_FIGURES;
      }
    }
    const count = own.length / DOT_FIGURES;
    const stride = part.length === 1 ? 1 : Math.max(1, Math.ceil(count / DOTS_PER_POINT));
    const show = (first: number) => task.dots.push(...own.slice(first, first + DOT_FIGURES));
    for (let i = 0; i < count; i += stride) if (DOT_FIGURES * i !== slowest) show(DOT_FIGURES * i);
    if (count > 0) show(slowest);
  }
}

/** The first frame that is not earlier. */
function lowerBound(frames: readonly Frame[], atMs: number): number {
  let low = 0;
  let high = frames.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (frames[middle]!.atMs < atMs) low = middle + 1;
    else high = middle;
  }
  return low;
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  let total = 0;
  for (const item of items) total += value(item);
  return total;
}

function mean<T>(items: readonly T[], value: (item: T) => number | undefined): number | null {
  let total = 0;
  let count = 0;
  for (const item of items) {
    const own = value(item);
    if (own === undefined) continue;
    total += own;
    count++;
  }
  return count === 0 ? null : total / count;
}

function highest<T>(items: readonly T[], value: (item: T) => number | undefined): number | null {
  let found: number | null = null;
  for (const item of items) {
    const own = value(item);
    if (own !== undefined && (found === null || own > found)) found = own;
  }
  return found;
}
