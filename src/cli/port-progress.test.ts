import { describe, expect, it } from 'vitest';
import type { FoundVariant, PortProgress } from '../port/pipeline/types.ts';
import { boardLines, portView } from './port-progress.ts';
import { liveBlock, silentProgress } from './progress.ts';

const clock = { nowMs: () => 0, epochMs: () => 0 };
const progress = (more: Partial<PortProgress>): PortProgress => ({
  step: 'evaluate',
  subject: 'base',
  done: 0,
  total: 2,
  state: 'running',
  ...more,
});
const found = (name: string, isOnFrontier: boolean): FoundVariant => ({
  name,
  variant: {
    digest: name,
    sizeBytes: 1,
    accuracy: { test: 0.9125, testCount: 100 },
    macs: 1_234_000,
    parameters: 10,
    lineage: {},
    profiles: {},
  },
  latencyMs: { count: 1, mean: 2, median: 2, min: 2, max: 2 },
  isOnFrontier,
});

it('says how much of an earlier run was reused: all, a part, or nothing', () => {
  const after = (...states: PortProgress['state'][]) => {
    const view = portView({ progress: silentProgress, clock });
    for (const state of states) view.show(progress({ state }));
    return view.reuse();
  };
  expect(after('reused', 'reused')).toBe('Reused all 2 steps of an earlier run.');
  expect(after('reused', 'reused', 'running', 'finished')).toBe(
    'Reused 2 of 3 steps from an earlier run; 1 done now.',
  );
  expect(after('running', 'finished')).toBeUndefined();
});

it('tells of each variant once, in a line, where there is no terminal', () => {
  const lines: string[] = [];
  const view = portView({ progress: { ...silentProgress, say: (line) => void lines.push(line) }, clock });
  view.found([found('base', true)]);
  view.found([found('base', true), found('ratio 0.5', false)]);
  expect(lines).toEqual([
    'Found base: 91.25 %, 1.23 MMACs, 2.00 ms, on the frontier',
    'Found ratio 0.5: 91.25 %, 1.23 MMACs, 2.00 ms, not on the frontier',
  ]);
});

describe('the table of a terminal', () => {
  it('shows variants, the step in progress, and the time left', () => {
    const training = {
      step: 'fine-tune',
      subject: 'ratio 0.5',
      done: 1,
      remainingMs: 60_000,
      detail: { workRatio: 0.5, loss: 0.25, runningAccuracy: 0.5, remainingMs: 5000 },
    } as const;
    expect(
      boardLines([found('base', true)], progress(training), 7_200_000).join('\n'),
    ).toMatchInlineSnapshot(`
      "variant  accuracy %  MMACs  latency ms  throughput /s  frontier
      ───────  ──────────  ─────  ──────────  ─────────────  ────────
      base          91.25   1.23        2.00              -       yes

      Fine-tuning ratio 0.5  ■■■■■■■■■■■■············ 50 % loss 0.250, 50.0 % right
      1 of 2 variants · about 1 min 5 s left · 2 h 0 min of the budget"
    `);
    expect(boardLines([], undefined, undefined)).toEqual([]);
  });

  it('is drawn over itself, with what is said above it, and never wraps', () => {
    let nowMs = 0;
    const chunks: string[] = [];
    const stream = {
      columns: 20,
      rows: 24,
      write: (chunk: unknown) => {
        chunks.push(String(chunk));
        return true;
      },
    };
    const block = liveBlock(stream, () => nowMs);
    block.show(['first', 'x'.repeat(30)]);
    block.show(['dropped: too soon after']);
    nowMs = 1000;
    block.show(['second']);
    block.say('said');
    block.close();
    expect(chunks.join('')).toBe(
      `first\n${'x'.repeat(18)}…\n` +
        '\x1b[2A\x1b[0Jsecond\n' +
        '\x1b[1A\x1b[0Jsaid\nsecond\n' +
        '\x1b[1A\x1b[0Jsecond\n',
    );
  });
});
