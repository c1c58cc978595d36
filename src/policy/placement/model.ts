import type { PlacementOptions, PlacementState } from './placement.ts';

/** The state by index, with what a cell (a task on a server) costs. Made once for each plan. */
export interface Model {
  readonly state: PlacementState;
  readonly options: PlacementOptions;
  /** Demand by task, at least `minDemandRps`. */
  readonly demandRps: readonly number[];
  /** Cores by server that a plan may fill; 0 where it is down or drained. */
  readonly capacity: readonly number[];
  /** Bytes by server; infinite where there is no limit. */
  readonly memory: readonly number[];
  /** By server and task: the versions that may be planned, as indices into the task's; empty: it may not run there. */
  readonly choices: readonly (readonly (readonly number[])[])[];
}

export function modelOf(state: PlacementState, options: PlacementOptions): Model {
  const blocked = new Set((state.blocked ?? []).map((cell) => keyOf(cell.server, cell.task, cell.version)));
  const everywhere = state.tasks.map((task) => task.versions.map((_, i) => i));
  const allowed = state.tasks.map(({ servers }) => servers && new Set(servers));
  return {
    state,
    options,
    demandRps: state.tasks.map((task) => Math.max(task.demandRps, options.minDemandRps)),
    capacity: state.servers.map(({ isUp, isDrained, cpus, weight }) =>
      isUp && !isDrained ? cpus * weight * options.utilization : 0,
    ),
    memory: state.servers.map(({ memoryBytes }) => memoryBytes ?? Number.POSITIVE_INFINITY),
    choices: state.servers.map((server) =>
      state.tasks.map((task, k) => {
        if (!server.isUp || server.isDrained || allowed[k]?.has(server.name) === false) return [];
        const present = server.present[task.task]?.version;
        const versionOf = (i: number) => task.versions[i]!.version;
        const stays = () => everywhere[k]!.filter((i) => versionOf(i) === present);
        if (!server.canLoad) return stays();
        // What serves already needs no load.
        const able =
          blocked.size === 0
            ? everywhere[k]!
            : everywhere[k]!.filter(
                (i) => versionOf(i) === present || !blocked.has(keyOf(server.name, task.task, versionOf(i))),
              );
        if (task.pinnedVersion === undefined) return able;
        if (server.choosesVersions) return able;
        const pinned = able.filter((i) => versionOf(i) === task.pinnedVersion);
        // Where the pinned one cannot be loaded, what serves is better than nothing.
        return pinned.length > 0 ? pinned : stays();
      }),
    ),
  };
}

/** CPU seconds of one request of task `k` by its version `i` on server `s`. */
export function costOn({ state }: Model, s: number, k: number, i: number): number {
  const version = state.tasks[k]!.versions[i]!;
  const { target } = state.servers[s]!;
  return (target === undefined ? undefined : version.cpuSecondsOn?.[target]) ?? version.cpuSeconds;
}

/** Bytes of version `i` of task `k` in the memory of server `s`. */
export function bytesOn({ state }: Model, s: number, k: number, i: number): number {
  return state.tasks[k]!.versions[i]!.memoryBytes * Math.max(1, Math.ceil(state.servers[s]!.cpus));
}

/** Of the choices of a cell, the one that takes the least memory; undefined where there is none. */
export function leanest(model: Model, s: number, k: number): number | undefined {
  let best: number | undefined;
  for (const i of model.choices[s]![k]!)
    if (best === undefined || bytesOn(model, s, k, i) < bytesOn(model, s, k, best)) best = i;
  return best;
}

/** Index of what serves task `k` on server `s`, if it may be planned there. */
export function presentIndex({ state, choices }: Model, s: number, k: number): number | undefined {
  const task = state.tasks[k]!;
  const version = state.servers[s]!.present[task.task]?.version;
  return choices[s]![k]!.find((i) => task.versions[i]!.version === version);
}

function keyOf(server: string, task: string, version: number): string {
  return JSON.stringify([server, task, version]);
}
