import { allocationChain, type Ladder } from '../../../src/policy/allocation.ts';
import { chart } from '../../../src/report/chart.ts';
import { frontierOf } from '../../../src/repository/frontier.ts';
import { costOf } from '../../../src/repository/types.ts';
import { zooFamily } from './families.ts';

/** Requests per second of each task. */
const DEMAND_RPS = { cifar10: 400, cifar100: 200, mnist: 800 } as const;

/** The chain of allocations of three tasks: from every task's most accurate version to every task's fastest. */
export async function chainOfVersions(): Promise<string> {
  const ladders = await Promise.all(
    Object.entries(DEMAND_RPS).map(async ([name, demandRps]): Promise<Ladder> => {
      const { task, variants } = await zooFamily(name);
      const steps = frontierOf(variants, 'inverseThroughput');
      const best = steps[0]!.accuracy.test;
      return {
        task,
        weight: 1,
        demandRps,
        steps: steps.map((variant) => ({
          version: variant.version,
          // Those of a frontier have one.
          cost: costOf(variant, 'inverseThroughput')!,
          normalisedAccuracy: variant.accuracy.test / best,
        })),
      };
    }),
  );
  const chain = allocationChain(ladders);
  /** Which task stepped down to get there. */
  const moved = chain.map(({ positions }, i) =>
    positions.findIndex((position, k) => position !== chain[i - 1]?.positions[k]),
  );
  const points = chain.map(({ metric, accuracy }) => ({ x: metric, y: 100 * accuracy }));
  return chart({
    id: 'allocation-chain',
    title: 'The chain of allocations of three tasks',
    height: 300,
    x: { title: 'CPUs that the demand takes' },
    y: { title: 'accuracy, % of the best', domain: [82, 101] },
    series: [
      { name: 'the chain', kind: 'line', color: 'ink', points },
      ...ladders.map(({ task }, k) => ({
        name: `${task} steps down`,
        kind: 'dots' as const,
        color: k,
        points: points.filter((_, i) => i > 0 && moved[i] === k),
      })),
    ],
  });
}
