import { frontierOf } from '../../repository/frontier.ts';
import { profileOf, type Variant } from '../../repository/types.ts';
import type { VersionOverview } from './messages.ts';

/** A version, and what is known of it. */
interface Version {
  readonly version: number;
  readonly variant?: Variant;
}

const described = new WeakMap<readonly Version[], readonly VersionOverview[]>();

/** The versions of a task as its repository describes them. Remembered as long as the array lives. */
export function versionsOverview(all: readonly Version[]): readonly VersionOverview[] {
  const known = described.get(all);
  if (known !== undefined) return known;
  const variants = all.flatMap(({ variant }) => (variant === undefined ? [] : [variant]));
  const byThroughput = frontierOf(variants, 'inverseThroughput');
  const frontier = new Set(byThroughput.length > 0 ? byThroughput : frontierOf(variants, 'flops'));
  const best = Math.max(0, ...variants.map(({ accuracy }) => accuracy.test));
  const versions = all.map(({ version, variant }): VersionOverview => {
    if (variant === undefined) return { version, isOnFrontier: false };
    const { test } = variant.accuracy;
    return {
      version,
      accuracy: test,
      ...(best > 0 && { normalisedAccuracy: test / best }),
      throughputRps: profileOf(variant)?.throughputRps.median,
      macs: variant.macs,
      isOnFrontier: frontier.has(variant),
    };
  });
  described.set(all, versions);
  return versions;
}
