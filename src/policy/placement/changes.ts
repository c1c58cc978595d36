import type { PlacementPlan, PlacementServer, PlacementState, PlannedCell } from './placement.ts';

/**
 * One step from what is there to what is planned. `replace`: the version that serves is let go before the other is
 * loaded, as memory holds only one of them; others serve the task meanwhile.
 */
export type FleetChange =
  | {
      readonly kind: 'load' | 'switch' | 'replace';
      readonly server: string;
      readonly task: string;
      readonly version: number;
      readonly fromVersion?: number;
      readonly reason: string;
    }
  | {
      readonly kind: 'unload';
      readonly server: string;
      readonly task: string;
      readonly fromVersion: number;
      readonly reason: string;
    };

/** Changes of a whole fleet at a time: each costs a server CPU, and a mistake should not be everywhere at once. */
export const MAX_CHANGES_UNDER_WAY = 16;

/**
 * The changes to begin now. No task is changed on two servers at once, no server changes two tasks at once, nothing is
 * let go that nobody else serves, and at no moment is more in a server's memory than it has, the old and the new version
 * of a switch together. Tasks that nobody serves come first, then what makes servers faster, then what frees memory,
 * then what makes them more accurate.
 * @param underWay changes begun and not done
 */
export function nextChanges(
  state: PlacementState,
  plan: PlacementPlan,
  underWay: readonly { readonly server: string; readonly task: string }[],
  maxUnderWay: number = MAX_CHANGES_UNDER_WAY,
): FleetChange[] {
  const planned = new Map<string, Map<string, PlannedCell>>();
  for (const cell of plan.cells) {
    const cells = planned.get(cell.server) ?? new Map<string, PlannedCell>();
    planned.set(cell.server, cells.set(cell.task, cell));
  }
  const hostsOf = new Map<string, number>();
  const staying = new Map<string, number>();
  for (const { isUp, isDrained, present } of state.servers) {
    if (isUp) for (const task of Object.keys(present)) hostsOf.set(task, (hostsOf.get(task) ?? 0) + 1);
    if (isUp && !isDrained)
      for (const task of Object.keys(present)) staying.set(task, (staying.get(task) ?? 0) + 1);
  }

  const busyServers = new Set(underWay.map(({ server }) => server));
  const busyTasks = new Set(underWay.map(({ task }) => task));
  const wishes = state.servers
    .filter(({ isUp, canLoad, name }) => isUp && canLoad && !busyServers.has(name))
    .flatMap((server) => wishesOf(state, server, planned.get(server.name) ?? new Map(), hostsOf, staying))
    .sort((a, b) => a.rank - b.rank);
  const begun: FleetChange[] = [];
  for (const { change } of wishes) {
    if (underWay.length + begun.length >= maxUnderWay) break;
    if (busyServers.has(change.server) || busyTasks.has(change.task)) continue;
    busyServers.add(change.server);
    busyTasks.add(change.task);
    begun.push(change);
  }
  return begun;
}

interface Wish {
  readonly change: FleetChange;
  /** Lower goes first. */
  readonly rank: number;
}

/** `drain` comes after `load`: as long as a replica can move, it moves before it goes. */
const RANK = { homeless: 0, faster: 1, unload: 2, load: 3, drain: 4, accurate: 5 } as const;

/**
 * What may be changed on a server now.
 * @param hostsOf by task: servers that are up and serve it
 * @param staying of these, the ones that are not drained
 */
function wishesOf(
  state: PlacementState,
  server: PlacementServer,
  cells: ReadonlyMap<string, PlannedCell>,
  hostsOf: ReadonlyMap<string, number>,
  staying: ReadonlyMap<string, number>,
): Wish[] {
  const { name, present, isDrained = false, memoryBytes = Number.POSITIVE_INFINITY } = server;
  let used = 0;
  for (const [task, { version }] of Object.entries(present)) used += bytesOf(state, server, task, version);
  const wishes: Wish[] = [];
  for (const { task, servers } of state.tasks) {
    const here = present[task];
    const cell = cells.get(task);
    const others = (hostsOf.get(task) ?? 0) - (here === undefined ? 0 : 1);
    if (cell === undefined) {
      if (here === undefined || others === 0) continue;
      // Of two servers that are drained, neither leaves a task to the other.
      if (isDrained && !staying.has(task)) continue;
      const reason = isDrained
        ? `${name} is drained by hand; ${staying.get(task)} other servers serve ${task}`
        : servers?.includes(name) === false
          ? `${task} may not run on ${name}; ${others} other servers serve it`
          : `${name} needs the memory for other tasks; ${others} other servers serve ${task}`;
      const change = { kind: 'unload', server: name, task, fromVersion: here.version, reason } as const;
      wishes.push({ change, rank: isDrained ? RANK.drain : RANK.unload });
      continue;
    }
    if (here?.version === cell.version || (here !== undefined && server.choosesVersions)) continue;
    const need = bytesOf(state, server, task, cell.version);
    const fits = used + need <= memoryBytes * (1 + 1e-9);
    if (here === undefined) {
      if (!fits) continue; // Room comes by what is unloaded or made smaller first.
      const change = {
        kind: 'load',
        server: name,
        task,
        version: cell.version,
        reason: others === 0 ? `nobody serves ${task}` : `${name} is to carry ${shareOf(cell)} of ${task}`,
      } as const;
      wishes.push({ change, rank: others === 0 ? RANK.homeless : RANK.load });
      continue;
    }
    const freed = bytesOf(state, server, task, here.version);
    const canReplace = others > 0 && used - freed + need <= memoryBytes * (1 + 1e-9);
    if (!fits && !canReplace) continue;
    const isFaster =
      secondsOf(state, server, task, cell.version) < secondsOf(state, server, task, here.version);
    const change = {
      kind: fits ? 'switch' : 'replace',
      server: name,
      task,
      version: cell.version,
      fromVersion: here.version,
      reason: `${name} is to carry ${shareOf(cell)} of ${task}, which version ${cell.version} does in ${cell.cpu.toFixed(2)} cores`,
    } as const;
    wishes.push({ change, rank: isFaster ? RANK.faster : RANK.accurate });
  }
  return wishes;
}

function shareOf({ servedRps, share }: PlannedCell): string {
  return `${servedRps.toFixed(1)} req/s (${(100 * share).toFixed(0)} %)`;
}

/** Bytes of a version on a server; 0 for one that nothing is known of. */
export function bytesOf(
  state: PlacementState,
  { cpus }: PlacementServer,
  task: string,
  version: number,
): number {
  const found = versionOf(state, task, version);
  return (found?.memoryBytes ?? 0) * Math.max(1, Math.ceil(cpus));
}

/** Infinite for one that nothing is known of: it is left for any other. */
function secondsOf(
  state: PlacementState,
  { target }: PlacementServer,
  task: string,
  version: number,
): number {
  const found = versionOf(state, task, version);
  const seconds = target === undefined ? undefined : found?.cpuSecondsOn?.[target];
  return seconds ?? found?.cpuSeconds ?? Number.POSITIVE_INFINITY;
}

function versionOf({ tasks }: PlacementState, task: string, version: number) {
  return tasks
    .find((candidate) => candidate.task === task)
    ?.versions.find((candidate) => candidate.version === version);
}
