import { mean } from '../../base/statistics.ts';
import type { Part } from '../../report/experiment-report.ts';
import type { Drawn } from '../experiment.ts';
import { cpuPart, liveFiles, runParts, runReportOf, runsTable, violationsPart } from '../live/draw.ts';
import type { LiveRun } from '../live/live-run.ts';
import { figure, percent } from '../wording.ts';
import type { CoallocationResults, Expected } from './experiment.ts';
import { THESIS_COALLOCATION } from './thesis.ts';

export function drawCoallocation({ iterations }: CoallocationResults): Drawn {
  const runs = iterations.flatMap((iteration) => iteration.runs);
  return {
    parts: iterations.flatMap(({ meansRps, runs: own, expected }, i): Part[] => {
      const name = i === 0 ? 'Fig. 5.18' : 'Fig. A.2';
      return [
        {
          kind: 'text',
          text: `${i === 0 ? 'First' : 'Another'} iteration: ${own[0]?.tasks.map(({ task }, k) => `${task} ${figure(meansRps[k])} requests/s`).join(', ')} on average; the most accurate versions would need twice the CPU, or the fastest two fifths of it where that is less.`,
        },
        ...own.flatMap((run) =>
          runParts(
            run.tasks.map((task, k) => ({
              report: runReportOf(run, k, { name: `${task.task}: ${run.name}`, withCpu: false }),
              caption: `${name}: ${task.task} under ${run.name}. Normalised accuracy ${percent(task.normalisedAccuracy)}, ${percent(task.violationRatio, 3)} late or refused; answers by version ${sharesOf(task.shares)}.`,
            })),
            run.sloMs,
            `coallocation-${i}-${run.name.replaceAll(/[^a-z0-9]+/gi, '-')}`,
          ),
        ),
        cpuPart(
          own.map(({ name: label, servers }) => ({ name: label, cpu: servers[0]?.cpu ?? [] })),
          own[0]!.durationMs,
          `coallocation-${i}-cpu`,
          `${name}e: CPU utilisation of the one server.`,
        ),
        violationsPart(own, `coallocation-${i}-violations`, `${name}f: requests without an answer in time.`),
        runsTable(
          own,
          `${name} in numbers; the thesis has ${percent(THESIS_COALLOCATION.violationRatio)} violations at ${percent(i === 0 ? THESIS_COALLOCATION.cpuUtilization : THESIS_COALLOCATION.secondCpuUtilization, 1)} CPU.`,
        ),
        tasksTable(own),
        expectedTable(own, expected),
      ];
    }),
    files: liveFiles(runs),
    headlines: headlinesOf(iterations[0]?.runs ?? []),
  };
}

function sharesOf(shares: LiveRun['tasks'][number]['shares']): string {
  return shares.map(({ version, ratio }) => `${version}: ${percent(ratio, 0)}`).join(', ') || 'none';
}

/** Table 5.2 with ours beside it. */
function tasksTable(runs: readonly LiveRun[]): Part {
  return {
    kind: 'table',
    caption:
      'Table 5.2: accuracy of the answers (by the versions that gave them), and over that of the best version.',
    headings: ['task', 'run', 'model accuracy', 'normalised accuracy'],
    rows: [
      ...THESIS_COALLOCATION.tasks.map(({ task, accuracy, normalisedAccuracy }) => [
        task,
        'thesis: trivial',
        percent(accuracy),
        percent(normalisedAccuracy),
      ]),
      ...(runs[0]?.tasks ?? []).flatMap((_, k) =>
        runs.map((run) => [
          run.tasks[k]!.task,
          run.name,
          percent(run.tasks[k]!.accuracy),
          percent(run.tasks[k]!.normalisedAccuracy),
        ]),
      ),
    ],
  };
}

/** Does the simulator foretell what happened, and how far from perfect was it? */
function expectedTable(runs: readonly LiveRun[], expected: readonly Expected[]): Part {
  return {
    kind: 'table',
    caption:
      'On the same arrivals: what happened, what the simulator expects from the profiles, and what perfect knowledge of all arrivals could have got.',
    headings: ['run', 'normalised accuracy', 'violations', 'CPU'],
    rows: [
      ...runs.map((run) => [
        `${run.name}, live`,
        percent(run.normalisedAccuracy),
        percent(run.violationRatio, 3),
        percent(run.servers[0]?.utilization, 1),
      ]),
      ...expected.map(({ name, normalisedAccuracy, violationRatio, cpuUtilization }) => [
        name,
        percent(normalisedAccuracy),
        percent(violationRatio, 3),
        percent(cpuUtilization, 1),
      ]),
    ],
  };
}

function headlinesOf(runs: readonly LiveRun[]): Drawn['headlines'] {
  const thesis = THESIS_COALLOCATION;
  const note =
    'other tasks, networks and demand; ours at up to twice the CPU that the most accurate versions have';
  const shown = runs.filter(({ name }) => name === 'bonsai' || name === 'trivial');
  if (shown.length === 0) return [];
  const each = (say: (run: LiveRun) => string) => shown.map((run) => `${run.name} ${say(run)}`).join('; ');
  return [
    {
      what: 'co-allocation: violations',
      thesis: percent(thesis.violationRatio),
      ours: each((run) => percent(run.violationRatio, 3)),
      note,
    },
    {
      what: 'co-allocation: CPU utilisation',
      thesis: percent(thesis.cpuUtilization, 1),
      ours: each((run) => percent(run.servers[0]?.utilization, 1)),
      note: 'used of what the server was given',
    },
    {
      what: 'co-allocation: normalised accuracy by task',
      thesis: thesis.tasks.map((task) => percent(task.normalisedAccuracy)).join(' / '),
      ours: each((run) => run.tasks.map((task) => percent(task.normalisedAccuracy)).join(' / ')),
      note: `mean over tasks: thesis ${percent(mean(thesis.tasks.map((task) => task.normalisedAccuracy)))}, ${each((run) => percent(mean(run.tasks.map((task) => task.normalisedAccuracy ?? Number.NaN))))}`,
    },
  ];
}
