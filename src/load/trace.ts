import { readFile } from 'node:fs/promises';
import { gunzipSync } from 'node:zlib';
import { BonsaiError, InvalidArgumentError, messageOf, systemCodeOf } from '../base/errors.ts';
import { mean } from '../base/statistics.ts';
import type { DemandProfile } from './arrivals.ts';

/** Recorded demand: how many requests came in each interval of equal length. */
export interface Trace {
  readonly intervalMs: number;
  readonly counts: readonly number[];
}

/** Traces inflate to at most this: 10^7 lines of ~13 bytes, a third of a year by the second. */
export const MAX_TRACE_BYTES = 128 * 2 ** 20;

/**
 * Reads a trace file `second,count` (CSV, or gzip of it where the name ends in `.gz`).
 * @throws BonsaiError `missing_file`, `corrupt_dataset` (with the line).
 */
export async function readTrace(path: string): Promise<Trace> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    if (systemCodeOf(error) !== 'ENOENT') throw error;
    throw new BonsaiError('missing_file', `There is no trace file ${path}.`, { cause: error });
  }
  if (path.endsWith('.gz')) {
    try {
      bytes = gunzipSync(bytes, { maxOutputLength: MAX_TRACE_BYTES });
    } catch (error) {
      throw new BonsaiError('corrupt_dataset', `${path} cannot be decompressed: ${messageOf(error)}.`, {
        cause: error,
      });
    }
  }
  return parseTrace(new TextDecoder().decode(bytes), path);
}

/**
 * Parses the text of a trace. The header starts with `second,count` (further columns are allowed and left
 * out); seconds start at 0 and rise by the same whole number in every line, which is the interval.
 * @throws BonsaiError `corrupt_dataset` naming the file and the line.
 */
export function parseTrace(text: string, name: string): Trace {
  const lines = text.split(/\r?\n/);
  if (lines.at(-1) === '') lines.pop();
  const fail = (line: number, problem: string): never => {
    throw new BonsaiError('corrupt_dataset', `${name}, line ${line}: ${problem}.`);
  };
  const header = (lines[0] ?? '').split(',');
  if (header[0] !== 'second' || header[1] !== 'count') {
    fail(1, `expected a header that starts with second,count, got "${(lines[0] ?? '').slice(0, 80)}"`);
  }
  const rows = lines.slice(1).map((line, i) => {
    const cells = line.split(',');
    if (cells.length !== header.length) fail(i + 2, `expected ${header.length} columns, got ${cells.length}`);
    return [cells[0]!, cells[1]!].map((cell) =>
      /^\d{1,12}$/.test(cell) ? Number(cell) : fail(i + 2, `"${cell}" is not a whole number ≥ 0`),
    );
  });
  if (rows.length === 0) fail(1, 'there are no lines after the header');
  const stepSeconds = rows.length > 1 ? rows[1]![0]! : 1;
  if (stepSeconds < 1) fail(3, `seconds must rise, got ${stepSeconds} after ${rows[0]![0]}`);
  rows.forEach(([second], i) => {
    if (second !== i * stepSeconds) fail(i + 2, `expected second ${i * stepSeconds}, got ${second}`);
  });
  return { intervalMs: stepSeconds * 1000, counts: rows.map((row) => row[1]!) };
}

/** The trace between two times (ms, whole intervals: the first is rounded down, the last up). */
export function traceWindow(trace: Trace, startMs: number, endMs: number): Trace {
  const counts = trace.counts.slice(
    Math.floor(startMs / trace.intervalMs),
    Math.ceil(endMs / trace.intervalMs),
  );
  if (counts.length === 0) {
    const lengthMs = trace.counts.length * trace.intervalMs;
    throw new InvalidArgumentError(
      `The trace lasts ${lengthMs} ms; nothing lies between ${startMs} and ${endMs} ms.`,
    );
  }
  return { ...trace, counts };
}

/**
 * The demand of a trace, scaled so that its mean is `meanRps` (as recorded if absent): shape and relative
 * volatility stay.
 */
export function traceProfile(trace: Trace, meanRps?: number): DemandProfile {
  const rates = trace.counts.map((count) => (count * 1000) / trace.intervalMs);
  const recorded = mean(rates);
  if (meanRps !== undefined && !(meanRps >= 0 && recorded > 0)) {
    throw new InvalidArgumentError(
      `A trace of mean ${recorded} req/s cannot be scaled to a mean of ${meanRps}.`,
    );
  }
  const factor = meanRps === undefined ? 1 : meanRps / recorded;
  return {
    kind: 'steps',
    points: rates.map((rps, i) => ({ atMs: i * trace.intervalMs, rps: rps * factor })),
    durationMs: rates.length * trace.intervalMs,
  };
}
