import {
  type PlacementPlan,
  type PlacementServer,
  type PlacementState,
  placementDefaults,
} from './placement.ts';

/** By task: the servers that its requests go to, with weights from 1 to `MAX_WEIGHT`. */
export type Routes = ReadonlyMap<string, readonly Route[]>;

export interface Route {
  readonly server: string;
  readonly weight: number;
}

/** Weights are whole numbers, as balancers want them. */
export const MAX_WEIGHT = 100;

/** A server that changes a version gets this share of its weight meanwhile, or as much more as the others cannot take. */
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
  const keeps = new Map([...lowered].map((name) => [name, keptShare(state, plan, name, lowered)]));
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
        (planned.length > 0 ? own!.get(name)! : cpus * weight) *
        (lowered.has(name) ? weightToKeep(keeps.get(name)!, own?.get(name) ?? 0) : 1),
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

/** What a server's weight is to be multiplied by, so that it keeps such a part of its share of a task's requests. */
function weightToKeep(kept: number, share: number): number {
  const factor = share < 1 ? (kept * (1 - share)) / (1 - kept * share) : 1;
  return Math.max(LOWERED_SHARE, factor);
}

/**
 * The part of its requests that a server has to keep while it changes: the least that does not fill another server, with
 * what serves there now, beyond what a plan may. Requests of a task go over in proportion to the others' shares.
 */
function keptShare(
  state: PlacementState,
  { cells }: PlacementPlan,
  name: string,
  lowered: ReadonlySet<string>,
): number {
  const costs = new Map(
    state.servers.map((server) => [
      server.name,
      new Map(state.tasks.map(({ task }) => [task, presentCost(state, server, task)])),
    ]),
  );
  const costOf = ({ server, task }: { server: string; task: string }) => costs.get(server)?.get(task) ?? 0;
  const rpsOf = new Map(state.tasks.map(({ task, demandRps }) => [task, demandRps]));
  const busy = new Map<string, number>();
  const more = new Map<string, number>();
  for (const cell of cells) {
    const rps = (rpsOf.get(cell.task) ?? 0) * cell.share;
    busy.set(cell.server, (busy.get(cell.server) ?? 0) + rps * costOf(cell));
    if (cell.server !== name) continue;
    const others = cells.filter(
      ({ task, server }) => task === cell.task && !lowered.has(server) && costs.get(server)!.get(task)! > 0,
    );
    const shares = others.reduce((sum, { share }) => sum + share, 0);
    for (const other of others)
      more.set(other.server, (more.get(other.server) ?? 0) + rps * (other.share / shares) * costOf(other));
  }
  let moved = 1;
  for (const { name: other, cpus, weight } of state.servers) {
    const free = placementDefaults.utilizationLimit * cpus * weight - (busy.get(other) ?? 0);
    const added = more.get(other) ?? 0;
    if (added > 0) moved = Math.min(moved, Math.max(0, free) / added);
  }
  return 1 - moved;
}

/** CPU seconds of a request by what serves a task on a server; 0: nothing does, or nobody is there. */
function presentCost(
  { tasks }: PlacementState,
  { present, isUp, target }: PlacementServer,
  task: string,
): number {
  const serving = present[task]?.version;
  const known = tasks.find((each) => each.task === task)?.versions.find(({ version }) => version === serving);
  if (!isUp || known === undefined) return 0;
  return (target === undefined ? undefined : known.cpuSecondsOn?.[target]) ?? known.cpuSeconds;
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
