import { describe, expect, it } from 'vitest';
import type { AnyExperiment } from './experiment.ts';
import { drawn, reportPage } from './page.ts';
import { RESULTS } from './results.fixture.ts';
import { RESULTS_SCHEMA_VERSION, type StoredResults } from './store.ts';
import { EXPERIMENTS } from './table.ts';

/** As they come from disk: what is no number there is null. */
const stored = (experiment: AnyExperiment, absent?: string): StoredResults => ({
  schemaVersion: RESULTS_SCHEMA_VERSION,
  experiment: experiment.name,
  identity: 'a',
  measuredAt: '2026-01-02T03:04:05.000Z',
  tookMs: 65_000,
  made: [
    ['Command', `bonsai experiment ${experiment.name}`],
    ['Seed', '7'],
  ],
  ...(absent === undefined ? { results: JSON.parse(JSON.stringify(RESULTS[experiment.name])) } : { absent }),
});

const page = reportPage(EXPERIMENTS.map((experiment) => ({ experiment, stored: stored(experiment) })));

describe('the report of all experiments', () => {
  it('has a chapter, figures and how they were made for each of SPEC’s rows', () => {
    expect(EXPERIMENTS.map(({ name }) => name)).toEqual(Object.keys(RESULTS));
    for (const { name, thesis } of EXPERIMENTS) {
      const [, chapter] = new RegExp(`<section id="${name}">(.*?)</section>`, 's').exec(page)!;
      expect(chapter, name).toContain('<svg');
      expect(chapter, name).toContain(thesis.split(',')[0]);
      expect(chapter, name).toContain(`bonsai experiment ${name}`);
      expect(chapter, name).toContain('1 min 5 s');
    }
  });

  it('gives every figure an identity of its own, and no number that is none', () => {
    const ids = [...page.matchAll(/ id="([^"]+)"/g)].map((match) => match[1]!);
    expect(ids.filter((id, i) => ids.indexOf(id) !== i)).toEqual([]);
    expect(page).not.toMatch(/NaN|Infinity|undefined|\bnull\b|\[object/);
  });

  it('nests its elements rightly', () => {
    const open: string[] = [];
    const markup = page.slice(page.indexOf('<html')).replace(/<style>.*?<\/style>/s, '');
    for (const [, slash, name, , selfClosed] of markup.matchAll(
      /<(\/?)([a-z][\w-]*)((?:\s+[\w:-]+="[^"]*")*)\s*(\/?)>/g,
    )) {
      if (slash === '/') expect(open.pop()).toBe(name);
      else if (selfClosed !== '/') open.push(name!);
    }
    expect(open).toEqual([]);
  });

  it('needs nothing from elsewhere', () => {
    expect(page).not.toMatch(/<script|<link|src=|@import|url\(/);
  });

  it('has the thesis’ own numbers beside ours', () => {
    // Table 5.1 (first row), 5.2, 5.3, 5.4, and the figures of the text.
    for (const number of [
      '1.62 (1.58 – 1.69)',
      '85.96 %',
      '43.53 %',
      '97.09 %',
      '7.28 ×',
      '4.09 ×',
      '0.72 %',
    ])
      expect(page).toContain(number);
  });

  it('compares the thesis’ gain with the greatest that costs no more accuracy', () => {
    expect(page).toContain('2 × for 1.00 points (V1 → V2, resnet)');
  });

  it('says of an experiment that could not be run why', () => {
    const distributed = EXPERIMENTS.find(({ name }) => name === 'distributed')!;
    const without = reportPage([
      { experiment: distributed, stored: stored(distributed, 'There is no NGINX.') },
    ]);
    expect(without).toContain('There is no NGINX.');
    expect(without).not.toContain('<svg');
  });

  it('is the same each time', () => {
    expect(reportPage(EXPERIMENTS.map((experiment) => ({ experiment, stored: stored(experiment) })))).toBe(
      page,
    );
  });
});

describe.each(EXPERIMENTS.map((experiment) => [experiment.name, experiment] as const))(
  '%s',
  (_, experiment) => {
    const { files, headlines } = drawn(experiment, stored(experiment))!;

    it('gives tables whose rows are as long as their headings', () => {
      expect(Object.keys(files).length).toBeGreaterThan(0);
      for (const [name, text] of Object.entries(files)) {
        const lines = text.trimEnd().split('\n');
        expect(lines.length, name).toBeGreaterThan(1);
        // No cell of the fixture needs quotes with commas but descriptions.
        const width = (line: string) => line.replaceAll(/"[^"]*"/g, '').split(',').length;
        expect([...new Set(lines.map(width))], name).toHaveLength(1);
      }
    });

    it('says what counts in words', () => {
      for (const { what, thesis, ours } of headlines) {
        expect([what, thesis, ours].every((text) => text.length > 0)).toBe(true);
      }
    });
  },
);
