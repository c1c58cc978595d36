import { chart } from '../../report/chart.ts';
import { csv } from '../csv.ts';
import type { Drawn } from '../experiment.ts';
import { figure, percent } from '../wording.ts';
import type { ExplodingQueueResults } from './experiment.ts';
import { QUEUE_SHARES, THESIS_EXPLOSIONS } from './thesis.ts';

export function drawExplodingQueue({ task, versions, durationMs }: ExplodingQueueResults): Drawn {
  const exploding = (share: number) =>
    versions.filter(({ runs }) => runs.find((run) => run.share === share)?.isExploding).length;
  return {
    parts: [
      ...versions.map(({ version, description, maximumRps, runs }, i) => ({
        kind: 'figure' as const,
        caption: `${i === 0 ? 'Fig. 5.10, A.1' : 'Fig. A.1'}: latency of each request to V${version} (${description}) at shares of its maximal ${figure(maximumRps)} requests/s. Over the maximum, latency should rise by the excess: 50 ms a second at 105 %; here ${runs.map(({ share, growthMsPerS }) => `${percent(share, 0)}: ${figure(growthMsPerS)} ms/s`).join(', ')}.`,
        figure: chart({
          id: `exploding-${version}`,
          title: `Latency of version ${version} of ${task} at shares of its maximum`,
          height: 250,
          x: { title: 'time (s)', domain: [0, durationMs / 1000] },
          y: { title: 'latency (ms)' },
          series: runs.map(({ share, dots }) => ({
            name: percent(share, 0),
            kind: 'cloud' as const,
            points: dots.dueMs.map((dueMs, j) => ({ x: dueMs / 1000, y: dots.latencyMs[j]! })),
          })),
        }),
      })),
      {
        kind: 'table',
        caption: `Median and 99th percentile of latency in ms, ${figure(durationMs / 1000)} s each; * where the queue explodes.`,
        headings: ['version', 'maximum /s', ...QUEUE_SHARES.map((share) => percent(share, 0))],
        rows: versions.map(({ version, maximumRps, runs }) => [
          `V${version}`,
          figure(maximumRps),
          ...runs.map(
            ({ p50Ms, p99Ms, isExploding }) =>
              `${figure(p50Ms)} / ${figure(p99Ms)}${isExploding ? ' *' : ''}`,
          ),
        ]),
      },
    ],
    files: {
      'runs.csv': csv(
        [
          'task',
          'version',
          'maximum_rps',
          'share',
          'offered_rps',
          'p50_ms',
          'p99_ms',
          'growth_ms_per_s',
          'exploding',
        ],
        versions.flatMap(({ version, maximumRps, runs }) =>
          runs.map((run) => [
            ...[task, version, maximumRps, run.share, run.offeredRps],
            ...[run.p50Ms, run.p99Ms, run.growthMsPerS, run.isExploding],
          ]),
        ),
      ),
    },
    headlines: [
      {
        what: 'queues that explode at 105 % / 110 % of the profiled maximum',
        thesis: `${THESIS_EXPLOSIONS.at105} / ${THESIS_EXPLOSIONS.at110} of ${THESIS_EXPLOSIONS.versions} versions`,
        ours: `${exploding(1.05)} / ${exploding(1.1)} of ${versions.length} versions`,
        note: 'the better the profile, the sooner; on a server that refuses nothing. Bonsai itself refuses what cannot be in time',
      },
    ],
  };
}
