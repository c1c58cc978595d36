import { htmlPage, section, table } from './html.ts';
import { element, escapeText, type Markup } from './svg.ts';

/** A page about several questions, each with figures and tables. */
export interface ExperimentReport {
  readonly title: string;
  readonly lead: string;
  /** What was compared with what, as a table: the figures that count. */
  readonly headlines: readonly (readonly [what: string, thesis: string, ours: string, note: string])[];
  readonly chapters: readonly Chapter[];
  /** Name and value, e.g. ["CPU", "2 × …"]. */
  readonly setting: readonly (readonly [string, string])[];
}

export interface Chapter {
  readonly name: string;
  /** Where the thesis has it, as in "Fig. 5.10, A.1". */
  readonly source: string;
  readonly question: string;
  readonly parts: readonly Part[];
  /** Why there is nothing, as a sentence. */
  readonly absent?: string;
  /** How it was made: run time, seed, command. */
  readonly made: readonly (readonly [string, string])[];
}

export type Part =
  | { readonly kind: 'figure'; readonly figure: Markup; readonly caption: string }
  | {
      readonly kind: 'table';
      readonly caption: string;
      readonly headings: readonly string[];
      readonly rows: readonly (readonly string[])[];
    }
  | { readonly kind: 'text'; readonly text: string };

/** One HTML page that needs nothing else; see `htmlPage`. */
export function renderExperimentReport(report: ExperimentReport): string {
  const { title, lead, headlines, chapters, setting } = report;
  return htmlPage(
    title,
    [
      element('header', {}, [
        element('h1', {}, [escapeText(title)]),
        element('p', { class: 'lead' }, [escapeText(lead)]),
      ]),
      element('nav', { class: 'contents', 'aria-label': 'Experiments' }, [
        element(
          'ol',
          {},
          chapters.map(({ name, source, absent }) =>
            element('li', {}, [
              element('a', { href: `#${name}` }, [escapeText(name)]),
              escapeText(` (${source})${absent === undefined ? '' : ', absent'}`),
            ]),
          ),
        ),
      ]),
      ...section(
        'The thesis and this machine',
        headlines.length === 0
          ? []
          : [
              table(
                'The figures that count. Hardware, networks and data differ: compare shapes and ratios, not requests per second.',
                ['what', 'thesis', 'here', 'note'],
                headlines,
                'headlines',
              ),
            ],
      ),
      ...chapters.flatMap(chapterMarkup),
      ...section('How it was made', [definitions(setting)]),
    ],
    CHART_STYLE,
  );
}

function chapterMarkup({ name, source, question, parts, absent, made }: Chapter): Markup[] {
  return [
    element('section', { id: name }, [
      element('h2', {}, [escapeText(`${name} · ${source}`)]),
      element('p', { class: 'question' }, [escapeText(question)]),
      ...(absent === undefined ? [] : [element('p', { class: 'absent' }, [escapeText(absent)])]),
      ...parts.map(partMarkup),
      ...(made.length === 0
        ? []
        : [element('details', {}, [element('summary', {}, ['How it was made']), definitions(made)])]),
    ]),
  ];
}

function partMarkup(part: Part): Markup {
  switch (part.kind) {
    case 'figure':
      return element('figure', {}, [part.figure, element('figcaption', {}, [escapeText(part.caption)])]);
    case 'table':
      return table(part.caption, part.headings, part.rows, 'numbers');
    case 'text':
      return element('p', {}, [escapeText(part.text)]);
    default:
      return part satisfies never;
  }
}

function definitions(entries: readonly (readonly [string, string])[]): Markup {
  return element(
    'dl',
    {},
    entries.flatMap(([name, value]) => [
      element('dt', {}, [escapeText(name)]),
      element('dd', {}, [escapeText(value)]),
    ]),
  );
}

/** Colours of series: Okabe and Ito's, which people with colour blindness can tell apart; lighter on a dark page. */
export const CHART_STYLE = `
:root{--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#a3558a;--c4:#8a6d00;--c5:#2f8fc4;--c6:#5b3fa8;--c7:#707070}
@media (prefers-color-scheme:dark){:root{--c0:#4aa8e0;--c1:#ff8a3d;--c2:#2fcf9f;--c3:#e39ac9;--c4:#e0bd3a;--c5:#8fd0ff;--c6:#b39dff;--c7:#b5b5b5}}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}.c6{color:var(--c6)}.c7{color:var(--c7)}.ink{color:var(--ink)}
.point{fill:currentColor;stroke:var(--page);stroke-width:1}
.outlined{stroke:var(--ink);stroke-width:1.8}
.curve{stroke:currentColor;stroke-width:1.6;fill:none}
.cloud{stroke:currentColor;stroke-width:2.4;stroke-linecap:round;fill:none;stroke-opacity:.7}
.bar{stroke:currentColor;stroke-width:1.6}
.box{fill:currentColor;fill-opacity:.35;stroke:currentColor}
.whisker,.median{stroke:currentColor;stroke-width:1.4}
.median{stroke-width:2.2}
.demand-curve{stroke:var(--demand);stroke-width:1.2;fill:none;stroke-opacity:.75}
figcaption{color:var(--soft);font-size:13px;margin-top:2px}
.contents ol{columns:2;margin:12px 0 0;padding-left:20px;font-size:14px}
.contents a,.contents a:visited{color:var(--on-time)}
.question{color:var(--soft);margin:0 0 12px}
.absent{border-left:3px solid var(--late);padding:4px 12px}
.headlines tbody th{white-space:normal;min-width:12em}
.headlines td:last-child{color:var(--soft);font-size:13px;min-width:16em}
details{font-size:14px;margin-top:8px}
summary{cursor:pointer;color:var(--soft)}
`;
