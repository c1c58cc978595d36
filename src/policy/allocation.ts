import { type CostMetric, costOf } from '../repository/types.ts';
import type { TaskState } from './policy.ts';

/** One version for each of some tasks, and what that costs and gives at the tasks' demand. */
export interface Allocation {
  /** For each ladder, in order, the index of its step. */
  readonly positions: readonly number[];
  /** Sum over tasks of demand × cost: with `inverseThroughput` the predicted utilization of the server. */
  readonly metric: number;
  /** Normalised accuracy that a request sees on average, weighted by importance, in [0, 1]. */
  readonly accuracy: number;
}

/** The versions a task can be served by, most accurate first, at the task's present demand. */
export interface Ladder {
  readonly task: string;
  /** Importance among tasks; 1 in the thesis. */
  readonly weight: number;
  readonly demandRps: number;
  readonly steps: readonly Step[];
}

export interface Step {
  readonly version: number;
  /** In the metric's unit: s, s or MACs for one inference. */
  readonly cost: number;
  /** Accuracy over that of the task's most accurate version, in [0, 1]. */
  readonly normalisedAccuracy: number;
}

/**
 * All allocations from the most costly to the cheapest: it starts with the most accurate version of every task
 * and at each step moves that task down by one version which loses the least (weighted) normalised accuracy per
 * unit of demand × cost saved, until every task has its smallest. Source: thesis, section 4.4, figure 4.6.
 *
 * A task without demand saves nothing by stepping down, so it goes last. Of equal slopes the one that loses less
 * accuracy goes first, and of equal losses the task that stands first in `ladders`.
 * @param ladders each with at least one step, costs falling
 * @returns one allocation more than there are steps down; `metric` never rises along the chain
 */
export function allocationChain(ladders: readonly Ladder[]): Allocation[] {
  const positions = ladders.map(() => 0);
  const chain = [allocationAt(ladders, positions)];
  for (;;) {
    let best: { index: number; slope: number; loss: number } | undefined;
    for (const [index, ladder] of ladders.entries()) {
      const here = ladder.steps[positions[index]!]!;
      const next = ladder.steps[positions[index]! + 1];
      if (next === undefined) continue;
      const loss = ladder.weight * (here.normalisedAccuracy - next.normalisedAccuracy);
      const saved = ladder.demandRps * (here.cost - next.cost);
      const slope = saved > 0 ? loss / saved : Number.POSITIVE_INFINITY;
      if (best === undefined || slope < best.slope || (slope === best.slope && loss < best.loss)) {
        best = { index, slope, loss };
      }
    }
    if (best === undefined) return chain;
    positions[best.index]! += 1;
    chain.push(allocationAt(ladders, positions));
  }
}

/** The allocation that gives each ladder the step of its position. */
export function allocationAt(ladders: readonly Ladder[], positions: readonly number[]): Allocation {
  let metric = 0;
  let gained = 0;
  let total = 0;
  for (const [index, ladder] of ladders.entries()) {
    const step = ladder.steps[positions[index]!]!;
    const importance = ladder.weight * ladder.demandRps;
    metric += ladder.demandRps * step.cost;
    gained += importance * step.normalisedAccuracy;
    total += importance;
  }
  // Nobody asks, so nobody sees less than the best.
  return { positions: [...positions], metric, accuracy: total > 0 ? gained / total : 1 };
}

/** The ladder of a task's frontier; variants that have no cost by the metric are left out. Undefined if none has one. */
export function ladderOf(
  task: TaskState,
  demandRps: number,
  metric: CostMetric,
  fingerprint?: string,
): Ladder | undefined {
  const best = task.frontier[0]?.accuracy.test ?? 0;
  const steps: Step[] = [];
  for (const variant of task.frontier) {
    const cost = costOf(variant, metric, fingerprint);
    if (cost === undefined) continue;
    const normalisedAccuracy = best > 0 ? variant.accuracy.test / best : 1;
    steps.push({ version: variant.version, cost, normalisedAccuracy });
  }
  return steps.length > 0 ? { task: task.task, weight: task.weight, demandRps, steps } : undefined;
}

/**
 * Where a version stands on its ladder. One that is not on it (a dominated variant that somebody loaded) counts as
 * the next smaller one there, which prices it too low rather than too high and so leads to cautious steps up.
 */
export function positionOf(ladder: Ladder, version: number): number {
  const index = ladder.steps.findIndex((step) => step.version >= version);
  return index >= 0 ? index : ladder.steps.length - 1;
}
