import { quantile } from '../../base/statistics.ts';
import { boxFigure } from '../../report/box-figure.ts';
import type { Part } from '../../report/experiment-report.ts';
import { csv } from '../csv.ts';
import type { Drawn } from '../experiment.ts';
import { boxOf } from '../measuring/boxes.ts';
import { figure } from '../wording.ts';
import type { CoallocationProfileResults, ProfileCondition } from './experiment.ts';
import { THESIS_TABLE_5_1 } from './thesis.ts';

const NAMES: Readonly<Record<ProfileCondition, string>> = {
  oneCpu: '1 CPU',
  twoCpus: '2 CPUs',
  contested25: '1 CPU, contested 25 %',
  contested50: '1 CPU, contested 50 %',
};

/** In the columns of the table. */
const COMPARED = ['twoCpus', 'contested25', 'contested50'] as const;

export function drawCoallocationProfile(results: CoallocationProfileResults): Drawn {
  const { task, contestant } = results;
  const aloneRps = ({ throughputsRps }: (typeof results.versions)[number]) =>
    quantile(
      [...throughputsRps.oneCpu!].sort((a, b) => a - b),
      0.5,
    );
  const versions = results.versions.toSorted((a, b) => aloneRps(a) - aloneRps(b));
  const hasTwo = versions.some(({ throughputsRps }) => throughputsRps.twoCpus !== undefined);
  const conditions = (Object.keys(NAMES) as ProfileCondition[]).filter(
    (each) => hasTwo || each !== 'twoCpus',
  );
  return {
    parts: [
      ...notesOf(results, hasTwo),
      {
        kind: 'figure',
        caption: `Fig. 5.6a: maximal throughput of ${task} over ${versions[0]?.throughputsRps.oneCpu?.length} repetitions, on one CPU, on two, and beside version ${contestant.version} of ${contestant.task} at a quarter and at half of its own ${figure(contestant.maximumRps)} requests/s.`,
        figure: boxFigure({
          id: 'coallocation-profile',
          title: 'Throughput on one and two CPUs, and contested',
          categories: versions.map(({ version }) => `V${version}`),
          categoryTitle: 'version, slowest first',
          y: { title: 'throughput (req/s, logarithmic)', kind: 'log' },
          series: conditions.map((condition) => ({
            name: NAMES[condition],
            boxes: versions.map(({ throughputsRps }) => {
              const rates = throughputsRps[condition];
              return rates === undefined ? undefined : boxOf(rates);
            }),
          })),
        }),
      },
      {
        kind: 'table',
        caption: `Table 5.1 of this machine: throughput as a multiple of that on one free CPU, median (least – greatest).`,
        headings: ['version', ...COMPARED.map((condition) => NAMES[condition])],
        rows: versions
          .toReversed()
          .map(({ version, description, throughputsRps }) => [
            `V${version} ${description}`,
            ...COMPARED.map((condition) => multiples(throughputsRps.oneCpu!, throughputsRps[condition])),
          ]),
      },
      {
        kind: 'table',
        caption: 'Table 5.1 of the thesis: a Raspberry Pi 4 with Triton.',
        headings: ['version', ...COMPARED.map((condition) => NAMES[condition])],
        rows: THESIS_TABLE_5_1.map(({ version, ...columns }) => [
          version,
          ...COMPARED.map((condition) => {
            const [middle, least, greatest] = columns[condition];
            return `${middle.toFixed(2)} (${least.toFixed(2)} – ${greatest.toFixed(2)})`;
          }),
        ]),
      },
    ],
    files: {
      'repetitions.csv': csv(
        ['task', 'version', 'condition', 'repetition', 'throughput_rps'],
        versions.flatMap(({ version, throughputsRps }) =>
          conditions.flatMap((condition) =>
            (throughputsRps[condition] ?? []).map((rate, i) => [
              task,
              version,
              NAMES[condition],
              i + 1,
              rate,
            ]),
          ),
        ),
      ),
    },
    headlines: [
      {
        what: 'throughput beside another model at 25 % / 50 % of its maximum',
        thesis: `${overall(THESIS_TABLE_5_1.map((row) => row.contested25[0]))} / ${overall(THESIS_TABLE_5_1.map((row) => row.contested50[0]))}`,
        ours: (['contested25', 'contested50'] as const)
          .map((condition) =>
            overall(
              versions.map(
                ({ throughputsRps }) =>
                  quantile(throughputsRps[condition]!, 0.5) / quantile(throughputsRps.oneCpu!, 0.5),
              ),
            ),
          )
          .join(' / '),
        note: 'median over versions, as a multiple of the throughput alone; 0.75 and 0.5 would be no loss at all',
      },
    ],
  };
}

function notesOf({ isClientApart }: CoallocationProfileResults, hasTwo: boolean): Part[] {
  if (!hasTwo) return [{ kind: 'text', text: 'Two CPUs were not measured: this machine has one.' }];
  if (isClientApart) return [];
  return [
    {
      kind: 'text',
      text: 'With two CPUs the server shared one of them with the client that asked it, since this machine has no third: its figures are too low, most of all those of fast versions.',
    },
  ];
}

/** As the thesis counts: least over the greatest free one, greatest over the least. */
function multiples(free: readonly number[], other: readonly number[] | undefined): string {
  if (other === undefined) return '–';
  const [own, base] = [boxOf(other), boxOf(free)];
  return `${(own.median / base.median).toFixed(2)} (${(own.min / base.max).toFixed(2)} – ${(own.max / base.min).toFixed(2)})`;
}

function overall(values: readonly number[]): string {
  return quantile(values, 0.5).toFixed(2);
}
