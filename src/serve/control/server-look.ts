import type { Clock } from '../../base/clock.ts';
import type { DataPlane } from '../data-plane.ts';
import type { ModelRegistry } from '../model-registry.ts';
import type { LatencySample, RecentAnswers } from '../recent-latencies.ts';
import type { ServedModel } from '../served-model.ts';
import type { Look } from './board.ts';
import type { TaskFrame } from './messages.ts';

/** Latencies of each task shown per second: a picture of an hour has more dots than pixels anyway. */
export const DOTS_PER_LOOK = 6;

interface LookSources {
  readonly models: ModelRegistry;
  readonly plane: DataPlane;
  readonly clock: Clock;
  readonly cpuBudgetCores: number;
}

/** What counters said at the look before. */
interface Before {
  readonly arrivals: number;
  readonly refused: number;
  readonly late: number;
}

/**
 * Looks at a server in this process: each call tells what happened since the one before. Reads counters that the server
 * keeps anyway.
 */
export function serverLooks({ models, plane, clock, cpuBudgetCores }: LookSources): () => Look {
  let lastMs = clock.nowMs();
  let lastCpu = process.cpuUsage();
  const before = new Map<string, Before>();
  for (const model of models.models.values()) before.set(model.name, countersOf(model));
  return () => {
    const nowMs = clock.nowMs();
    const cpu = process.cpuUsage(lastCpu);
    const spanMs = Math.max(1, nowMs - lastMs);
    const tasks: Record<string, TaskFrame> = Object.create(null);
    for (const model of models.models.values()) {
      const now = countersOf(model);
      tasks[model.name] = taskFrame(model, plane, before.get(model.name) ?? NOTHING, now, nowMs);
      before.set(model.name, now);
    }
    lastCpu = process.cpuUsage();
    lastMs = nowMs;
    return {
      atMs: Math.round(clock.epochMs()),
      spanMs: Math.round(spanMs),
      cpuUtilization: short((cpu.user + cpu.system) / 1000 / spanMs / cpuBudgetCores),
      memoryBytes: process.memoryUsage.rss(),
      tasks,
    };
  };
}

/** The latency objective of a task; undefined: none. */
export function objectiveOf(model: ServedModel, plane: DataPlane): number | undefined {
  return plane.objectiveMsOf(model) ?? model.stored?.manifest?.sloMs;
}

const NOTHING: Before = { arrivals: 0, refused: 0, late: 0 };

function countersOf({ arrivals, batchArrivals, refusals, recent }: ServedModel): Before {
  let refused = 0;
  for (const count of refusals.values()) refused += count;
  return {
    arrivals: arrivals.accepted + arrivals.refused + arrivals.invalid - batchArrivals,
    refused,
    late: recent.late,
  };
}

function taskFrame(
  model: ServedModel,
  plane: DataPlane,
  before: Before,
  now: Before,
  nowMs: number,
): TaskFrame {
  const answers = model.recent.take();
  let answered = 0;
  for (const count of answers.counts.values()) answered += count;
  const sorted = Float64Array.from(answers.samples, ({ latencyMs }) => latencyMs).sort();
  return {
    arrivals: now.arrivals - before.arrivals,
    answered,
    late: now.late - before.late,
    refused: now.refused - before.refused,
    queued: plane.queued(model),
    sloMs: objectiveOf(model, plane),
    ...(sorted.length > 0 && {
      p50Ms: short(quantile(sorted, 0.5)),
      p99Ms: short(quantile(sorted, 0.99)),
      maxMs: short(answers.slowest!.latencyMs),
      dots: dotsOf(answers, nowMs),
    }),
    servingVersion: model.current?.version,
    resident: Object.fromEntries(
      model.liveVersions.map(({ version, resident }) => [version, short(resident.serviceMs)]),
    ),
    ...(answered > 0 && { answersBy: Object.fromEntries(answers.counts) }),
    totals: { ...model.arrivals, refused: now.refused, late: now.late },
  };
}

/** An even choice, and always the slowest: outliers are what one looks for. */
function dotsOf({ samples, slowest }: RecentAnswers, nowMs: number): number[] {
  const chosen: LatencySample[] = [];
  const count = Math.min(DOTS_PER_LOOK - 1, samples.length);
  for (let i = 0; i < count; i++) chosen.push(samples[Math.floor(((i + 0.5) * samples.length) / count)]!);
  const isShown = chosen.some(
    ({ atMs, latencyMs }) => atMs === slowest!.atMs && latencyMs === slowest!.latencyMs,
  );
  if (!isShown) chosen.push(slowest!);
  return chosen.flatMap(({ atMs, latencyMs, version }) => [
    Math.max(0, Math.round(nowMs - atMs)),
    short(latencyMs),
    version,
  ]);
}

/** The smallest value that at least this share of all does not exceed. */
function quantile(sorted: Float64Array, q: number): number {
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)]!;
}

/** Three digits are more than a picture shows. */
function short(value: number): number {
  return Number(value.toPrecision(3));
}
