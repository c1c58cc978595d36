import { build } from 'hdr-histogram-js';
import { BonsaiError } from '../base/errors.ts';
import type { Answer, Outcome } from './infer-client.ts';

/** One offered request and what became of it. Times in ms from the start of the run. */
export interface RequestRecord extends Answer {
  readonly dueMs: number;
  /** When it really left; `sentMs` − `dueMs` is the generator's own lateness, and part of the latency. */
  readonly sentMs: number;
  /** From the due time to the end of the answer (or to the refusal, the failure, the giving up). */
  readonly latencyMs: number;
}

/** A run in numbers, over all offered requests. Ratios lie in [0, 1] and are NaN where nothing was counted. */
export interface LoadSummary {
  readonly offered: number;
  readonly answered: number;
  /** Answered, but after the SLO. */
  readonly late: number;
  readonly refused: number;
  readonly errors: number;
  readonly timeouts: number;
  /** (late + refused + errors + timeouts) / offered: the share of requests without an answer in time. */
  readonly lateRatio: number;
  /** Right answers / answers, whenever they came. */
  readonly meanAccuracy: number;
  /** Right answers within the SLO / offered: what users got. */
  readonly effectiveAccuracy: number;
  /** Of requests that waited for an answer: the answered, and those given up (at the time of giving up). */
  readonly latencyMs: LatencyPercentiles;
  /** Answers by version, most used first. */
  readonly versions: readonly VersionShare[];
  /** What the requests without an answer ended with, most frequent first, `MOST_FAILURE_KINDS` at most. */
  readonly failures: readonly FailureKind[];
}

/** Requests that ended alike: messages that differ by their numbers alone count as one. */
export interface FailureKind {
  readonly outcome: Exclude<Outcome, 'ok'>;
  /** Of HTTP; 0 where there was none. */
  readonly status: number;
  /** The first of them. */
  readonly reason: string;
  readonly count: number;
}

/** More kinds than these are a list for `requests.csv`. */
export const MOST_FAILURE_KINDS = 5;

export interface LatencyPercentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export interface VersionShare {
  readonly version: string;
  readonly answered: number;
  /** Of all answers. */
  readonly ratio: number;
  readonly accuracy: number;
}

/** Latencies are counted in µs with 3 significant digits (0.1 % error), up to an hour. */
export const HISTOGRAM = { unitsPerMs: 1000, significantDigits: 3, highestMs: 3_600_000 } as const;

export function summarizeRecords(records: readonly RequestRecord[], sloMs: number): LoadSummary {
  const count = (outcome: Outcome) => records.filter((record) => record.outcome === outcome).length;
  const answers = records.filter(({ outcome }) => outcome === 'ok');
  const late = answers.filter(({ latencyMs }) => latencyMs > sloMs).length;
  const [refused, errors, timeouts] = [count('refused'), count('error'), count('timeout')];
  const inTimeAndRight = answers.filter(
    ({ latencyMs, correct }) => correct === true && latencyMs <= sloMs,
  ).length;
  return {
    offered: records.length,
    answered: answers.length,
    late,
    refused,
    errors,
    timeouts,
    lateRatio: (late + refused + errors + timeouts) / records.length,
    meanAccuracy: accuracyOf(answers),
    effectiveAccuracy: inTimeAndRight / records.length,
    latencyMs: percentilesOf(
      records
        .filter(({ outcome }) => outcome === 'ok' || outcome === 'timeout')
        .map(({ latencyMs }) => latencyMs),
    ),
    versions: versionShares(answers),
    failures: failureKinds(records).slice(0, MOST_FAILURE_KINDS),
  };
}

/** Percentiles by HDR histogram, in ms; NaN for no latencies. */
export function percentilesOf(latenciesMs: readonly number[]): LatencyPercentiles {
  const { unitsPerMs, significantDigits, highestMs } = HISTOGRAM;
  const histogram = build({
    lowestDiscernibleValue: 1,
    highestTrackableValue: highestMs * unitsPerMs,
    numberOfSignificantValueDigits: significantDigits,
  });
  for (const latencyMs of latenciesMs)
    histogram.recordValue(Math.round(Math.min(latencyMs, highestMs) * unitsPerMs));
  const at = (percentile: number) =>
    latenciesMs.length === 0 ? Number.NaN : histogram.getValueAtPercentile(percentile) / unitsPerMs;
  return { p50: at(50), p90: at(90), p99: at(99), p999: at(99.9), max: at(100) };
}

