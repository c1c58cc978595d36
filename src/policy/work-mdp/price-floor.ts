import type { CpuSample } from '../policy.ts';
import type { WorkProblem } from './value-function.ts';

export const priceFloorDefaults = {
  /** Share of its CPU that the server should use in the long run; 1: no floor. */
  targetUtilization: 1,
  /** Share of the floor that applies grows by so much in a second that used the whole CPU where none should be, and falls likewise. */
  floorGain: 0.2,
} as const;

/** Twice the price leaves room above what is reckoned, and falls soon enough when demand does. */
const MOST_SHARE = 2;

/**
 * How much of the price floor applies, in [0, 2]: the integral of what was used beyond the target. It is 0 while the
 * server keeps idle by itself, as it does where inferences are long against the SLO. It is above 1 where the price that
 * was reckoned does not do: a second's demand is never quite as forecast, and of a full one the CPU does not show by how much.
 * @param before of the decision before
 */
export function floorShare(
  before: number,
  cpu: readonly CpuSample[],
  {
    sinceMs,
    targetUtilization,
    floorGain,
  }: { sinceMs: number; targetUtilization: number; floorGain: number },
): number {
  let share = before;
  for (let i = cpu.length - 1; i >= 0 && cpu[i]!.atMs > sinceMs; i--) {
    share += floorGain * (cpu[i]!.utilization - targetUtilization);
  }
  return Math.min(MOST_SHARE, Math.max(0, share));
}

/**
 * The values of a problem with a least price of work. Where inferences are short against the SLO work that waits costs
 * nothing, so that a queue as long as the SLO allows is as good as none: the server is never idle, and a pause of the
 * machine makes many late. The floor is the price at which the versions that are best for it need the target of the CPU.
 */
export function withPriceFloor(
  values: readonly number[],
  problem: WorkProblem,
  { share, targetUtilization }: { readonly share: number; readonly targetUtilization: number },
): number[] {
  const leastPerCell = share === 0 ? 0 : share * priceOf(problem, targetUtilization) * problem.stepMs;
  if (leastPerCell === 0) return [...values];
  const floored = [0];
  for (let i = 1; i < values.length; i++) {
    floored.push(floored[i - 1]! + Math.min(values[i]! - values[i - 1]!, -leastPerCell));
  }
  return floored;
}

const HALVINGS = 30;

/** The least price, in reward per ms, at which demand needs no more than the share of the CPU; at most that of the smallest versions. */
function priceOf({ tasks, arrivalsPerMs }: WorkProblem, utilization: number): number {
  const loadAt = (price: number) => {
    let load = 0;
    for (const { share, versions } of tasks) {
      let best = Number.NEGATIVE_INFINITY;
      let bestMs = 0;
      for (const { reward, meanMs } of versions) {
        if (reward - price * meanMs <= best) continue;
        best = reward - price * meanMs;
        bestMs = meanMs;
      }
      load += arrivalsPerMs * share * bestMs;
    }
    return load;
  };
  if (loadAt(0) <= utilization) return 0;
  let low = 0;
  let high = 0;
  for (const { versions } of tasks) {
    const smallest = versions.at(-1);
    for (const { reward, meanMs } of versions) {
      if (meanMs > smallest!.meanMs)
        high = Math.max(high, (reward - smallest!.reward) / (meanMs - smallest!.meanMs));
    }
  }
  for (let i = 0; i < HALVINGS; i++) {
    const middle = (low + high) / 2;
    if (loadAt(middle) > utilization) low = middle;
    else high = middle;
  }
  return high;
}
