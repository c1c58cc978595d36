import { COMPARE_COLUMNS, compareFigure } from '../../report/compare-report.ts';
import type { Part } from '../../report/experiment-report.ts';
import { csv } from '../csv.ts';
import type { Drawn } from '../experiment.ts';
import { figure, percent } from '../wording.ts';
import type { LeagueResults, LeagueRow } from './experiment.ts';

export function drawLeague({ tasks, slowness, lengthMs, seeds, windows, missing }: LeagueResults): Drawn {
  return {
    parts: [
      {
        kind: 'text',
        text:
          `The families of ${tasks.join(', ')} in the simulator, ${figure(slowness)} times slower than on this machine, so that the first one's most accurate version answers 4.3 requests/s as the thesis' does. ` +
          `${figure(lengthMs / 60_000)} minutes of each demand, scaled so that the most accurate versions would need twice the CPU, or the fastest two fifths of it where that is less; ${seeds.length === 1 ? 'one seed' : `${seeds.length} seeds, means with 95 % intervals`}. Each policy has the servers that it is made for.`,
      },
      ...(missing.length === 0
        ? []
        : [
            {
              kind: 'text' as const,
              text: `Not there, and left out: ${missing.join(', ')}. --traces names a folder of recorded demand.`,
            },
          ]),
      leagueTable(windows),
      ...windows.flatMap(({ name, rows }, i): Part[] => [
        {
          kind: 'figure',
          caption: `${name}: up and to the left is better.`,
          figure: compareFigure(rows.map(whole), `league-${i}`),
        },
        {
          kind: 'table',
          caption: `${name}: violations are late, shed or failed requests of all; accuracy is normalised, the mean over answers; effective: of answers in time over all requests.`,
          headings: COMPARE_COLUMNS.map(({ heading }) => heading),
          rows: byEffect(rows).map((row) => COMPARE_COLUMNS.map(({ cell }) => cell(whole(row)))),
        },
      ]),
    ],
    files: {
      'league.csv': csv(
        [
          ...[
            'window',
            'policy',
            'violation_ratio',
            'violation_half_width',
            'mean_accuracy',
            'accuracy_half_width',
          ],
          ...['effective_accuracy', 'cpu_utilization', 'p99_ms', 'loads_per_minute'],
        ],
        windows.flatMap(({ name, rows }) =>
          rows.map(({ name: policy, intervals }) => [
            ...[
              name,
              policy,
              mean(intervals.violationRatio),
              intervals.violationRatio.halfWidth ?? undefined,
            ],
            ...[mean(intervals.meanAccuracy), intervals.meanAccuracy.halfWidth ?? undefined],
            ...[mean(intervals.effectiveAccuracy), mean(intervals.cpuUtilization)],
            ...[mean(intervals.p99Ms), mean(intervals.loadsPerMinute)],
          ]),
        ),
      ),
    },
    headlines: headlineOf(windows),
  };
}

/** NaN is null once it was stored. */
function mean(interval: LeagueRow['intervals'][keyof LeagueRow['intervals']]): number {
  return interval.mean ?? Number.NaN;
}

function whole({ name, meaning, intervals }: LeagueRow) {
  const entries = Object.entries(intervals).map(([key, interval]) => [
    key,
    { mean: interval.mean ?? Number.NaN, halfWidth: interval.halfWidth ?? Number.NaN },
  ]);
  return { name, meaning, ...(Object.fromEntries(entries) as LeagueRow['intervals']) }; // The same keys.
}

function byEffect(rows: readonly LeagueRow[]): LeagueRow[] {
  return rows.toSorted((a, b) => mean(b.intervals.effectiveAccuracy) - mean(a.intervals.effectiveAccuracy));
}

/** Effective accuracy of every policy in every window, the best mean first. */
function leagueTable(windows: LeagueResults['windows']): Part {
  const names = [...new Set(windows.flatMap(({ rows }) => rows.map(({ name }) => name)))];
  const table = names.map((name) => {
    const own = windows.map(({ rows }) => {
      const row = rows.find((each) => each.name === name);
      return row === undefined ? Number.NaN : mean(row.intervals.effectiveAccuracy);
    });
    const known = own.filter((value) => Number.isFinite(value));
    return { name, own, overall: known.reduce((sum, value) => sum + value, 0) / known.length };
  });
  return {
    kind: 'table',
    caption:
      'The league: effective accuracy (normalised accuracy of answers in time, over all requests), in the mean and by demand.',
    headings: ['policy', 'mean', ...windows.map(({ name }) => name)],
    rows: table
      .toSorted((a, b) => b.overall - a.overall)
      .map(({ name, own, overall }) => [name, percent(overall), ...own.map((value) => percent(value))]),
  };
}

function headlineOf(windows: LeagueResults['windows']): Drawn['headlines'] {
  const say = (policy: string) => {
    const rows = windows.flatMap(({ rows: own }) => own.filter(({ name }) => name === policy));
    const effective = rows.map(({ intervals }) => mean(intervals.effectiveAccuracy));
    const worst = Math.max(...rows.map(({ intervals }) => mean(intervals.violationRatio)));
    const overall = effective.reduce((sum, value) => sum + value, 0) / effective.length;
    return `${policy} ${percent(overall)}, violations up to ${percent(worst)}`;
  };
  return [
    {
      what: `league: effective accuracy, mean of ${windows.length} demands`,
      thesis: say('trivial'),
      ours: say('bonsai'),
      note: "the thesis' policy and ours on the same requests in the simulator",
    },
  ];
}
