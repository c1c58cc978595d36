import { chooseHosts } from './hosts.ts';
import { bytesOn, costOn, type Model, modelOf } from './model.ts';
import {
  type PlacementOptions,
  type PlacementPlan,
  type PlacementState,
  type PlannedCell,
  placementDefaults,
} from './placement.ts';
import { pooledVersions } from './pooled.ts';
import { type Cell, chooseVersions } from './versions.ts';

/**
 * Plans a fleet: which servers serve which tasks by which versions, and how requests are split among them. Pure: the
 * same state gives the same plan.
 *
 * Three steps, each of which keeps what is there as long as that is good enough: cores for each task, as if all servers
 * were one (`pooled.ts`); hosts that have these cores (`hosts.ts`); versions that fit each host's part of the demand
 * (`versions.ts`). No plan fills more of a server's CPU than `utilizationLimit`, nor more memory than it has; demand
 * beyond that is told as not served.
 */
export function planPlacement(state: PlacementState, given: Partial<PlacementOptions> = {}): PlacementPlan {
  const options = { ...placementDefaults, ...given };
  const model = modelOf(state, options);
  const pooled = pooledVersions(model);
  const { hosts, loads, unplaced } = chooseHosts(model, pooled);

  const cellsOf = new Map<number, Cell[]>();
  for (const [k, servers] of hosts.entries()) {
    for (const s of servers) {
      const cells = cellsOf.get(s) ?? [];
      cellsOf.set(s, cells);
      cells.push({ k, rps: loads[k]!.get(s) ?? 0 });
    }
  }
  const cells: PlannedCell[] = [];
  const unserved: Record<string, number> = {};
  for (const [s, own] of [...cellsOf].sort(([a], [b]) => a - b))
    cells.push(...planServer(model, s, own, unserved));
  return {
    cells,
    unplaced: unplaced.map((k) => ({ task: state.tasks[k]!.task, reason: whyUnplaced(model, k) })),
    unservedRps: unserved,
    ...summaryOf(model, cells, unserved, unplaced.length),
  };
}

/** @param unserved what the server cannot carry is added here, by task */
function planServer(
  model: Model,
  s: number,
  cells: readonly Cell[],
  unserved: Record<string, number>,
): PlannedCell[] {
  const { state, options, capacity, demandRps } = model;
  const versions = chooseVersions(model, s, cells);
  const limit = (capacity[s]! / options.utilization) * options.utilizationLimit;
  const need = cells.reduce((sum, { k, rps }, j) => sum + rps * costOn(model, s, k, versions[j]!), 0);
  const served = need > limit ? limit / need : 1;
  return cells.map(({ k, rps }, j): PlannedCell => {
    const { task, versions: family, demandRps: asked } = state.tasks[k]!;
    const i = versions[j]!;
    // A task that nobody asks for is planned with a little demand, which is not served as if it were real.
    const real = asked > 0 ? rps * Math.min(1, asked / demandRps[k]!) : 0;
    if (served < 1 && real > 0) unserved[task] = (unserved[task] ?? 0) + (1 - served) * real;
    return {
      server: state.servers[s]!.name,
      task,
      version: family[i]!.version,
      share: rps / demandRps[k]!,
      servedRps: served * real,
      cpu: served * real * costOn(model, s, k, i),
      memoryBytes: bytesOn(model, s, k, i),
    };
  });
}

function whyUnplaced({ state, choices }: Model, k: number): string {
  const { task, servers, versions } = state.tasks[k]!;
  if (versions.length === 0) return `no version of ${task} has a profile and meets what is asked of it`;
  const running = state.servers.filter((server) => server.isUp && servers?.includes(server.name) !== false);
  if (running.length === 0) return `no server that ${task} may run on is up`;
  const up = running.filter(({ isDrained }) => !isDrained);
  if (up.length === 0) return `all servers that ${task} may run on are drained or down`;
  const able = choices.filter((list) => list[k]!.length > 0).length;
  return able === 0
    ? `none of the ${up.length} servers that ${task} may run on can load it`
    : `none of the ${able} servers that ${task} may run on has the memory left`;
}

function summaryOf(
  { state, capacity, options }: Model,
  cells: readonly PlannedCell[],
  unserved: Readonly<Record<string, number>>,
  unplaced: number,
): Pick<PlacementPlan, 'utilization' | 'accuracy' | 'reason'> {
  const cores = capacity.reduce((sum, cpu) => sum + cpu, 0) / options.utilization;
  const used = cells.reduce((sum, { cpu }) => sum + cpu, 0);
  const utilization = cores > 0 ? used / cores : 0;
  const byName = new Map(state.tasks.map((task) => [task.task, task]));
  let gained = 0;
  let importance = 0;
  for (const { task, version, servedRps } of cells) {
    const { weight, versions } = byName.get(task)!;
    const found = versions.find((candidate) => candidate.version === version);
    gained += weight * servedRps * (found?.normalisedAccuracy ?? 0);
    importance += weight * servedRps;
  }
  const accuracy = importance > 0 ? gained / importance : undefined;
  const demand = state.tasks.reduce((sum, { demandRps }) => sum + demandRps, 0);
  const refused = Object.values(unserved).reduce((sum, rps) => sum + rps, 0);
  const drained = state.servers.filter(({ isDrained }) => isDrained).length;
  const up = state.servers.filter(({ isUp, isDrained }) => isUp && !isDrained).length;
  return {
    utilization,
    ...(accuracy !== undefined && { accuracy }),
    reason:
      `${state.tasks.length - unplaced} of ${state.tasks.length} tasks on ${up} of ${state.servers.length} servers` +
      `${drained > 0 ? ` (${drained} drained)` : ''}: ` +
      `${demand.toFixed(1)} req/s take ${(100 * utilization).toFixed(0)} % of the CPU${accuracy === undefined ? '' : ` at accuracy ${(100 * accuracy).toFixed(1)} %`}` +
      `${refused > 0 ? `; ${refused.toFixed(1)} req/s are more than the servers can carry` : ''}.`,
  };
}
