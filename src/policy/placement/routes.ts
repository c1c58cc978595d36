import {
  type PlacementPlan,
  type PlacementServer,
  type PlacementState,
  type PlacementTask,
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
  const keeps = keptShares(state, plan, lowered);
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
 * The part of its requests that each server has to keep while it changes: the least that does not fill another server,
 * with what serves there now, beyond what a plan may. Requests of a task go over in proportion to the others' shares.
 */
function keptShares(
  { servers, tasks }: PlacementState,
  { cells }: PlacementPlan,
  lowered: ReadonlySet<string>,
): Map<string, number> {
  if (lowered.size === 0) return new Map();
  const serverOf = new Map(servers.map((server) => [server.name, server]));
  const taskOf = new Map(tasks.map((task) => [task.task, task]));
  const busy = new Map<string, number>();
  const byTask = new Map<
    string,
    { readonly server: string; readonly share: number; readonly cost: number }[]
  >();
  for (const { server, task, share } of cells) {
    const cost = presentCost(serverOf.get(server)!, taskOf.get(task)!);
    add(busy, server, taskOf.get(task)!.demandRps * share * cost);
    const own = byTask.get(task) ?? [];
    own.push({ server, share, cost });
    byTask.set(task, own);
  }
  const more = new Map([...lowered].map((name) => [name, new Map<string, number>()]));
  for (const [task, hosts] of byTask) {
    const others = hosts.filter(({ server, cost }) => !lowered.has(server) && cost > 0);
    const shares = others.reduce((sum, { share }) => sum + share, 0);
    for (const { server, share } of hosts) {
      const added = more.get(server);
      if (added === undefined) continue;
      const rps = taskOf.get(task)!.demandRps * share;
      for (const other of others) add(added, other.server, rps * (other.share / shares) * other.cost);
    }
  }
  return new Map(
    [...more].map(([name, added]) => {
      let moved = 1;
      for (const [other, cpu] of added) {
        const { cpus, weight } = serverOf.get(other)!;
        const free = placementDefaults.utilizationLimit * cpus * weight - (busy.get(other) ?? 0);
        if (cpu > 0) moved = Math.min(moved, Math.max(0, free) / cpu);
      }
      return [name, 1 - moved];
    }),
  );
}

function add(sums: Map<string, number>, key: string, value: number): void {
  sums.set(key, (sums.get(key) ?? 0) + value);
}

/** CPU seconds of a request by what serves a task on a server; 0: nothing does, or nobody is there. */
function presentCost({ present, isUp, target }: PlacementServer, { task, versions }: PlacementTask): number {
  const known = versions.find(({ version }) => version === present[task]?.version);
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
