import { mean, quantile } from '../../base/statistics.ts';
import type { RequestRecord } from '../../load/records.ts';
import type { TaskManifest } from '../../repository/types.ts';
import type { CpuSample, RawRun } from './run-live.ts';

/** A run as it is stored: exact figures over all requests, and what its figures are drawn from. Times from the end of the warm-up. */
export interface LiveRun {
  readonly name: string;
  readonly sloMs: number;
  readonly durationMs: number;
  readonly offered: number;
  /** Late, refused or failed, over all offered. */
  readonly violationRatio: number;
  /** Of the versions that answered, over all answers; 1 would be each task's best version always. */
  readonly normalisedAccuracy: number;
  /** By watched process. */
  readonly servers: readonly {
    readonly name: string;
    readonly cpu: readonly CpuSample[];
    /** Mean; null where it cannot be read. */
    readonly utilization: number | null;
  }[];
  /** Versions loaded while requests came; absent where nobody counts them. */
  readonly loads?: number;
  readonly tasks: readonly LiveTaskRun[];
}

export interface LiveTaskRun {
  readonly task: string;
  readonly offered: number;
  readonly answered: number;
  readonly late: number;
  readonly refused: number;
  readonly failed: number;
  readonly violationRatio: number;
  /** Mean test accuracy of the versions that answered. */
  readonly accuracy: number;
  /** The same over that of the best version. */
  readonly normalisedAccuracy: number;
  /** Right answers of all answers, where the inputs are labelled. */
  readonly scoredAccuracy: number | null;
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
  /** As many as a figure can show, columns of equal length; `outcome` by the names below. */
  readonly dots: {
    readonly dueMs: readonly number[];
    readonly latencyMs: readonly number[];
    readonly outcome: readonly number[];
  };
  /** The version that answered most, stretch by stretch. */
  readonly bands: readonly { readonly atMs: number; readonly version: string; readonly accuracy: number }[];
  readonly bucketMs: number;
  /** By bucket: requests per second, and the share of them that was violated. */
  readonly demandRps: readonly number[];
  readonly violationRatios: readonly number[];
  /** Shares of the answers, most accurate version first. */
  readonly shares: readonly { readonly version: number; readonly ratio: number }[];
}

/** In the order of the numbers of `dots.outcome`. */
export const DOT_OUTCOMES = ['ok', 'refused', 'error', 'timeout'] as const;

export interface LiveRunOptions {
  readonly name: string;
  readonly sloMs: number;
  readonly durationMs: number;
  /** Requests that were due earlier belong to the warm-up. */
  readonly countedFromMs: number;
  readonly manifests: readonly TaskManifest[];
  readonly isLabelled: readonly boolean[];
  readonly serverNames: readonly string[];
}

/** A run for the store. */
export function liveRunOf({ records, cpu }: RawRun, options: LiveRunOptions): LiveRun {
  const { name, sloMs, durationMs, countedFromMs, manifests, isLabelled, serverNames } = options;
  const tasks = manifests.map((manifest, k) =>
    taskRunOf(
      records[k]!.filter(({ dueMs }) => dueMs >= countedFromMs).map((record) => ({
        ...record,
        dueMs: record.dueMs - countedFromMs,
      })),
      manifest,
      { sloMs, durationMs, isLabelled: isLabelled[k]! },
    ),
  );
  const offered = sum(tasks.map((task) => task.offered));
  const answered = sum(tasks.map((task) => task.answered));
  return {
    name,
    sloMs,
    durationMs,
    offered,
    violationRatio: sum(tasks.map((task) => task.late + task.refused + task.failed)) / offered,
    normalisedAccuracy:
      sum(tasks.map((task) => (task.answered === 0 ? 0 : task.normalisedAccuracy * task.answered))) /
      answered,
    servers: serverNames.map((server, i) => {
      const own = (cpu[i] ?? [])
        .map(({ atMs, utilization }) => ({
          atMs: Math.round(atMs - countedFromMs),
          utilization: rounded(utilization, 4),
        }))
        .filter(({ atMs }) => atMs > 0 && atMs <= durationMs);
      return {
        name: server,
        cpu: own,
        utilization: own.length === 0 ? null : rounded(mean(own.map(({ utilization }) => utilization)), 5),
      };
    }),
    tasks,
  };
}

