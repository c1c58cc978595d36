import { describe, expect, it } from 'vitest';
import { quantile } from '../base/statistics.ts';
import {
  percentilesOf,
  type RequestRecord,
  recordsFromCsv,
  recordsToCsv,
  runToJson,
  summarizeRecords,
} from './records.ts';

const makeRecord = (partial: Partial<RequestRecord> = {}): RequestRecord => ({
  dueMs: 0,
  sentMs: 0.125,
  latencyMs: 10,
  status: 200,
  outcome: 'ok',
  version: '1',
  correct: true,
  ...partial,
});

const failure = { version: undefined, correct: undefined };
const mixed: RequestRecord[] = [
  makeRecord(),
  makeRecord({ latencyMs: 20, correct: false }),
  makeRecord({ latencyMs: 500, version: '2' }),
  makeRecord({
    latencyMs: 1,
    status: 503,
    outcome: 'refused',
    ...failure,
    reason: 'queue full, try "later"\nplease',
  }),
  makeRecord({ latencyMs: 2, status: 0, outcome: 'error', ...failure, reason: 'ECONNRESET' }),
  makeRecord({ latencyMs: 1000, status: 0, outcome: 'timeout', ...failure }),
];

describe('a summary', () => {
  it('counts over all offered requests', () => {
    expect(summarizeRecords(mixed, 400)).toMatchObject({
      offered: 6,
      answered: 3,
      late: 1,
      refused: 1,
      errors: 1,
      timeouts: 1,
      lateRatio: 4 / 6, // one late, one refused, one failed, one given up
      meanAccuracy: 2 / 3, // the right late answer counts here …
      effectiveAccuracy: 1 / 6, // … and not here
      versions: [
        { version: '1', answered: 2, ratio: 2 / 3, accuracy: 0.5 },
        { version: '2', answered: 1, ratio: 1 / 3, accuracy: 1 },
      ],
    });
  });

  it('tells what requests without an answer ended with, those alike as one', () => {
    const refusal = (waitMs: number) =>
      makeRecord({ status: 503, outcome: 'refused', ...failure, reason: `would wait ${waitMs} ms` });
    const reset = makeRecord({ status: 0, outcome: 'error', ...failure, reason: 'ECONNRESET' });
    expect(summarizeRecords([reset, makeRecord(), refusal(412.5), refusal(7)], 400).failures).toEqual([
      { outcome: 'refused', status: 503, reason: 'would wait 412.5 ms', count: 2 },
      { outcome: 'error', status: 0, reason: 'ECONNRESET', count: 1 },
    ]);
  });

  it('takes percentiles that agree with sorting to 0.1 %', () => {
    const latencies = Array.from({ length: 10_000 }, (_, i) => 0.5 + ((i * 7919) % 10_000) * 0.37);
    const { p50, p99, p999, max } = percentilesOf(latencies);
    for (const [got, q] of [
      [p50, 0.5],
      [p99, 0.99],
      [p999, 0.999],
      [max, 1],
    ] as const) {
      expect(Math.abs(got / quantile(latencies, q) - 1)).toBeLessThan(0.0015);
    }
    expect(percentilesOf([]).p50).toBeNaN();
  });
});

describe('records', () => {
  it('survive CSV, awkward reasons included', () => {
    const present = mixed.map((record) => JSON.parse(JSON.stringify(record)));
    expect(recordsFromCsv(recordsToCsv(mixed), 'run.csv')).toEqual(present);
  });

  it.each([
    ['due,sent\n1,2\n', /header/],
    [`${recordsToCsv([])}1,2,3,200,fine,1,1,\n`, /request 1/],
    [`${recordsToCsv([])}1,2,,200,ok,1,1,\n`, /request 1/],
    [`${recordsToCsv([makeRecord()])}1,2,3,200,ok,"1,1,\n`, /broken quote/],
  ])('that are broken are refused: %j', (text, message) => {
    expect(() => recordsFromCsv(text, 'run.csv')).toThrowError(message);
  });

  it('are written as one JSON document', () => {
    const parsed = JSON.parse(
      runToJson({ description: { seed: 1 }, summary: summarizeRecords(mixed, 400), records: mixed }),
    );
    expect(parsed.description.seed).toBe(1);
    expect(parsed.records).toHaveLength(6);
  });
});
