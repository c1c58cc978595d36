import type { RunReport } from './report-types.ts';
import { percent } from './run-figure.ts';

/** One column of the summary: its heading, what it means, and a run's entry. */
export interface SummaryColumn {
  readonly heading: string;
  readonly meaning: string;
  readonly cell: (run: RunReport) => string;
}

/** The summary's columns, for the page and the terminal alike. */
export const SUMMARY_COLUMNS: readonly SummaryColumn[] = [
  { heading: 'run', meaning: 'policy or static version', cell: (run) => run.name },
  { heading: 'requests', meaning: 'offered', cell: ({ summary }) => String(summary.offered) },
  {
    heading: 'late',
    meaning: 'answered after the SLO, refused or failed, of all offered',
    cell: ({ summary }) => percent(summary.lateRatio),
  },
  {
    heading: 'accuracy',
    meaning: 'right answers of all answers',
    cell: ({ summary }) => percent(summary.meanAccuracy),
  },
  {
    heading: 'effective',
    meaning: 'right answers within the SLO, of all offered',
    cell: ({ summary }) => percent(summary.effectiveAccuracy),
  },
  { heading: 'p50', meaning: 'median latency', cell: ({ summary }) => milliseconds(summary.p50Ms) },
  {
    heading: 'p99',
    meaning: '99 % of latencies are below',
    cell: ({ summary }) => milliseconds(summary.p99Ms),
  },
  {
    heading: 'CPU',
    meaning: 'mean use of the CPU budget',
    cell: ({ summary }) => percent(Number(summary.cpuUtilization.toFixed(3))),
  },
  { heading: 'switches', meaning: 'changes of version', cell: ({ summary }) => String(summary.switches) },
];

/** The summary as aligned plain text: names to the left, numbers to the right, a rule under the headings. */
export function summaryTable(runs: readonly RunReport[]): string {
  const rows = [
    SUMMARY_COLUMNS.map(({ heading }) => heading),
    ...runs.map((run) => SUMMARY_COLUMNS.map(({ cell }) => cell(run))),
  ];
  return alignedTable(rows);
}

/**
 * Rows of equal length, the first one headings.
 * @param isText which columns are text, by default the first one; the others are numbers
 */
export function alignedTable(
  rows: readonly (readonly string[])[],
  isText: (column: number) => boolean = (column) => column === 0,
): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => [...row[column]!].length)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) => {
        const padding = ' '.repeat(widths[column]! - [...cell].length);
        return isText(column) ? cell + padding : padding + cell;
      })
      .join('  ')
      .trimEnd(),
  );
  lines.splice(1, 0, widths.map((width) => '─'.repeat(width)).join('  '));
  return `${lines.join('\n')}\n`;
}

/** Latency with the digits that matter: 3 significant ones. */
function milliseconds(value: number): string {
  return Number.isFinite(value) ? `${Number(value.toPrecision(3))} ms` : '–';
}
