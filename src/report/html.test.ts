import { describe, expect, it } from 'vitest';
import { renderRunReport } from './html.ts';
import type { ReportInput, RequestDot, RunReport } from './report-types.ts';
import { runFigure, sharedScales } from './run-figure.ts';
import { summaryTable } from './table.ts';

const makeDot = (dueMs: number, latencyMs: number, outcome: RequestDot['outcome'] = 'ok'): RequestDot => ({
  dueMs,
  latencyMs,
  outcome,
});

const makeRun = (partial: Partial<RunReport> = {}): RunReport => ({
  name: 'trivial',
  durationMs: 10_000,
  requests: [
    makeDot(0, 20),
    makeDot(2500, 50),
    makeDot(5000, 450),
    makeDot(7500, 3, 'refused'),
    makeDot(9000, 9000, 'timeout'),
  ],
  versions: [
    { atMs: 0, version: '1', accuracy: 0.99 },
    { atMs: 5000, version: '4', accuracy: 0.95 },
  ],
  demand: [
    { atMs: 0, rps: 1 },
    { atMs: 5000, rps: 33 },
  ],
  cpu: [
    { atMs: 0, utilization: 0.2 },
    { atMs: 5000, utilization: 1.1 },
    { atMs: 10_000, utilization: 0.5 },
  ],
  summary: {
    offered: 5,
    lateRatio: 0.6,
    meanAccuracy: 1,
    effectiveAccuracy: 0.4,
    p50Ms: 50.1234,
    p99Ms: 9000,
    cpuUtilization: 0.6,
    switches: 1,
  },
  ...partial,
});

const makeInput = (partial: Partial<ReportInput> = {}): ReportInput => ({
  title: 'A & B',
  subtitle: '<script>alert(1)</script>',
  machine: [['CPU "model"', '2 × <core>']],
  seed: 7,
  sloMs: 400,
  runs: [makeRun(), makeRun({ name: 'static 1' })],
  frontier: [
    { label: '1', accuracy: 0.99, throughputRps: 10, throughputRangeRps: [9, 11], isOnFrontier: true },
    { label: '2', accuracy: 0.9, throughputRps: 20, isOnFrontier: false },
    { label: '4', accuracy: 0.95, throughputRps: 100, isOnFrontier: true },
  ],
  decisions: [{ atMs: 5000, run: 'trivial', action: 'switch 1 → 4', reason: 'CPU 82 % > 70 %' }],
  ...partial,
});

