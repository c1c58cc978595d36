import { tickLabel } from './axes.ts';
import { frontierFigure } from './frontier-figure.ts';
import type { ReportInput } from './report-types.ts';
import { runFigure, sharedScales } from './run-figure.ts';
import { element, escapeText, type Markup } from './svg.ts';
import { SUMMARY_COLUMNS } from './table.ts';

/**
 * One HTML page that needs nothing else: figures are inline SVG, styles inline, no scripts, and the reader's
 * dark or light preference is followed. It is also well-formed XML, so that it can be checked as such.
 */
export function renderRunReport(input: ReportInput): string {
  const { title, subtitle, machine, seed, sloMs, runs, frontier, decisions } = input;
  const shared = sharedScales(runs, sloMs);
  const body = [
    element('header', {}, [
      element('h1', {}, [escapeText(title)]),
      element('p', { class: 'lead' }, [escapeText(subtitle)]),
    ]),
    ...section('Summary', runs.length === 0 ? [] : [summary(input)]),
    ...section(
      'Runs',
      runs.length === 0
        ? []
        : [
            legend(),
            ...runs.map((run, i) => element('figure', {}, [runFigure(run, sloMs, shared, `run-${i + 1}`)])),
          ],
    ),
    ...section(
      'Variants',
      frontier.length === 0 ? [] : [element('figure', {}, [frontierFigure(frontier, 'frontier')])],
    ),
    ...section('Decisions', decisions.length === 0 ? [] : [decisionLog(input)]),
    ...section('How it was made', [
      element('dl', {}, [
        ...machine.flatMap(([name, value]) => [
          element('dt', {}, [escapeText(name)]),
          element('dd', {}, [escapeText(value)]),
        ]),
        element('dt', {}, ['Seed']),
        element('dd', {}, [escapeText(String(seed))]),
        element('dt', {}, ['Latency SLO']),
        element('dd', {}, [escapeText(`${tickLabel(sloMs)} ms`)]),
      ]),
    ]),
  ];
  return htmlPage(title, body);
}

/** A page around finished markup, in the style of all reports; `style` is what a kind of page adds to it. */
export function htmlPage(title: string, body: readonly Markup[], style = ''): string {
  return [
    '<!DOCTYPE html>',
    '<html lang="en" xmlns="http://www.w3.org/1999/xhtml">',
    '<head>',
    '<meta charset="utf-8"/>',
    '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
    element('title', {}, [escapeText(title)]),
    `<style>${REPORT_STYLE}${style}</style>`,
    '</head>',
    '<body>',
    element('main', {}, body),
    '</body>',
    '</html>',
    '',
  ].join('\n');
}

export function section(heading: string, children: readonly Markup[]): Markup[] {
  return children.length === 0
    ? []
    : [element('section', {}, [element('h2', {}, [escapeText(heading)]), ...children])];
}

function summary({ runs, sloMs }: ReportInput): Markup {
  const meanings = SUMMARY_COLUMNS.slice(2, 5).map(({ heading, meaning }) => `${heading}: ${meaning}`);
  return table(
    `Each run over all offered requests, SLO ${tickLabel(sloMs)} ms (${meanings.join('; ')}).`,
    SUMMARY_COLUMNS.map(({ heading }) => heading),
    runs.map((run) => SUMMARY_COLUMNS.map(({ cell }) => cell(run))),
    'numbers',
  );
}

function decisionLog({ decisions }: ReportInput): Markup {
  return table(
    'What was decided, when, and why.',
    ['time', 'run', 'action', 'reason'],
    decisions.map(({ atMs, run, action, reason }) => [`${(atMs / 1000).toFixed(1)} s`, run, action, reason]),
    'log',
  );
}

export function table(
  caption: string,
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  className: string,
): Markup {
  const head = headings.map((heading) => element('th', { scope: 'col' }, [escapeText(heading)]));
  const body = rows.map((row) =>
    element(
      'tr',
      {},
      row.map((cell, i) =>
        element(i === 0 ? 'th' : 'td', i === 0 ? { scope: 'row' } : {}, [escapeText(cell)]),
      ),
    ),
  );
  return element('div', { class: 'scroll' }, [
    element('table', { class: className }, [
      element('caption', {}, [escapeText(caption)]),
      element('thead', {}, [element('tr', {}, head)]),
      element('tbody', {}, body),
    ]),
  ]);
}

