import type { PlacementPlan, PlacementState } from './placement.ts';

/** By task: the servers that its requests go to, with weights from 1 to `MAX_WEIGHT`. */
export type Routes = ReadonlyMap<string, readonly Route[]>;

export interface Route {
  readonly server: string;
  readonly weight: number;
}

/** Weights are whole numbers, as balancers want them. */
export const MAX_WEIGHT = 100;

/**
 * A server that changes a version gets this share of its weight meanwhile. To leave it as much as the others could not carry
 * was tried (`bench/fleet-trace.ts`, low load): 1.3 % late or refused for 0.16 %, once each, the second on servers that took
 * a tenth more CPU for the same work. Under a quota a load needs the CPU that requests leave.
 */
export const LOWERED_SHARE = 0.25;

/** Weights of which none moved by more than this share are not worth a reload of the balancer. */
export const MATERIAL_CHANGE = 0.25;

/**
 * Where each task's requests go: to the servers that are up and serve it, by the plan's shares. A server that the plan
 * has no more, or that is drained, is left out as soon as another one can answer. A task that nobody up serves keeps its last servers: the
 * orchestrator may be the one that sees wrongly, and a balancer that tries them does no harm.
 * @param lowered servers that change a version now
 */
export function routesOf(
  state: PlacementState,
  plan: PlacementPlan,
  lowered: ReadonlySet<string>,
): Map<string, Route[]> {
  const shares = new Map<string, Map<string, number>>();
  for (const { server, task, share } of plan.cells) {
    const own = shares.get(task) ?? new Map<string, number>();
    shares.set(task, own.set(server, share));
  }
  const routes = new Map<string, Route[]>();
  for (const { task } of state.tasks) {
    const holders = state.servers.filter(({ present }) => present[task] !== undefined);
    const up = holders.filter(({ isUp }) => isUp);
    const own = shares.get(task);
    const planned = up.filter(({ name }) => own?.has(name));
    const willing = up.filter(({ isDrained }) => !isDrained);
    const chosen = [planned, willing, up, holders].find((list) => list.length > 0) ?? [];
    // Several hosts, one of them changing: the others can take more. All changing, or only one: nobody else can.
    const weights = chosen.map(
      ({ name, cpus, weight }) =>
        (planned.length > 0 ? own!.get(name)! : cpus * weight) * (lowered.has(name) ? LOWERED_SHARE : 1),
    );
    const most = Math.max(...weights, Number.MIN_VALUE);
    routes.set(
      task,
      chosen.map(({ name }, i) => ({
        server: name,
        weight: Math.max(1, Math.round((MAX_WEIGHT * weights[i]!) / most)),
      })),
    );
  }
  return routes;
}

/** How much two routings differ (from none, by servers): not, only in weights by less than counts, in weights, or in who is reached. */
export function differenceOf(
  before: Routes | undefined,
  after: Routes,
): 'none' | 'small' | 'weights' | 'servers' {
  let difference: 'none' | 'small' | 'weights' = 'none';
  if (before?.size !== after.size) return 'servers';
  for (const [task, routes] of after) {
    const known = new Map(before.get(task)?.map(({ server, weight }) => [server, weight]));
    if (known.size !== routes.length) return 'servers';
    for (const { server, weight } of routes) {
      const old = known.get(server);
      if (old === undefined) return 'servers';
      if (old === weight) continue;
      const isMaterial = Math.abs(weight - old) > MATERIAL_CHANGE * Math.max(weight, old);
      if (isMaterial) difference = 'weights';
      else if (difference === 'none') difference = 'small';
    }
  }
  return difference;
}
