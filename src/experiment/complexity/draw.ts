import { chart } from '../../report/chart.ts';
import { csv } from '../csv.ts';
import type { Drawn } from '../experiment.ts';
import { percent } from '../wording.ts';
import type { ComplexityPoint, ComplexityResults } from './experiment.ts';

export function drawComplexity({ tasks }: ComplexityResults): Drawn {
  return {
    parts: tasks.flatMap(({ task, variants }) => [
      { kind: 'figure' as const, figure: archFigure(task, variants), caption: captionOf(task, variants) },
    ]),
    files: {
      'complexity.csv': csv(
        [
          'task',
          'version',
          'description',
          'accuracy',
          'macs',
          'flops',
          'parameters',
          'pruned',
          'quantized',
          'frontier',
        ],
        tasks.flatMap(({ task, variants }) =>
          variants.map((each) => [
            task,
            each.version,
            each.description,
            each.accuracy,
            each.macs,
            2 * each.macs,
            each.parameters,
            each.isPruned,
            each.isQuantized,
            each.isOnFrontier,
          ]),
        ),
      ),
    },
    headlines: [],
  };
}

function archFigure(task: string, variants: readonly ComplexityPoint[]): string {
  const backbones = [...new Set(variants.map(({ backbone }) => backbone))];
  const flops = ({ macs }: ComplexityPoint) => (2 * macs) / 1e6;
  const frontier = variants.filter(({ isOnFrontier }) => isOnFrontier).toSorted((a, b) => a.macs - b.macs);
  return chart({
    id: `complexity-${task}`,
    title: `Accuracy against FLOPs of ${task}`,
    x: { title: 'FLOPs of one inference (millions, logarithmic)', kind: 'log' },
    y: { title: 'accuracy (%)' },
    series: [
      {
        name: 'frontier',
        kind: 'line',
        color: 'ink',
        points: frontier.map((each) => ({ x: flops(each), y: 100 * each.accuracy })),
      },
      ...backbones.map((backbone, color) => ({
        name: backbone,
        kind: 'dots' as const,
        color,
        points: variants
          .filter((each) => each.backbone === backbone)
          .map((each) => ({
            x: flops(each),
            y: 100 * each.accuracy,
            label: String(each.version),
            isOutlined: each.isPruned,
          })),
      })),
    ],
  });
}

function captionOf(task: string, variants: readonly ComplexityPoint[]): string {
  const byCost = variants.filter(({ isOnFrontier }) => isOnFrontier).toSorted((a, b) => b.macs - a.macs);
  const [largest, smallest] = [byCost[0], byCost.at(-1)];
  const said =
    largest === undefined || smallest === undefined || largest === smallest
      ? ''
      : ` The smallest on the frontier has ${(largest.macs / smallest.macs).toFixed(1)} times fewer FLOPs than the largest and loses ${percent(largest.accuracy - smallest.accuracy)} of accuracy.`;
  return `${task}: every version by its number (1 is the most accurate); an outline marks pruned ones, the line is the frontier. A multiply-accumulate counts as two FLOPs; 8-bit integers do not change their number.${said}`;
}