/** Checks tags, attributes and entities; returns how often each element occurs. @throws Error where not well-formed. */
function elementsOf(xml: string): Map<string, number> {
  const open: string[] = [];
  const counts = new Map<string, number>();
  const token =
    /<!DOCTYPE html>|<style>[^<]*<\/style>|<\/([\w-]+)>|<([\w-]+)((?: [\w:-]+="[^"<]*")*)(\/?)>|[^<]+/y;
  while (token.lastIndex < xml.length) {
    const at = token.lastIndex;
    const match = token.exec(xml);
    if (match === null) throw new Error(`Not well-formed at ${xml.slice(at, at + 80)}`);
    const [text, closing, opening, , selfClosing] = match;
    if (/&(?!amp;|lt;|gt;|quot;)/.test(text)) throw new Error(`Unescaped & in ${text.slice(0, 80)}`);
    if (closing !== undefined && open.pop() !== closing)
      throw new Error(`</${closing}> closes something else`);
    if (opening === undefined) continue;
    counts.set(opening, (counts.get(opening) ?? 0) + 1);
    if (selfClosing !== '/') open.push(opening);
  }
  if (open.length > 0) throw new Error(`${open.join(', ')} not closed`);
  return counts;
}

/** Zero-length strokes of a dot class. */
const dotCount = (svg: string, className: string) =>
  [...svg.matchAll(new RegExp(`class="dot ${className}" d="([^"]*)"`, 'g'))].reduce(
    (sum, [, d]) => sum + d!.split('h0').length - 1,
    0,
  );

describe('a report', () => {
  it('is well-formed, with every part there once', () => {
    const counts = elementsOf(renderRunReport(makeInput()));
    expect(counts.get('figure')).toBe(3); // Two runs and the frontier.
    expect(counts.get('table')).toBe(2);
    expect(counts.get('caption')).toBe(2);
    expect(counts.get('circle')).toBe(3);
    expect(counts.has('script')).toBe(false);
  });

  it('opens offline: it refers to nothing outside itself', () => {
    const html = renderRunReport(makeInput());
    expect(html.match(/\b(?:src|href)=|url\(|@import/g)).toBeNull();
    expect(new Set(html.match(/https?:\/\/[^"\s]+/g))).toEqual(
      new Set(['http://www.w3.org/1999/xhtml', 'http://www.w3.org/2000/svg']),
    );
  });

  it('escapes all text', () => {
    const html = renderRunReport(
      makeInput({ decisions: [{ atMs: 0, run: '<r>', action: '&', reason: '"\u0000' }] }),
    );
    elementsOf(html);
    expect(html).toContain('&lt;script&gt;alert(1)&lt;/script&gt;');
    expect(html).toContain('&quot;\ufffd');
  });

  it('without runs, variants or decisions leaves their sections out', () => {
    const counts = elementsOf(renderRunReport(makeInput({ runs: [], frontier: [], decisions: [] })));
    expect(counts.get('section')).toBe(1);
    expect(counts.has('svg')).toBe(false);
  });

  it('of 3 × 20 000 requests stays under 1 MB', () => {
    const requests = Array.from({ length: 20_000 }, (_, i) => makeDot(i / 2, 5 + ((i * 7919) % 997) / 3));
    const html = renderRunReport(
      makeInput({ runs: ['a', 'b', 'c'].map((name) => makeRun({ name, requests })) }),
    );
    expect(html.length).toBeLessThan(1e6);
  });
});

describe('the figure of a run', () => {
  const run = makeRun();
  const figure = runFigure(run, 400, sharedScales([run], 400), 'run-1');

  it('draws each request as what became of it', () => {
    elementsOf(figure);
    expect(dotCount(figure, 'on-time')).toBe(2);
    expect(dotCount(figure, 'late')).toBe(1);
    expect(figure.match(/class="clipped" d="[^"]*"/)?.[0].match(/M/g)).toHaveLength(1);
    expect(figure.match(/class="unanswered" d="[^"]*"/)?.[0].match(/M/g)).toHaveLength(1);
  });

  it('names versions and demands, and describes itself', () => {
    expect([...figure.matchAll(/class="version">([^<]*)/g)].map((match) => match[1])).toEqual(['1', '4']);
    expect([...figure.matchAll(/class="demand-label">([^<]*)/g)].map((match) => match[1])).toEqual([
      '1',
      '33',
    ]);
    expect(figure).toContain('<desc id="run-1-desc">5 requests over 10 seconds; 60 % later than 400 ms');
  });

  it('looks as reviewed', () => {
    expect(figure.replaceAll('><', '>\n<')).toMatchSnapshot();
  });

  it('takes a logarithmic axis only where latencies spread far beyond the SLO', () => {
    const spread = makeRun({
      requests: Array.from({ length: 100 }, (_, i) => makeDot(i, i < 60 ? 10 : 5000)),
    });
    expect(sharedScales([run], 400).latency).toEqual({ kind: 'linear', domain: [0, 600] });
    expect(sharedScales([spread], 400).latency).toEqual({ kind: 'log', domain: [10, 5000] });
  });

  it('draws without answers, versions, demand or CPU', () => {
    const empty = makeRun({ requests: [], versions: [], demand: [], cpu: [] });
    const drawn = runFigure(empty, 400, sharedScales([empty], 400), 'x');
    elementsOf(drawn);
    expect(drawn).not.toContain('NaN');
  });
});

describe('the summary table', () => {
  it('is aligned plain text', () => {
    const unknown = { ...makeRun().summary, cpuUtilization: Number.NaN, p50Ms: Number.NaN };
    expect(
      summaryTable([makeRun(), makeRun({ name: 'static largest', summary: unknown })]),
    ).toMatchInlineSnapshot(`
      "run             requests  late  accuracy  effective      p50      p99   CPU  switches
      ──────────────  ────────  ────  ────────  ─────────  ───────  ───────  ────  ────────
      trivial                5  60 %     100 %       40 %  50.1 ms  9000 ms  60 %         1
      static largest         5  60 %     100 %       40 %        –  9000 ms     –         1
      "
    `);
  });
});
