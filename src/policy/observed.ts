import { mean } from '../base/statistics.ts';
import { profileOf, requestCpuMs, type Variant } from '../repository/types.ts';
import type { PolicyState, TaskState } from './policy.ts';

/** Mean demand of a task over the last `windowMs`, in req/s; 0 where nothing was seen. */
export function recentDemandRps(task: TaskState, nowMs: number, windowMs: number): number {
  let sum = 0;
  let count = 0;
  for (let i = task.demand.length - 1; i >= 0; i--) {
    const { atMs, demandRps } = task.demand[i]!;
    if (atMs <= nowMs - windowMs) break;
    sum += demandRps;
    count++;
  }
  return count > 0 ? sum / count : 0;
}

/** Highest demand sample of the last `windowMs`, in req/s. */
export function peakDemandRps(task: TaskState, nowMs: number, windowMs: number): number {
  let peak = 0;
  for (let i = task.demand.length - 1; i >= 0; i--) {
    const { atMs, demandRps } = task.demand[i]!;
    if (atMs <= nowMs - windowMs) break;
    peak = Math.max(peak, demandRps);
  }
  return peak;
}

/** Mean CPU of the last `windowMs` in [0, 1]; NaN where nothing was seen. */
export function recentUtilization({ cpu, nowMs }: PolicyState, windowMs: number): number {
  let from = cpu.length;
  while (from > 0 && cpu[from - 1]!.atMs > nowMs - windowMs) from--;
  return mean(cpu.slice(from).map(({ utilization }) => utilization));
}

/**
 * Time that one request of the variant takes from a server with so many CPUs, in ms; the utilization that a
 * demand causes is demand × this / 1000. Undefined without a profile.
 */
export function serviceMsOf(variant: Variant, cpuBudget: number, fingerprint?: string): number | undefined {
  const profile = profileOf(variant, fingerprint);
  return profile && requestCpuMs(profile) / cpuBudget;
}