function taskRunOf(
  records: readonly RequestRecord[],
  { task, variants }: TaskManifest,
  { sloMs, durationMs, isLabelled }: { sloMs: number; durationMs: number; isLabelled: boolean },
): LiveTaskRun {
  const accuracyOf = new Map(variants.map(({ version, accuracy }) => [String(version), accuracy.test]));
  const best = Math.max(...accuracyOf.values());
  const answers = records.filter(({ outcome }) => outcome === 'ok');
  const late = answers.filter(({ latencyMs }) => latencyMs > sloMs).length;
  const refused = records.filter(({ outcome }) => outcome === 'refused').length;
  const failed = records.length - answers.length - refused;
  const accuracy = mean(answers.map(({ version }) => accuracyOf.get(version ?? '') ?? Number.NaN));
  const latencies = answers.map(({ latencyMs }) => latencyMs);
  return {
    task,
    offered: records.length,
    answered: answers.length,
    late,
    refused,
    failed,
    violationRatio: (late + refused + failed) / records.length,
    accuracy,
    normalisedAccuracy: accuracy / best,
    scoredAccuracy:
      isLabelled && answers.length > 0
        ? answers.filter(({ correct }) => correct === true).length / answers.length
        : null,
    p50Ms: answers.length === 0 ? null : rounded(quantile(latencies, 0.5), 3),
    p99Ms: answers.length === 0 ? null : rounded(quantile(latencies, 0.99), 3),
    dots: thinned(records, durationMs),
    ...bucketsOf(records, accuracyOf, { sloMs, durationMs }),
    shares: variants.flatMap(({ version }) => {
      const own = answers.filter((answer) => answer.version === String(version)).length;
      return own === 0 ? [] : [{ version, ratio: rounded(own / answers.length, 5) }];
    }),
  };
}

/** Finer than a figure's pixels: one dot of each outcome in a cell of time and logarithm of latency. */
export const THINNING = { times: 450, perDecade: 30 } as const;

/** The dots that a figure would show: others lie under them. */
export function thinned(
  records: readonly Pick<RequestRecord, 'dueMs' | 'latencyMs' | 'outcome'>[],
  durationMs: number,
): LiveTaskRun['dots'] {
  const dueMs: number[] = [];
  const latencies: number[] = [];
  const outcomes: number[] = [];
  const seen = new Set<string>();
  for (const record of records) {
    const time = Math.floor((record.dueMs / durationMs) * THINNING.times);
    const height = Math.round(Math.log10(Math.max(0.01, record.latencyMs)) * THINNING.perDecade);
    const outcome = DOT_OUTCOMES.indexOf(record.outcome);
    const cell = `${time},${outcome === 0 ? height : ''},${outcome}`;
    if (seen.has(cell)) continue;
    seen.add(cell);
    dueMs.push(Math.round(record.dueMs));
    latencies.push(rounded(record.latencyMs, 2));
    outcomes.push(outcome);
  }
  return { dueMs, latencyMs: latencies, outcome: outcomes };
}

/** Stretches of time over which versions, demand and violations are drawn: so many in a run, of half a second at least. */
const BUCKETS = 120;
const LEAST_BUCKET_MS = 500;

function bucketsOf(
  records: readonly RequestRecord[],
  accuracyOf: ReadonlyMap<string, number>,
  { sloMs, durationMs }: { sloMs: number; durationMs: number },
): Pick<LiveTaskRun, 'bands' | 'bucketMs' | 'demandRps' | 'violationRatios'> {
  const bucketMs = Math.max(LEAST_BUCKET_MS, durationMs / BUCKETS);
  const count = Math.max(1, Math.ceil(durationMs / bucketMs));
  const buckets = Array.from({ length: count }, () => ({
    offered: 0,
    violated: 0,
    versions: new Map<string, number>(),
  }));
  for (const { dueMs, latencyMs, outcome, version } of records) {
    const bucket = buckets[Math.min(count - 1, Math.floor(dueMs / bucketMs))]!;
    bucket.offered++;
    if (outcome !== 'ok' || latencyMs > sloMs) bucket.violated++;
    if (outcome === 'ok' && version !== undefined)
      bucket.versions.set(version, (bucket.versions.get(version) ?? 0) + 1);
  }
  const bands: { atMs: number; version: string; accuracy: number }[] = [];
  for (const [i, { versions }] of buckets.entries()) {
    const [most] = [...versions].toSorted((a, b) => b[1] - a[1]);
    if (most === undefined || bands.at(-1)?.version === most[0]) continue;
    const accuracy = accuracyOf.get(most[0]) ?? 0;
    bands.push({ atMs: bands.length === 0 ? 0 : Math.round(i * bucketMs), version: most[0], accuracy });
  }
  return {
    bands,
    bucketMs,
    demandRps: buckets.map(({ offered }) => rounded((1000 * offered) / bucketMs, 2)),
    violationRatios: buckets.map(({ offered, violated }) =>
      offered === 0 ? 0 : rounded(violated / offered, 4),
    ),
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