const LEGEND: readonly (readonly [sign: string, name: string])[] = [
  ['<path class="dot on-time" d="M10 7h0"/>', 'answered in time'],
  ['<path class="dot late" d="M10 7h0"/>', 'late'],
  ['<path class="clipped" d="M7 10l3 -5l3 5z"/>', 'above the axis, or never answered'],
  ['<path class="unanswered" d="M8 5l4 4m0 -4l-4 4"/>', 'refused or failed'],
  ['<line class="slo" x1="1" y1="7" x2="19" y2="7"/>', 'SLO'],
  ['<line class="demand" x1="10" y1="0" x2="10" y2="14"/>', 'demand changes (req/s)'],
  [
    '<rect class="band" x="1" y="3" width="18" height="11" fill-opacity="0.3"/><path class="band-top" d="M1 3h18"/>',
    'version in use, its height the accuracy',
  ],
  [
    '<path class="cpu-area" d="M1 14L1 9L10 4L19 8L19 14z"/><path class="cpu-line" d="M1 9L10 4L19 8"/>',
    'CPU',
  ],
];

function legend(): Markup {
  return element(
    'ul',
    { class: 'legend' },
    LEGEND.map(([sign, name]) =>
      element('li', {}, [
        element('svg', { xmlns: 'http://www.w3.org/2000/svg', viewBox: '0 0 20 14', 'aria-hidden': 'true' }, [
          sign,
        ]),
        escapeText(name),
      ]),
    ),
  );
}

/** Colours keep a contrast of ≥ 4.5 : 1 for text; late and on time differ in lightness too, not only in hue. */
export const REPORT_STYLE = `
:root{color-scheme:light dark;--page:#fff;--ink:#1b1f24;--soft:#57606a;--rule:#d0d7de;--grid:#eaeef2;--on-time:#1f6fb5;--late:#d1480f;--slo:#c4161c;--demand:#1a7f37;--band:#5b8fd6;--cpu:#6b4fbb}
@media (prefers-color-scheme:dark){:root{--page:#0f1318;--ink:#e6edf3;--soft:#9da7b3;--rule:#3a424c;--grid:#20272f;--on-time:#79b8ff;--late:#ffa657;--slo:#ff7b72;--demand:#56d364;--band:#4b7fd0;--cpu:#b69cff}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px}
h2{font-size:19px;margin:36px 0 8px}
.lead{color:var(--soft);margin:0}
figure{margin:0 0 20px}
svg{display:block;width:100%;height:auto}
text{fill:var(--ink);font:12px system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.run-name{font-size:15px;font-weight:600}
.note,.tick,.axis-title{fill:var(--soft)}
.end{text-anchor:end}
.middle{text-anchor:middle}
.version{font-weight:600}
.grid{stroke:var(--grid)}
.axis{stroke:var(--soft)}
.band{fill:var(--band)}
.band-top{stroke:var(--band);stroke-width:1.5;fill:none}
.dot{stroke-width:3;stroke-linecap:round;fill:none}
.on-time{stroke:var(--on-time);stroke-opacity:.75}
.late{stroke:var(--late)}
.clipped{fill:var(--late)}
.unanswered{stroke:var(--slo);stroke-width:1.2;fill:none}
.slo{stroke:var(--slo);stroke-width:1.5}
.slo-label,.demand-label,.variant-label,.version{paint-order:stroke;stroke:var(--page);stroke-width:3px;stroke-linejoin:round}
.slo-label{fill:var(--slo);font-weight:600}
.demand{stroke:var(--demand);stroke-dasharray:1.5 3}
.demand-label{fill:var(--demand)}
.cpu-area{fill:var(--cpu);fill-opacity:.18}
.cpu-line{stroke:var(--cpu);stroke-width:1.3;fill:none}
.budget{stroke:var(--soft);stroke-dasharray:4 3}
.frontier-line{stroke:var(--on-time);stroke-width:1.5;fill:none}
.variant{fill:var(--page);stroke:var(--soft);stroke-width:1.5}
.best{fill:var(--on-time);stroke:var(--on-time)}
.spread{stroke:var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;list-style:none;padding:0;margin:0 0 12px;font-size:13px;color:var(--soft)}
.legend li{display:flex;align-items:center;gap:6px}
.legend .dot{stroke-width:6;stroke-opacity:1}
.legend svg{width:20px;height:14px;flex:none}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
caption{caption-side:bottom;text-align:left;color:var(--soft);font-size:13px;padding-top:8px}
th,td{padding:6px 10px;text-align:left;border-bottom:1px solid var(--rule);vertical-align:top}
thead th{border-bottom:2px solid var(--soft);font-weight:600;white-space:nowrap}
tbody th{font-weight:600;white-space:nowrap}
.numbers td,.numbers thead th:not(:first-child){text-align:right;white-space:nowrap}
.log tbody th,.log td:not(:last-child){font-weight:400;white-space:nowrap}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 20px;margin:0;font-size:14px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
@media print{main{max-width:none;padding:0}figure{break-inside:avoid}}
`;
