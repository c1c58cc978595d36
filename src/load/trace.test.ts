import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';
import { dueTimes } from './arrivals.ts';
import { parseTrace, readTrace, traceProfile, traceWindow } from './trace.ts';

const folder = mkdtempSync(join(tmpdir(), 'bonsai-trace-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('a trace', () => {
  it('is read from CSV and from gzip, leaving further columns out', async () => {
    const text = 'second,count,deletes\n0,4,1\n1,0,0\n2,8,3\n';
    writeFileSync(join(folder, 'a.csv'), text);
    writeFileSync(join(folder, 'a.csv.gz'), gzipSync(text));
    const expected = { intervalMs: 1000, counts: [4, 0, 8] };
    expect(await readTrace(join(folder, 'a.csv'))).toEqual(expected);
    expect(await readTrace(join(folder, 'a.csv.gz'))).toEqual(expected);
  });

  it('may count longer intervals than seconds', () => {
    const trace = parseTrace('second,count\n0,60\n60,120\n', 'minutes.csv');
    expect(trace.intervalMs).toBe(60_000);
    expect(traceProfile(trace)).toMatchObject({
      points: [{ rps: 1 }, { atMs: 60_000, rps: 2 }],
      durationMs: 120_000,
    });
  });

  it('scales to a mean and keeps its shape', () => {
    const profile = traceProfile(parseTrace('second,count\n0,10\n1,30\n', 't.csv'), 4);
    expect(profile).toMatchObject({ points: [{ rps: 2 }, { rps: 6 }] });
    expect(dueTimes(profile, { spacing: 'even', seed: 1 })).toHaveLength(8);
  });

  it('gives a window of itself and refuses one outside', () => {
    const trace = parseTrace('second,count\n0,1\n1,2\n2,3\n', 't.csv');
    expect(traceWindow(trace, 1000, 3000).counts).toEqual([2, 3]);
    expect(() => traceWindow(trace, 9000, 10_000)).toThrowError(/lasts 3000 ms/);
  });

  it.each([
    ['', /line 1: expected a header/],
    ['second,count\n', /line 1: there are no lines/],
    ['second,count\n0,1\n1,x\n', /line 3: "x" is not a whole number/],
    ['second,count\n0,1\n1\n', /line 3: expected 2 columns, got 1/],
    ['second,count\n0,1\n1,-2\n', /line 3/],
    ['second,count\n0,1\n1,2\n3,2\n', /line 4: expected second 2, got 3/],
    ['second,count\n5,1\n', /line 2: expected second 0, got 5/],
  ])('with a mistake is refused with its line: %j', (text, message) => {
    expect(() => parseTrace(text, 'bad.csv')).toThrowError(message);
  });

  it('that is missing or no gzip gives a typed error', async () => {
    await expect(readTrace(join(folder, 'none.csv'))).rejects.toMatchObject({ code: 'missing_file' });
    writeFileSync(join(folder, 'bad.csv.gz'), 'second,count\n');
    await expect(readTrace(join(folder, 'bad.csv.gz'))).rejects.toMatchObject({ code: 'corrupt_dataset' });
  });
});
