import { seededRandom } from '../base/random.ts';
import { recentDemandRps, serviceMsOf } from './observed.ts';
import type { Action, Decision, Policy, PolicyState, TaskState } from './policy.ts';

/** Times in ms. */
export const modelSwitchingDefaults = {
  periodMs: 1_000,
  /** Demand is the mean of the last 3 s. */
  windowMs: 3_000,
  /** Requests simulated for each cell of the table. */
  tableRequests: 4_000,
  tableSeed: 1,
  /** Coefficient of variation of service times in the table. */
  serviceCv: 0.1,
  /** Rates of the table, in req/s, are multiples of this; a demand is looked up at the next one above. */
  rateStepRps: 1,
  /** Loads by other tasks are rounded to multiples of this, up to the limit. */
  loadStep: 0.2,
  loadLimit: 0.8,
} as const;

type Constants = { readonly [K in keyof typeof modelSwitchingDefaults]: number } & {
  /** The target whose profiles count; by default a variant's most recent one. */
  readonly fingerprint?: string;
};
export type ModelSwitchingOptions = Partial<Constants>;

/**
 * Model-Switching: for each task the version of highest effective accuracy, accuracy × P(answered in time), at the
 * present demand, by a table made before the run. With several tasks on a server the service times of one are
 * stretched by 1 / (1 − load of the others), which is ours. Needs every version resident.
 * Source: Zhang et al., "Model-Switching: dealing with fluctuating workloads in machine-learning-as-a-service
 * systems", HotCloud 2020.
 */
export function modelSwitchingPolicy(options: ModelSwitchingOptions = {}): Policy {
  const constants = { ...modelSwitchingDefaults, ...options };
  const table = onTimeTable(constants);
  return {
    name: 'model-switching',
    metric: 'inverseThroughput',
    periodMs: constants.periodMs,
    decide: (state) => decide(state, constants, table),
  };
}

type OnTimeTable = (serviceMs: number, sloMs: number, demandRps: number, otherLoad: number) => number;

function decide(state: PolicyState, constants: Constants, table: OnTimeTable): Decision {
  const demands = state.tasks.map((task) => recentDemandRps(task, state.nowMs, constants.windowMs));
  const loads = state.tasks.map(
    (task, k) => (demands[k]! * servingMs(task, state.cpuBudget, constants.fingerprint)) / 1000,
  );
  let total = loads.reduce((sum, load) => sum + load, 0);
  const actions: Action[] = [];
  const choices: string[] = [];
  for (const [k, task] of state.tasks.entries()) {
    const best = bestVersion(task, state.cpuBudget, constants.fingerprint, (serviceMs) =>
      table(serviceMs, task.sloMs, demands[k]!, total - loads[k]!),
    );
    if (best === undefined) continue;
    // Those that choose later reckon with this choice: all at once they would swing together.
    total += (demands[k]! * best.serviceMs) / 1000 - loads[k]!;
    choices.push(`${task.task} version ${best.version} (effective accuracy ${best.effective.toFixed(3)})`);
    if (best.version !== task.servingVersion && task.loadingVersion === undefined) {
      actions.push({ kind: 'switch', task: task.task, toVersion: best.version });
    }
  }
  return {
    actions,
    reason: `By the table at demand ${demands.map((rps) => rps.toFixed(1)).join(', ')} req/s: ${choices.join(', ') || 'no task'}.`,
  };
}

function bestVersion(
  task: TaskState,
  cpuBudget: number,
  fingerprint: string | undefined,
  onTime: (serviceMs: number) => number,
): { version: number; effective: number; serviceMs: number } | undefined {
  const top = task.frontier[0]?.accuracy.test ?? 0;
  // Where none is ever in time the smallest is.
  const smallest = task.frontier.at(-1);
  let best = smallest && {
    version: smallest.version,
    effective: 0,
    serviceMs: serviceMsOf(smallest, cpuBudget, fingerprint) ?? 0,
  };
  for (const variant of task.frontier) {
    const serviceMs = serviceMsOf(variant, cpuBudget, fingerprint);
    if (serviceMs === undefined) continue;
    const effective = (top > 0 ? variant.accuracy.test / top : 1) * onTime(serviceMs);
    if (best === undefined || effective > best.effective + 1e-9)
      best = { version: variant.version, effective, serviceMs };
  }
  return best;
}

function servingMs(task: TaskState, cpuBudget: number, fingerprint?: string): number {
  const serving = task.frontier.find(({ version }) => version === task.servingVersion);
  return (serving && serviceMsOf(serving, cpuBudget, fingerprint)) ?? 0;
}

/**
 * P(wait + service ≤ SLO) of a queue with Poisson arrivals, by Lindley's recursion; requests that wait longer than
 * the SLO are given up. Cells are computed when first asked for: a pure function, so remembering is not a state.
 */
export function onTimeTable(constants: Constants = modelSwitchingDefaults): OnTimeTable {
  const cells = new Map<string, number>();
  const { rateStepRps, loadStep, loadLimit } = constants;
  return (serviceMs, sloMs, demandRps, otherLoad) => {
    const rate = Math.max(1, Math.ceil(demandRps / rateStepRps - 1e-9)) * rateStepRps;
    const load = Math.round(Math.min(otherLoad, loadLimit) / loadStep) * loadStep;
    const key = `${serviceMs} ${sloMs} ${rate} ${load.toFixed(3)}`;
    const known = cells.get(key);
    if (known !== undefined) return known;
    const value = onTimeRatio(serviceMs / (1 - load), sloMs, rate, constants);
    cells.set(key, value);
    return value;
  };
}

/** Above this utilization the queue cannot be in time for long: the answer is 0 without a simulation. */
const HOPELESS_UTILIZATION = 1.2;

function onTimeRatio(serviceMs: number, sloMs: number, rateRps: number, constants: Constants): number {
  if ((rateRps * serviceMs) / 1000 > HOPELESS_UTILIZATION) return 0;
  const random = seededRandom(constants.tableSeed);
  const sigma = Math.sqrt(Math.log(1 + constants.serviceCv ** 2));
  let waitMs = 0;
  let onTime = 0;
  for (let i = 0; i < constants.tableRequests; i++) {
    // Log-normal with mean 1.
    const tookMs = serviceMs * Math.exp(sigma * random.normal() - (sigma * sigma) / 2);
    if (waitMs <= sloMs) {
      if (waitMs + tookMs <= sloMs) onTime++;
      waitMs += tookMs;
    }
    waitMs = Math.max(0, waitMs - random.exponential(rateRps / 1000));
  }
  return onTime / constants.tableRequests;
}