function versionShares(answers: readonly RequestRecord[]): VersionShare[] {
  const byVersion = new Map<string, RequestRecord[]>();
  for (const answer of answers) {
    const version = answer.version ?? '';
    const own = byVersion.get(version);
    if (own === undefined) byVersion.set(version, [answer]);
    else own.push(answer);
  }
  return [...byVersion]
    .map(([version, own]) => ({
      version,
      answered: own.length,
      ratio: own.length / answers.length,
      accuracy: accuracyOf(own),
    }))
    .sort((a, b) => b.answered - a.answered || a.version.localeCompare(b.version));
}

function failureKinds(records: readonly RequestRecord[]): FailureKind[] {
  const kinds = new Map<string, FailureKind>();
  for (const { outcome, status, reason = '' } of records) {
    if (outcome === 'ok') continue;
    const key = `${outcome} ${status} ${reason.replaceAll(/[\d.]+/g, '#')}`;
    const { count, ...first } = kinds.get(key) ?? { outcome, status, reason, count: 0 };
    kinds.set(key, { ...first, count: count + 1 });
  }
  return [...kinds.values()].sort((a, b) => b.count - a.count);
}

function accuracyOf(answers: readonly RequestRecord[]): number {
  return answers.filter(({ correct }) => correct === true).length / answers.length;
}

const CSV_COLUMNS = 'due_ms,sent_ms,latency_ms,status,outcome,version,correct,reason';
const OUTCOMES = { ok: true, refused: true, error: true, timeout: true } satisfies Record<Outcome, true>;

/** One line per request; times with 3 decimals (µs), absent values empty, `correct` as 1 or 0. */
export function recordsToCsv(records: readonly RequestRecord[]): string {
  const lines = records.map(({ dueMs, sentMs, latencyMs, status, outcome, version, correct, reason }) =>
    [
      dueMs.toFixed(3),
      sentMs.toFixed(3),
      latencyMs.toFixed(3),
      status,
      outcome,
      quoted(version ?? ''),
      correct === undefined ? '' : Number(correct),
      quoted(reason ?? ''),
    ].join(','),
  );
  return `${[CSV_COLUMNS, ...lines].join('\n')}\n`;
}

/**
 * Reads what `recordsToCsv` wrote.
 * @throws BonsaiError `corrupt_dataset` naming the file and the record.
 */
export function recordsFromCsv(text: string, name: string): RequestRecord[] {
  const rows = splitCsv(text, name);
  if (rows[0]?.join(',') !== CSV_COLUMNS) {
    throw new BonsaiError('corrupt_dataset', `${name} does not start with the header ${CSV_COLUMNS}.`);
  }
  return rows.slice(1).map((cells, i) => {
    const [dueMs, sentMs, latencyMs, status] = cells
      .slice(0, 4)
      .map((cell) => (cell === '' ? Number.NaN : Number(cell)));
    const [outcome, version, correct, reason] = cells.slice(4);
    const numbersAreFinite = [dueMs, sentMs, latencyMs, status].every((value) => Number.isFinite(value));
    if (cells.length !== 8 || !numbersAreFinite || !isOutcome(outcome!) || !/^[01]?$/.test(correct!)) {
      throw new BonsaiError(
        'corrupt_dataset',
        `${name}, request ${i + 1}: expected ${CSV_COLUMNS}, got "${cells.join(',')}".`,
      );
    }
    return {
      dueMs: dueMs!,
      sentMs: sentMs!,
      latencyMs: latencyMs!,
      status: status!,
      outcome,
      ...(version !== '' && { version: version! }),
      ...(correct !== '' && { correct: correct === '1' }),
      ...(reason !== '' && { reason: reason! }),
    };
  });
}

/** A run as one JSON document: what was asked (any JSON-able description), the summary, every request. */
export function runToJson(run: {
  readonly description: unknown;
  readonly summary: LoadSummary;
  readonly records: readonly RequestRecord[];
}): string {
  return `${JSON.stringify(run)}\n`;
}

function isOutcome(text: string): text is Outcome {
  return text in OUTCOMES;
}

function quoted(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Cells by row; quoted cells may hold commas, doubled quotes and line breaks (RFC 4180). */
function splitCsv(text: string, name: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  const cell = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/y;
  while (cell.lastIndex < text.length) {
    const start = cell.lastIndex;
    const match = cell.exec(text);
    if (match === null) {
      throw new BonsaiError(
        'corrupt_dataset',
        `${name}, request ${rows.length}: a broken quote at character ${start}.`,
      );
    }
    row.push(match[1]?.replaceAll('""', '"') ?? match[2] ?? '');
    if (match[3] === ',') continue;
    rows.push(row);
    row = [];
  }
  return rows;
}
