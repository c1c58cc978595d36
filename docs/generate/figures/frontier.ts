import { frontierFigure } from '../../../src/report/frontier-figure.ts';
import { frontierOf } from '../../../src/repository/frontier.ts';
import { profileOf } from '../../../src/repository/types.ts';
import { zooFamily } from './families.ts';

/** Accuracy by measured throughput of all versions of a family, with its frontier. */
export async function frontier(): Promise<string> {
  const { variants } = await zooFamily('cifar10');
  const best = new Set(frontierOf(variants, 'inverseThroughput'));
  return frontierFigure(
    variants.flatMap((variant) => {
      const profile = profileOf(variant);
      return profile === undefined
        ? []
        : [
            {
              label: String(variant.version),
              accuracy: variant.accuracy.test,
              throughputRps: profile.throughputRps.median,
              isOnFrontier: best.has(variant),
            },
          ];
    }),
    'frontier',
  );
}
