/**
 * What the slow loop leaves for the fast one: how dear committed work is, and how long versions really take. Plain data
 * (numbers, strings, arrays), so that it travels to whatever dispatches.
 */
export interface WorkPlan {
  readonly kind: 'work-mdp';
  readonly stepMs: number;
  /** h by cells of work, h(0) = 0; −h' is the marginal price of a millisecond of the slot. */
  readonly values: readonly number[];
  /** What a request that is shed or late costs, in units of normalised accuracy × weight. */
  readonly lateCost: number;
  /** Variance of work, in ms² per ms; see `WorkProblem.varianceMs`. */
  readonly varianceMs: number;
  /** Expected reward of a request. */
  readonly gain: number;
  /** Demand that was planned for, of one slot. */
  readonly arrivalsPerMs: number;
  /** The same for more demand, in rising order: what counts as soon as the queue tells of it, before the next plan. */
  readonly surges: readonly Surge[];
  readonly tasks: readonly PlannedTask[];
}

export interface Surge {
  readonly arrivalsPerMs: number;
  readonly values: readonly number[];
}

export interface PlannedTask {
  readonly task: string;
  readonly demandRps: number;
  /** Actual / told planning time, for versions that `versions` does not name. */
  readonly ratio: number;
  /** Standard deviation of that. */
  readonly deviation: number;
  readonly versions: readonly PlannedVersion[];
}

export interface PlannedVersion {
  readonly version: number;
  readonly ratio: number;
  readonly deviation: number;
}

/** The plan, if that is what it is. */
export function workPlanOf(plan: unknown): WorkPlan | undefined {
  if (typeof plan !== 'object' || plan === null || !('kind' in plan)) return undefined;
  return plan.kind === 'work-mdp' ? (plan as WorkPlan) : undefined; // Nothing else bears that kind.
}
