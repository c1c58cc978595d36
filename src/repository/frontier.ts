import { type CostMetric, costOf, type Variant } from './types.ts';

/**
 * The Pareto-optimal variants in (test accuracy, cost): each costs less than every one that is at least as accurate.
 * Ordered from the most accurate (and most costly) down. Variants without the metric are left out.
 */
export function frontierOf(
  variants: readonly Variant[],
  metric: CostMetric,
  fingerprint?: string,
): Variant[] {
  const priced = variants
    .map((variant) => ({ variant, cost: costOf(variant, metric, fingerprint) }))
    .filter((entry): entry is { variant: Variant; cost: number } => entry.cost !== undefined)
    // Most accurate first; of equally accurate ones the cheapest first, so that the others fall out below.
    .toSorted((a, b) => b.variant.accuracy.test - a.variant.accuracy.test || a.cost - b.cost);
  const frontier: Variant[] = [];
  let cheapest = Number.POSITIVE_INFINITY;
  for (const { variant, cost } of priced) {
    if (cost >= cheapest) continue;
    cheapest = cost;
    frontier.push(variant);
  }
  return frontier;
}
