import { costOn, type Model } from './model.ts';

/** Requests per second by task and server. */
export type Loads = Map<number, number>[];

/** A host always gets a share as if this much of its CPU were free, so that it is warm when it is needed. */
export const LEAST_FREE_SHARE = 0.05;

/** The loads of tasks depend on each other; after so many rounds they change by less than a weight can tell. */
const ROUNDS = 4;

/**
 * Splits each task's demand among its hosts in proportion to the CPU that the other tasks leave there: what fits, fits
 * on every host, and shares move smoothly as demand does (filling the emptiest host first would not: two hosts that are
 * almost equal would take turns, and each turn is a reload of the balancer).
 * @param versionOf by task: the version whose cost counts, an index
 * @returns by task: its load by server, and cores used by server
 */
export function spreadLoads(
  model: Model,
  hosts: readonly ReadonlySet<number>[],
  versionOf: readonly (number | undefined)[],
): { loads: Loads; used: number[] } {
  const used = model.capacity.map(() => 0);
  const loads: Loads = hosts.map(() => new Map());
  // Tasks with the fewest hosts first: they have the least choice.
  const order = hosts.map((_, k) => k).sort((a, b) => hosts[a]!.size - hosts[b]!.size || a - b);
  for (let round = 0; round < ROUNDS; round++)
    for (const k of order) spreadTask(model, k, hosts[k]!, versionOf[k], loads, used);
  return { loads, used };
}

/** Splits one task anew, among what the others leave. Changes its loads and `used`. */
export function spreadTask(
  model: Model,
  k: number,
  hosts: ReadonlySet<number>,
  version: number | undefined,
  loads: Loads,
  used: number[],
): void {
  if (version === undefined) return;
  for (const [s, rps] of loads[k]!) used[s]! -= rps * costOn(model, s, k, version);
  const load = new Map<number, number>();
  let total = 0;
  for (const s of hosts) {
    const capacity = model.capacity[s]!;
    const free = Math.max(capacity - used[s]!, LEAST_FREE_SHARE * capacity, Number.MIN_VALUE);
    const able = free / costOn(model, s, k, version);
    load.set(s, able);
    total += able;
  }
  for (const [s, able] of load) {
    const rps = (model.demandRps[k]! * able) / total;
    load.set(s, rps);
    used[s]! += rps * costOn(model, s, k, version);
  }
  loads[k] = load;
}
