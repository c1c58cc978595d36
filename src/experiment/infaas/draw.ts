import { quantile } from '../../base/statistics.ts';
import { boxFigure } from '../../report/box-figure.ts';
import { csv } from '../csv.ts';
import type { Drawn } from '../experiment.ts';
import { cpuPart, liveFiles, runParts, runReportOf, runsTable } from '../live/draw.ts';
import { boxOf } from '../measuring/boxes.ts';
import { figure, percent } from '../wording.ts';
import type { InfaasResults, Stack } from './experiment.ts';
import { THESIS_INFAAS } from './thesis.ts';

const MEANINGS: Readonly<Record<Stack, string>> = {
  'per-model': 'a process for each version, started by its first request, behind a proxy',
  'one-server': "Bonsai's server",
};

const COLD_STEPS = [{ atMs: 0, rps: THESIS_INFAAS.coldRps }] as const;

export function drawInfaas({ task, version, stacks }: InfaasResults): Drawn {
  const sloMs = stacks[0]?.growth.sloMs ?? 400;
  const of = (kind: Stack) => stacks.find((stack) => stack.kind === kind);
  const maximum = (kind: Stack) => quantile(of(kind)?.throughputsRps ?? [], 0.5);
  const ratio = maximum('one-server') / maximum('per-model');
  return {
    parts: [
      {
        kind: 'text',
        text: `Version ${version} of ${task}, its smallest, as INFaaS serves where no accuracy is asked for; both stacks on the same CPU. What stands for INFaaS here is its way of serving, one model in one server, without its other parts: its own code runs on AWS alone.`,
      },
      ...runParts(
        stacks.map(({ kind, coldStart, coldMs }) => ({
          report: runReportOf(coldStart, 0, {
            name: `20 requests/s to ${kind}`,
            withCpu: true,
            steps: COLD_STEPS,
          }),
          caption: `Fig. 5.4: ${MEANINGS[kind]}, just started. ${percent(coldStart.violationRatio)} of requests late or failed, the last of them ${coldText(coldStart, coldMs)} after the first request.`,
        })),
        sloMs,
        'infaas-cold',
      ),
      ...runParts(
        stacks.map(({ kind, growth, steps }) => ({
          report: runReportOf(growth, 0, { name: `exponential growth on ${kind}`, withCpu: true, steps }),
          caption: `Fig. 5.5: ${MEANINGS[kind]}, 1 to 513 requests/s. ${percent(growth.violationRatio)} late or failed, p99 ${figure(growth.tasks[0]?.p99Ms)} ms.`,
        })),
        sloMs,
        'infaas-growth',
      ),
      cpuPart(
        stacks.map(({ kind, growth }) => ({ name: kind, cpu: growth.servers[0]?.cpu ?? [] })),
        stacks[0]!.growth.durationMs,
        'infaas-cpu',
        'Fig. 5.5 (bottom): CPU utilisation while requests grow.',
      ),
      {
        kind: 'figure',
        caption: 'Maximal throughput of the two stacks on the same CPU, over repetitions.',
        figure: boxFigure({
          id: 'infaas-throughput',
          title: 'Maximal throughput by stack',
          categories: stacks.map(({ kind }) => kind),
          categoryTitle: 'stack',
          y: { title: 'throughput (req/s)' },
          series: [{ name: 'throughput', boxes: stacks.map(({ throughputsRps }) => boxOf(throughputsRps)) }],
        }),
      },
      runsTable(
        stacks.flatMap(({ coldStart, growth }) => [coldStart, growth]),
        'The runs in numbers.',
      ),
    ],
    files: {
      ...liveFiles(stacks.flatMap(({ coldStart, growth }) => [coldStart, growth])),
      'throughput.csv': csv(
        ['stack', 'repetition', 'throughput_rps'],
        stacks.flatMap(({ kind, throughputsRps }) => throughputsRps.map((rate, i) => [kind, i + 1, rate])),
      ),
    },
    headlines: [
      {
        what: 'throughput, one server over one process per model',
        thesis: `${THESIS_INFAAS.ratio} × (${THESIS_INFAAS.tritonRps} against ${THESIS_INFAAS.infaasRps}/s)`,
        ours: `${figure(ratio)} × (${figure(maximum('one-server'), 4)} against ${figure(maximum('per-model'), 4)}/s)`,
        note: 'the thesis compares Triton with all of INFaaS on AWS; here both stacks run the same server code on the same CPU, so that the ratio is the price of the architecture alone',
      },
      {
        what: 'cold start: time until all requests are in time',
        thesis: `${THESIS_INFAAS.coldMs / 1000} s`,
        ours: stacks
          .map(({ kind, coldStart, coldMs }) => `${kind} ${coldText(coldStart, coldMs)}`)
          .join('; '),
        note: 'at 20 requests/s, from the first request on',
      },
    ],
  };
}

/** Where even the last requests were late, nobody knows for how long it would have gone on. */
function coldText({ durationMs }: InfaasResults['stacks'][number]['coldStart'], coldMs: number): string {
  const isOpen = coldMs >= durationMs - 2 * (1000 / THESIS_INFAAS.coldRps);
  return `${isOpen ? 'more than ' : ''}${figure(coldMs / 1000)} s`;
}
