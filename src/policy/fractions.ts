import { type Allocation, allocationChain, type Ladder, type Step } from './allocation.ts';
import {
  accepts,
  type Dispatch,
  type DispatchDecision,
  type DispatchState,
  type ResidentVersion,
} from './dispatch.ts';
import { serviceMsOf } from './observed.ts';
import type { PolicyState, TaskState } from './policy.ts';
import { type DropRule, isDropped, servingDispatch } from './serving-dispatch.ts';

/** A plan that splits each task's requests among versions. */
export interface FractionPlan {
  readonly fractions: Readonly<Record<string, readonly Fraction[]>>;
}

export interface Fraction {
  readonly version: number;
  /** Share of the task's requests in (0, 1]; those of a task sum to 1. */
  readonly fraction: number;
}

/** A fraction below this is not worth a version in memory. */
export const MIN_FRACTION = 0.01;

/** A task without demand still has a price, else its version would be arbitrary. */
export const MIN_DEMAND_RPS = 0.05;

/**
 * The split of highest accuracy that `utilization` of the CPU can carry: maximise Σ fraction · demand · accuracy
 * subject to Σ fraction · demand · service time ≤ utilization. The optimum of this linear program moves along the
 * concave hulls of the tasks' (cost, accuracy) curves in order of slope, so it mixes two neighbours of the
 * allocation chain over the hulls, and no solver is needed (Dantzig's bound of the multiple-choice knapsack).
 * @param demandRps by task, in the order of the state
 */
export function bestFractions(
  { tasks, cpuBudget }: PolicyState,
  demandRps: readonly number[],
  utilization: number,
  fingerprint?: string,
): FractionPlan {
  const ladders = tasks
    .map((task, k) => hullLadder(task, Math.max(demandRps[k]!, MIN_DEMAND_RPS), cpuBudget, fingerprint))
    .filter((ladder) => ladder.steps.length > 0);
  const chain = allocationChain(ladders);
  const fits = chain.findIndex(({ metric }) => metric <= utilization);
  const below = chain[fits < 0 ? chain.length - 1 : fits]!;
  const above = fits > 0 ? chain[fits - 1]! : below;
  const span = above.metric - below.metric;
  const share = span > 0 ? (utilization - below.metric) / span : 0;
  return {
    fractions: Object.fromEntries(
      ladders.map((ladder, k) => [ladder.task, mixed(ladder, above, below, share, k)]),
    ),
  };
}

function mixed(
  { steps }: Ladder,
  above: Allocation,
  below: Allocation,
  share: number,
  k: number,
): Fraction[] {
  const [upper, lower] = [steps[above.positions[k]!]!.version, steps[below.positions[k]!]!.version];
  if (upper === lower || share < MIN_FRACTION) return [{ version: lower, fraction: 1 }];
  if (share > 1 - MIN_FRACTION) return [{ version: upper, fraction: 1 }];
  return [
    { version: upper, fraction: share },
    { version: lower, fraction: 1 - share },
  ];
}

/** The versions of a task on the concave hull of (utilization, accuracy). */
function hullLadder(task: TaskState, demandRps: number, cpuBudget: number, fingerprint?: string): Ladder {
  const best = task.frontier[0]?.accuracy.test ?? 0;
  const hull: Step[] = [];
  for (const variant of task.frontier.toReversed()) {
    const serviceMs = serviceMsOf(variant, cpuBudget, fingerprint);
    if (serviceMs === undefined) continue;
    const step = {
      version: variant.version,
      cost: serviceMs / 1000,
      normalisedAccuracy: best > 0 ? variant.accuracy.test / best : 1,
    };
    // From the cheapest up, slopes must fall: a step below the line between its neighbours leaves.
    while (hull.length > 1 && slope(hull.at(-2)!, hull.at(-1)!) <= slope(hull.at(-1)!, step)) hull.pop();
    hull.push(step);
  }
  return { task: task.task, weight: task.weight, demandRps, steps: hull.reverse() };
}

function slope(from: Step, to: Step): number {
  return (to.normalisedAccuracy - from.normalisedAccuracy) / (to.cost - from.cost);
}

/**
 * Splits requests by smooth weighted round robin, as NGINX does among upstream servers: the version goes next that
 * is furthest behind its share, fraction · (n + 1) − requests so far. Without a plan, the serving version answers.
 */
export function fractionDispatch(options: { readonly drop?: DropRule } = {}): Dispatch {
  const drop = options.drop ?? 'never';
  const serving = servingDispatch(options);
  return {
    name: 'fractions',
    pick(state: DispatchState): DispatchDecision {
      const version = furthestBehind(state);
      if (version === undefined) return serving.pick(state);
      return isDropped(state, version, drop)
        ? { kind: 'shed', index: 0, reason: 'deadline' }
        : { kind: 'run', index: 0, version: version.version };
    },
  };
}

function furthestBehind({ queue, tasks, plan }: DispatchState): ResidentVersion | undefined {
  const request = queue[0]!;
  const task = tasks[request.task]!;
  const fractions = (plan as FractionPlan | undefined)?.fractions[task.task];
  if (fractions === undefined) return undefined;
  let dispatched = 0;
  for (const version of task.versions) dispatched += version.dispatched;
  let chosen: ResidentVersion | undefined;
  let most = Number.NEGATIVE_INFINITY;
  for (const { version, fraction } of fractions) {
    const resident = task.versions.find((candidate) => candidate.version === version);
    if (resident === undefined || !accepts(request, resident)) continue;
    const behind = fraction * (dispatched + 1) - resident.dispatched;
    if (behind > most + 1e-12) [chosen, most] = [resident, behind];
  }
  return chosen;
}
