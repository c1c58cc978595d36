import { type Histogram, newHistogram, observe } from './histogram.ts';

/**
 * Everything counted of one loaded version since it was loaded, in plain numbers: cheap to keep per request, read by the
 * statistics extension and by the metrics alike. Times in ns, as the statistics extension has them.
 */
export interface VersionStatistics {
  lastInferenceEpochMs: number;
  /** Sum of batch sizes. */
  inferenceCount: number;
  executionCount: number;
  readonly success: Duration;
  readonly fail: Duration;
  readonly queue: Duration;
  readonly computeInput: Duration;
  readonly computeInfer: Duration;
  readonly computeOutput: Duration;
  readonly failures: Record<FailureReason, number>;
  /** By batch size. */
  readonly batches: Map<number, Duration>;
  /** Of answered requests, in seconds. */
  readonly queueSeconds: Histogram;
  /** Time left to the objective when the answer was there, in seconds; negative: it was late. */
  readonly slackSeconds: Histogram;
}

/** A request waits between nothing and the longest wait that is allowed. */
const QUEUE_BOUNDS_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];

/** Around zero as fine as objectives are: the share of late answers is the bucket of 0. */
const SLACK_BOUNDS_SECONDS = [
  -1, -0.5, -0.2, -0.1, -0.05, -0.02, 0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1,
];

export interface Duration {
  count: number;
  ns: number;
}

export const FAILURE_REASONS = ['REJECTED', 'CANCELED', 'BACKEND', 'OTHER'] as const;
export type FailureReason = (typeof FAILURE_REASONS)[number];

/** Batch sizes told apart; larger ones are counted with the largest seen, so that the record stays bounded. */
export const MAX_BATCH_SIZES = 64;

export function newStatistics(): VersionStatistics {
  return {
    lastInferenceEpochMs: 0,
    inferenceCount: 0,
    executionCount: 0,
    success: { count: 0, ns: 0 },
    fail: { count: 0, ns: 0 },
    queue: { count: 0, ns: 0 },
    computeInput: { count: 0, ns: 0 },
    computeInfer: { count: 0, ns: 0 },
    computeOutput: { count: 0, ns: 0 },
    failures: { REJECTED: 0, CANCELED: 0, BACKEND: 0, OTHER: 0 },
    batches: new Map(),
    queueSeconds: newHistogram(QUEUE_BOUNDS_SECONDS),
    slackSeconds: newHistogram(SLACK_BOUNDS_SECONDS),
  };
}

/** A request that was answered. */
export interface Served {
  /** Examples in the request. */
  readonly rows: number;
  readonly totalMs: number;
  readonly queueMs: number;
  /** Of the whole job that the request was part of. */
  readonly computeMs: number;
  readonly epochMs: number;
  /** The latency objective of the request; undefined: it has none. */
  readonly objectiveMs?: number;
}

export function countSuccess(statistics: VersionStatistics, served: Served): void {
  statistics.lastInferenceEpochMs = Math.round(served.epochMs);
  statistics.inferenceCount += served.rows;
  add(statistics.success, served.totalMs);
  add(statistics.queue, served.queueMs);
  observe(statistics.queueSeconds, served.queueMs / 1000);
  if (served.objectiveMs !== undefined)
    observe(statistics.slackSeconds, (served.objectiveMs - served.totalMs) / 1000);
  add(statistics.computeInfer, served.computeMs);
  // Copying in and out of the ring is part of the hand-off, which counts as waiting.
  add(statistics.computeInput, 0);
  add(statistics.computeOutput, 0);
}

/** Counts a job over so many examples, of one request or of several that were merged. */
export function countExecution(statistics: VersionStatistics, rows: number, computeMs: number): void {
  statistics.executionCount += 1;
  const { batches } = statistics;
  const key = batches.has(rows) || batches.size < MAX_BATCH_SIZES ? rows : Math.max(...batches.keys());
  const batch = batches.get(key) ?? { count: 0, ns: 0 };
  batches.set(key, batch);
  add(batch, computeMs);
}

export function countFailure(statistics: VersionStatistics, reason: FailureReason, totalMs: number): void {
  statistics.failures[reason] += 1;
  add(statistics.fail, totalMs);
}

const NS_PER_MS = 1e6;

function add(duration: Duration, ms: number): void {
  duration.count += 1;
  duration.ns += Math.round(Math.max(0, ms) * NS_PER_MS);
}
