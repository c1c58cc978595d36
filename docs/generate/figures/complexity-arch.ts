import { chart } from '../../../src/report/chart.ts';
import { frontierOf } from '../../../src/repository/frontier.ts';
import { zooFamily } from './families.ts';

/** Accuracy, over that of the best, by the work of one inference, for two tasks of the zoo. */
export async function complexityArch(): Promise<string> {
  const families = await Promise.all(['cifar10', 'cifar100'].map(zooFamily));
  const shown = families.flatMap(({ task, variants }, color) => {
    const best = Math.max(...variants.map(({ accuracy }) => accuracy.test));
    const points = (of: typeof variants) =>
      of.map(({ macs, accuracy }) => ({ x: macs / 1e6, y: (100 * accuracy.test) / best }));
    return [
      { name: task, kind: 'dots' as const, color, points: points(variants) },
      { name: 'frontier', kind: 'line' as const, color, points: points(frontierOf(variants, 'flops')) },
    ];
  });
  return chart({
    id: 'complexity-arch',
    title: 'The complexity arch of two families of the zoo',
    height: 300,
    x: { title: 'multiply-accumulates of one inference (millions, logarithmic)', kind: 'log' },
    y: { title: 'accuracy, % of the best', domain: [40, 104] },
    series: shown,
  });
}
