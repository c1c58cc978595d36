import { frontierOf, paretoOf } from '../../repository/frontier.ts';
import type { Variant } from '../../repository/types.ts';
import type { Candidate } from './steps.ts';
import type { Family, FoundVariant, PortOptions } from './types.ts';

/**
 * The candidates that stay, numbered: version 1 is the most accurate; of equally accurate ones the one with fewer
 * multiply-accumulates comes first, as on the frontier.
 */
export function familyOf(
  candidates: readonly Candidate[],
  options: Pick<PortOptions, 'keep' | 'frontierMetric' | 'target'>,
  state: Family['state'],
): Family {
  const best = frontierCandidates(candidates);
  const stays = ({ variant }: Candidate) => options.keep === 'all' || isBase(variant);
  const kept = candidates.filter((candidate) => best.has(candidate) || stays(candidate));
  const numbered = kept
    .toSorted((a, b) => compareVariants(a.variant, b.variant))
    .map((candidate, i) => ({ ...candidate, version: i + 1 }));
  const variants = numbered.map(({ version, variant }) => ({ version, ...variant }));
  const frontier = frontierOf(variants, options.frontierMetric ?? 'flops', options.target.fingerprint);
  return {
    variants,
    models: new Map(numbered.map(({ version, bytes }) => [version, bytes])),
    latencies: new Map(numbered.map(({ version, latencyMs }) => [version, latencyMs])),
    frontier: frontier.map(({ version }) => version),
    state,
  };
}

/**
 * A family together with variants that lie in a repository, numbered anew. Variants of the same network are one, with all
 * profiles that either knows; where both know a target, the fresh one's counts.
 * @param stays whether a variant of before stays that the fresh family has not
 */
export function mergeVariants(
  before: readonly Variant[],
  fresh: readonly Omit<Variant, 'version'>[],
  stays: boolean,
): Variant[] {
  const known = new Map(before.map((variant) => [variant.digest, variant]));
  const digests = new Set(fresh.map(({ digest }) => digest));
  const merged: Omit<Variant, 'version'>[] = fresh.map((variant) => ({
    ...variant,
    profiles: { ...known.get(variant.digest)?.profiles, ...variant.profiles },
  }));
  if (stays) merged.push(...before.filter(({ digest }) => !digests.has(digest)));
  return merged.toSorted(compareVariants).map((variant, i) => ({ ...variant, version: i + 1 }));
}

/** All candidates as they were found, for showing. */
export function foundOf(candidates: readonly Candidate[]): FoundVariant[] {
  const best = frontierCandidates(candidates);
  return candidates.map((candidate) => {
    const { name, variant, latencyMs } = candidate;
    return { name, variant, latencyMs, isOnFrontier: best.has(candidate) };
  });
}

/** The most accurate first; of equally accurate ones the one with the least work. */
export function compareVariants(a: Omit<Variant, 'version'>, b: Omit<Variant, 'version'>): number {
  return b.accuracy.test - a.accuracy.test || a.macs - b.macs;
}

/** Whether a variant was derived from no other. */
export function isBase({ lineage }: Pick<Variant, 'lineage'>): boolean {
  return lineage.parent === undefined;
}

/** Those on the frontier of any metric that was measured. */
function frontierCandidates(candidates: readonly Candidate[]): Set<Candidate> {
  const rows = candidates.map((candidate) => ({ candidate, accuracy: candidate.variant.accuracy }));
  const prices: ((candidate: Candidate) => number | undefined)[] = [
    ({ variant }) => variant.macs,
    ({ latencyMs }) => latencyMs.median,
    ({ variant }) => {
      const [profile] = Object.values(variant.profiles); // Each has that of the target or none.
      return profile === undefined ? undefined : 1 / profile.throughputRps.median;
    },
  ];
  return new Set(
    prices.flatMap((priceOf) =>
      paretoOf(rows, (row) => priceOf(row.candidate)).map(({ candidate }) => candidate),
    ),
  );
}
