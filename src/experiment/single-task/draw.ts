import { chart } from '../../report/chart.ts';
import type { Part } from '../../report/experiment-report.ts';
import { csv } from '../csv.ts';
import type { Drawn } from '../experiment.ts';
import { cpuPart, liveFiles, runParts, runReportOf, runsTable, violationsPart } from '../live/draw.ts';
import { figure, percent } from '../wording.ts';
import type { SingleTaskResults, WorkloadKind } from './experiment.ts';
import { THESIS_SINGLE_TASK } from './thesis.ts';

const MEANINGS: Readonly<Record<WorkloadKind, { readonly figure: string; readonly text: string }>> = {
  'linear-up': {
    figure: 'Fig. 5.12',
    text: 'linear growth from a quarter to one and a half of what the most accurate version can',
  },
  exponential: {
    figure: 'Fig. 5.13, 5.14',
    text: 'exponential growth (1, 3, 5, 9, 17, 33) to a little more than the smallest version can',
  },
  'linear-down': { figure: 'Fig. 5.15', text: 'linear decline from 67 % of what the smallest version can' },
  trace: {
    figure: 'Fig. 5.16',
    text: 'volatile demand for which the most accurate version would need twice the CPU, or the fastest two fifths of it where that is less',
  },
};

export function drawSingleTask({ task, chain, workloads }: SingleTaskResults): Drawn {
  const runs = workloads.flatMap((workload) => workload.runs);
  return {
    parts: [
      ...chainParts(task, chain),
      ...workloads.flatMap(({ kind, steps, runs: own }): Part[] => {
        const meaning = MEANINGS[kind];
        return [
          { kind: 'text', text: `${meaning.figure}: ${meaning.text}.` },
          ...runParts(
            own.map((run) => ({
              report: runReportOf(run, 0, { name: run.name, withCpu: true, steps }),
              caption: `${meaning.figure}. Latency of each request over the version that answered most, whose height is its accuracy (right axis); CPU below. ${percent(run.violationRatio)} of ${run.offered} requests late or refused.`,
            })),
            own[0]?.sloMs ?? 400,
            `single-${kind}`,
          ),
          ...(own.length > 1
            ? [
                violationsPart(
                  own,
                  `single-${kind}-violations`,
                  `As Fig. 5.14c: requests without an answer in time, ${kind}.`,
                ),
                cpuPart(
                  own.map(({ name, servers }) => ({ name, cpu: servers[0]?.cpu ?? [] })),
                  own[0]!.durationMs,
                  `single-${kind}-cpu`,
                  `As Fig. 5.14d: CPU utilisation, ${kind}.`,
                ),
              ]
            : []),
          runsTable(own, `${meaning.text[0]!.toUpperCase()}${meaning.text.slice(1)}.`),
        ];
      }),
      ...thesisParts(),
    ],
    files: {
      ...liveFiles(runs),
      'chain.csv': csv(
        ['version', 'accuracy', 'throughput_rps'],
        chain.map(({ version, accuracy, throughputRps }) => [version, accuracy, throughputRps]),
      ),
    },
    headlines: headlinesOf(workloads),
  };
}

/** Figure 5.11: the chain that policies move along, by what a version costs and by what it can. */
function chainParts(task: string, chain: SingleTaskResults['chain']): Part[] {
  const common = { y: { title: 'accuracy (%)' } };
  const points = (x: (rps: number) => number) =>
    chain.map(({ version, accuracy, throughputRps }) => ({
      x: x(throughputRps),
      y: 100 * accuracy,
      label: `V${version}`,
    }));
  return [
    {
      kind: 'figure',
      caption: `Fig. 5.11a: the chain of ${task} by inverse throughput.`,
      figure: chart({
        ...common,
        id: 'single-chain-inverse',
        title: 'Model chain by inverse throughput',
        height: 230,
        x: { title: 'inverse throughput (ms/inference)' },
        series: [{ name: task, kind: 'dots-and-line', points: points((rps) => 1000 / rps) }],
      }),
    },
    {
      kind: 'figure',
      caption: `Fig. 5.11b: the same by throughput.`,
      figure: chart({
        ...common,
        id: 'single-chain',
        title: 'Model chain by throughput',
        height: 230,
        x: { title: 'throughput (inferences/s)' },
        series: [{ name: task, kind: 'dots-and-line', points: points((rps) => rps) }],
      }),
    },
  ];
}

function thesisParts(): Part[] {
  return [
    {
      kind: 'table',
      caption: 'What the thesis says of its own runs (section 5.4.1), read from its text.',
      headings: ['run', 'thesis'],
      rows: THESIS_SINGLE_TASK.map(({ run, says }) => [run, says]),
    },
  ];
}

function headlinesOf(workloads: SingleTaskResults['workloads']): Drawn['headlines'] {
  const trace = workloads.find(({ kind }) => kind === 'trace')?.runs ?? [];
  const of = (policy: string) => trace.find(({ name }) => name.endsWith(policy));
  const [trivial, ours] = [of('trivial'), of('bonsai')];
  if (trivial === undefined || ours === undefined) return [];
  return [
    {
      what: 'one task on a trace: violations and normalised accuracy',
      thesis: 'a small number of violations (Fig. 5.16)',
      ours: `bonsai ${percent(ours.violationRatio, 3)}, ${percent(ours.normalisedAccuracy)}; trivial ${percent(trivial.violationRatio, 3)}, ${percent(trivial.normalisedAccuracy)}`,
      note: `${figure(trivial.offered)} requests each, the most accurate version would need up to twice the CPU`,
    },
  ];
}
