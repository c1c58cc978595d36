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
}

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
  };
}

export interface Served {
  readonly batch: number;
  readonly totalMs: number;
  readonly queueMs: number;
  readonly computeMs: number;
  readonly epochMs: number;
}

export function countSuccess(statistics: VersionStatistics, served: Served): void {
  statistics.lastInferenceEpochMs = Math.round(served.epochMs);
  statistics.inferenceCount += served.batch;
  statistics.executionCount += 1;
  add(statistics.success, served.totalMs);
  add(statistics.queue, served.queueMs);
  add(statistics.computeInfer, served.computeMs);
  // Copying in and out of the ring is part of the hand-off, which counts as waiting.
  add(statistics.computeInput, 0);
  add(statistics.computeOutput, 0);
  const key =
    statistics.batches.size < MAX_BATCH_SIZES ? served.batch : Math.max(...statistics.batches.keys());
  const batch = statistics.batches.get(key) ?? { count: 0, ns: 0 };
  statistics.batches.set(key, batch);
  add(batch, served.computeMs);
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
