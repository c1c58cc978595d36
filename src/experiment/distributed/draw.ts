import type { Part } from '../../report/experiment-report.ts';
import type { Drawn } from '../experiment.ts';
import { cpuPart, liveFiles, runParts, runReportOf, runsTable, violationsPart } from '../live/draw.ts';
import { figure, percent } from '../wording.ts';
import type { DistributedResults } from './experiment.ts';
import { THESIS_DISTRIBUTED } from './thesis.ts';

const FIGURES = { low: 'Fig. 5.19', high: 'Fig. 5.20' } as const;

export function drawDistributed({ hasOwnCpus, servers, loads }: DistributedResults): Drawn {
  const runs = loads.flatMap((load) => load.runs);
  return {
    parts: [
      {
        kind: 'text',
        text: hasOwnCpus
          ? `${servers.length} servers of a CPU each; requests over HTTP through NGINX (as in Fig. A.5).`
          : `${servers.length} servers share one CPU, since this machine has no more: together they have what one server has in the co-allocation test, and each counts on a third. Requests go over HTTP through NGINX (as in Fig. A.5), which works on the client's CPU.`,
      },
      {
        kind: 'text',
        text: "trivial and plan: the orchestrator chooses the version on each server, by the thesis' policy for each server alone, or by a plan for all. bonsai: the plan says which tasks a server has, and its own policy by which versions each request is answered.",
      },
      ...loads.flatMap(({ kind, meansRps, runs: own }): Part[] => [
        {
          kind: 'text',
          text: `${FIGURES[kind]}, ${kind} load: ${own[0]?.tasks.map(({ task }, k) => `${task} ${figure(meansRps[k])} requests/s`).join(', ')} on average.`,
        },
        ...own.flatMap((run) => [
          ...runParts(
            run.tasks.map((task, k) => ({
              report: runReportOf(run, k, { name: `${task.task}: ${run.name}`, withCpu: false }),
              caption: `${FIGURES[kind]}: ${task.task}, ${run.name}. Normalised accuracy ${percent(task.normalisedAccuracy)}, ${percent(task.violationRatio, 3)} late or refused.`,
            })),
            run.sloMs,
            `distributed-${run.name.replaceAll(/[^a-z0-9]+/gi, '-')}`,
          ),
          cpuPart(
            run.servers,
            run.durationMs,
            `distributed-cpu-${run.name.replaceAll(/[^a-z0-9]+/gi, '-')}`,
            `${FIGURES[kind]}e: CPU of each server over what it may count on, ${run.name}; ${run.changes} changes of versions.`,
          ),
        ]),
        violationsPart(
          own,
          `distributed-violations-${kind}`,
          `${FIGURES[kind]}g: requests without an answer in time.`,
        ),
        runsTable(own, `${FIGURES[kind]} in numbers; CPU of the servers in turn.`),
      ]),
      cpuTable({ hasOwnCpus, servers, loads }),
      accuracyTable(loads),
    ],
    files: liveFiles(runs),
    headlines: headlinesOf(loads),
  };
}

/** Table 5.3 with ours beside it. */
function cpuTable({ servers, loads }: DistributedResults): Part {
  const of = (kind: 'low' | 'high') => loads.find((load) => load.kind === kind)?.runs ?? [];
  const policies = [...new Set(loads.flatMap(({ runs }) => runs.map(({ name }) => policyOf(name))))];
  const cell = (kind: 'low' | 'high', policy: string, i: number) =>
    percent(of(kind).find(({ name }) => policyOf(name) === policy)?.servers[i]?.utilization);
  return {
    kind: 'table',
    caption: 'Table 5.3: mean CPU utilisation of each server.',
    headings: ['server', 'run', 'low load', 'high load'],
    rows: [
      ...THESIS_DISTRIBUTED.cpu.map(({ server, low, high }) => [
        server,
        'thesis: trivial',
        percent(low),
        percent(high),
      ]),
      ...policies.flatMap((policy) =>
        servers.map((server, i) => [server, policy, cell('low', policy, i), cell('high', policy, i)]),
      ),
    ],
  };
}

/** Table 5.4 with ours beside it. */
function accuracyTable(loads: DistributedResults['loads']): Part {
  return {
    kind: 'table',
    caption: 'Table 5.4: accuracy of the answers (by the versions that gave them) and normalised accuracy.',
    headings: ['load', 'task', 'run', 'model accuracy', 'normalised accuracy'],
    rows: (['low', 'high'] as const).flatMap((kind) => [
      ...THESIS_DISTRIBUTED.tasks.map(({ task, ...values }) => [
        kind,
        task,
        'thesis: trivial',
        percent(values[kind][0]),
        percent(values[kind][1]),
      ]),
      ...(loads.find((load) => load.kind === kind)?.runs ?? []).flatMap(({ name, tasks }) =>
        tasks.map(({ task, accuracy, normalisedAccuracy }) => [
          kind,
          task,
          policyOf(name),
          percent(accuracy),
          percent(normalisedAccuracy),
        ]),
      ),
    ]),
  };
}

function policyOf(name: string): string {
  return name.slice(name.indexOf(': ') + 2);
}

function headlinesOf(loads: DistributedResults['loads']): Drawn['headlines'] {
  const high = loads.find(({ kind }) => kind === 'high')?.runs ?? [];
  const low = loads.find(({ kind }) => kind === 'low')?.runs ?? [];
  const say = (
    runs: DistributedResults['loads'][number]['runs'],
    of: (run: (typeof runs)[number]) => string,
  ) =>
    runs
      .filter(({ name }) => !name.includes('static'))
      .map((run) => `${policyOf(run.name)} ${of(run)}`)
      .join('; ');
  return [
    {
      what: 'distributed, low load: violations',
      thesis: percent(THESIS_DISTRIBUTED.violationRatio),
      ours: say(low, (run) => percent(run.violationRatio, 3)),
      note: 'three servers behind NGINX',
    },
    {
      what: 'distributed, high load: normalised accuracy by task',
      thesis: THESIS_DISTRIBUTED.tasks.map(({ high: [, normalised] }) => percent(normalised)).join(' / '),
      ours: say(high, (run) => run.tasks.map((task) => percent(task.normalisedAccuracy)).join(' / ')),
      note: `violations: ${say(high, (run) => percent(run.violationRatio, 3))}`,
    },
  ];
}
