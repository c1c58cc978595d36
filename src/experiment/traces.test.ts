import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { dueTimes } from '../load/arrivals.ts';
import { checkTraces, knownTrace, windowsOf } from './traces.ts';

const requests = (profile: Parameters<typeof dueTimes>[0]) =>
  dueTimes(profile, { spacing: 'even', seed: 1 }).length;

describe('windows of a trace', () => {
  // Ten seconds of nothing between two windows of ten.
  const trace = {
    intervalMs: 1000,
    counts: [...Array(10).fill(3), ...Array(10).fill(0), ...Array(10).fill(7)],
  };

  it('have the means that are asked for, one after the other, and leave gaps out', () => {
    const windows = windowsOf(trace, [5, 2, 1], 10_000);
    expect(windows.map(requests)).toEqual([50, 20, 10]);
  });

  it('begin elsewhere again where the trace ends', () => {
    const rising = { intervalMs: 1000, counts: Array.from({ length: 25 }, (_, i) => i + 1) };
    const first = windowsOf(rising, [1, 1, 1], 10_000).map((window) =>
      window.kind === 'steps' ? window.points[0]!.rps : 0,
    );
    expect(new Set(first).size).toBe(3);
  });

  it('are refused where there is none', () => {
    expect(() => windowsOf(trace, [1], 40_000)).toThrow(/no window of 40000 ms/);
    expect(() => windowsOf({ intervalMs: 1000, counts: [0, 0] }, [1], 1000)).toThrow(/with any request/);
  });
});

describe('known traces', () => {
  it('are found by the beginning of their names; minutes of the Azure functions pass as seconds', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'bonsai-traces-'));
    try {
      await writeFile(join(folder, 'azure-functions-2019-some.csv'), 'second,count\n0,5\n60,6\n');
      expect(await knownTrace(folder, 'Azure Functions 2019')).toEqual({ intervalMs: 1000, counts: [5, 6] });
      expect(await knownTrace(folder, 'Twitter 2018-04')).toBeUndefined();
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe('a folder of recorded demand', () => {
  it('is looked at before anything is measured: what it has, or why it cannot be used', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'bonsai-traces-'));
    try {
      await expect(checkTraces(folder)).rejects.toThrow(/has none of the recorded demands .*Twitter 2018-04/);
      const file = join(folder, 'azure-llm-2023-code.csv');
      await writeFile(file, '1\n');
      expect(await checkTraces(folder)).toEqual({ names: ['Azure LLM 2023, code'], files: [file] });
      await expect(checkTraces(join(folder, 'none'))).rejects.toMatchObject({ code: 'missing_file' });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
