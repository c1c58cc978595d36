import { expect, it } from 'vitest';
import { summarizeRecords } from '../load/records.ts';
import { describeSummary, formatPercent } from './stress.ts';

it('prints a dash, never NaN, where nothing was answered', () => {
  const refused = { dueMs: 0, sentMs: 0, latencyMs: 1, status: 503, outcome: 'refused' } as const;
  const text = describeSummary(summarizeRecords([refused], 400), 400);
  expect(text).toContain('answered 0, refused 1');
  expect(text).toContain('refused or failed): 100.00 %');
  expect(text).toContain('accuracy of the answers -, right and in time 0.00 %');
  expect(text).toContain('p50 -, p90 -, p99 -, max -');
  expect(text + describeSummary(summarizeRecords([], 400), 400)).not.toMatch(/NaN/);
});

it('rounds shares as asked', () => {
  expect([formatPercent(0.12345), formatPercent(0.12345, 1), formatPercent(Number.NaN)]).toEqual([
    '12.35 %',
    '12.3 %',
    '-',
  ]);
});
