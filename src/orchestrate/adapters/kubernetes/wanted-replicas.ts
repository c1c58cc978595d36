import type { PlacementTask } from '../../../policy/placement/placement.ts';

/** How many servers of a pool would do, for autoscalers of pods. */
export interface WantedReplicas {
  /** With the quickest version of each task: fewer cannot carry the demand. */
  readonly forDemand: number;
  /** With the most accurate version of each task that is quick enough for its objective: more bring nothing. */
  readonly forAccuracy: number;
}

/** More than this is a mistake in a profile or a demand, not a wish. */
export const MAX_WANTED_REPLICAS = 10_000;

/** Of sums of products of fractions: 70 × 0.02 / 0.7 is not quite 2. */
const ROUNDING = 1e-9;

/**
 * Servers of a pool, given what all other servers carry:
 * ceil((Σ demand × CPU seconds / utilization − cores of the others) / cores of one), at least 1. Pure.
 * @param tasks with their demand in req/s and CPU seconds of each version
 * @param otherCores that are up elsewhere in the fleet, each times its weight
 * @param poolCores of one server of the pool, times its weight
 * @param utilization the share of the CPU that a plan fills, in (0, 1)
 */
export function wantedReplicas(
  tasks: readonly PlacementTask[],
  otherCores: number,
  poolCores: number,
  utilization: number,
): WantedReplicas {
  const replicas = (choose: (costs: readonly number[], task: PlacementTask) => number) => {
    const cores = tasks.reduce((sum, task) => {
      const costs = task.versions.map(({ cpuSeconds }) => cpuSeconds);
      return costs.length === 0 ? sum : sum + (task.demandRps * choose(costs, task)) / utilization;
    }, 0);
    const count = Math.ceil((cores - otherCores) / poolCores - ROUNDING);
    return Math.min(MAX_WANTED_REPLICAS, Math.max(1, count));
  };
  return {
    forDemand: replicas((costs) => Math.min(...costs)),
    forAccuracy: replicas((_, { versions }) => {
      const best = Math.max(...versions.map(({ normalisedAccuracy }) => normalisedAccuracy));
      return Math.min(
        ...versions
          .filter((version) => version.normalisedAccuracy === best)
          .map(({ cpuSeconds }) => cpuSeconds),
      );
    }),
  };
}
