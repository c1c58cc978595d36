import { COST_METRICS, type CostMetric, costOf, type Variant } from './types.ts';

/**
 * The Pareto-optimal variants in (test accuracy, cost): each costs less than every one that is at least as accurate.
 * Ordered from the most accurate (and most costly) down. Variants without the metric are left out.
 */
export function frontierOf<V extends Omit<Variant, 'version'>>(
  variants: readonly V[],
  metric: CostMetric,
  fingerprint?: string,
): V[] {
  return paretoOf(variants, (variant) => costOf(variant, metric, fingerprint));
}

/** The same by any cost, undefined where it is not known. */
export function paretoOf<V extends Pick<Variant, 'accuracy'>>(
  variants: readonly V[],
  priceOf: (variant: V) => number | undefined,
): V[] {
  const priced = variants
    .map((variant) => ({ variant, cost: priceOf(variant) }))
    .filter((entry): entry is { variant: V; cost: number } => entry.cost !== undefined)
    // Most accurate first; of equally accurate ones the cheapest first, so that the others fall out below.
    .toSorted((a, b) => b.variant.accuracy.test - a.variant.accuracy.test || a.cost - b.cost);
  const frontier: V[] = [];
  let cheapest = Number.POSITIVE_INFINITY;
  for (const { variant, cost } of priced) {
    if (cost >= cheapest) continue;
    cheapest = cost;
    frontier.push(variant);
  }
  return frontier;
}

/**
 * The variants whose accuracy, over that of the most accurate one, is at least `minAccuracy`.
 * @param frontier most accurate first
 * @param minAccuracy in [0, 1]; undefined: all will do
 */
export function acceptableOf<V extends Pick<Variant, 'accuracy'>>(
  frontier: readonly V[],
  minAccuracy: number | undefined,
): readonly V[] {
  if (minAccuracy === undefined) return frontier;
  const best = frontier[0]?.accuracy.test ?? 0;
  return frontier.filter(({ accuracy }) => accuracy.test >= minAccuracy * best);
}

/** The variants that are on the frontier of any metric, in the given order. */
export function onAnyFrontier<V extends Omit<Variant, 'version'>>(
  variants: readonly V[],
  fingerprint?: string,
): V[] {
  const chosen = new Set(COST_METRICS.flatMap((metric) => frontierOf(variants, metric, fingerprint)));
  return variants.filter((variant) => chosen.has(variant));
}
