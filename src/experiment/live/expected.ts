import { dispatchPolicyByName, livePolicyName } from '../../policy/registry.ts';
import { served } from '../../simulate/contestants.ts';
import { oracleSummary } from '../../simulate/oracle-bounds.ts';
import { recordedWorkload } from '../../simulate/recorded-workload.ts';
import { makeScenario, type Scenario } from '../../simulate/scenario.ts';
import { simulate } from '../../simulate/simulate.ts';
import { type SimulationSummary, summarizeSimulation } from '../../simulate/summary.ts';

/** Service times of one version on one bound CPU vary by so little. */
export const SERVICE_CV = 0.1;

export interface ArrivalsOptions {
  /** When requests were due, by task, ms. */
  readonly due: readonly ArrayLike<number>[];
  /** Those before belong to the warm-up: met, but not counted. */
  readonly countedFromMs: number;
  /** Of all demand, warm-up included. */
  readonly lengthMs: number;
  readonly seed: number;
}

/** What the simulator says of a policy on arrivals that real servers get. */
export function simulatedOn(
  policyName: string,
  scenario: Scenario,
  arrivals: ArrivalsOptions,
): SimulationSummary {
  const { due, countedFromMs, lengthMs, seed } = arrivals;
  const policy = dispatchPolicyByName(livePolicyName(policyName));
  const workload = recordedWorkload(due, { durationMs: lengthMs, serviceCv: SERVICE_CV, seed });
  // One that names a version per task has that one in memory, and the next one while it loads.
  const residency = policy.dispatch === undefined ? 1 : 'all';
  const own = makeScenario({ ...scenario, residency, initial: 'largest' });
  const run = simulate({ scenario: own, workload, policy: served(policy) });
  const from = workload.arrivalMs.findIndex((atMs) => atMs >= countedFromMs);
  return summarizeSimulation({
    ...run,
    workload: {
      ...workload,
      arrivalMs: workload.arrivalMs.subarray(from),
      task: workload.task.subarray(from),
      multiplier: workload.multiplier.subarray(from),
    },
    outcome: run.outcome.subarray(from),
    latencyMs: run.latencyMs.subarray(from),
    versionIndex: run.versionIndex.subarray(from),
    server: run.server.subarray(from),
    cpu: run.cpu.filter(({ atMs }) => atMs > countedFromMs),
  });
}

/** What perfect knowledge of the counted arrivals could have got. */
export function oracleOn(scenario: Scenario, arrivals: ArrivalsOptions): SimulationSummary {
  const { due, countedFromMs, lengthMs, seed } = arrivals;
  const counted = due.map((times) =>
    Array.from(times, (atMs) => atMs - countedFromMs).filter((atMs) => atMs >= 0),
  );
  const options = { durationMs: lengthMs - countedFromMs, serviceCv: SERVICE_CV, seed };
  return oracleSummary(scenario, recordedWorkload(counted, options), 'feasible');
}
