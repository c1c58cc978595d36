import { bytesOn, costOn, leanest, type Model } from './model.ts';
import { type Loads, spreadLoads, spreadTask } from './spread.ts';

export interface Hosting {
  /** By task: its servers. */
  readonly hosts: readonly Set<number>[];
  readonly loads: Loads;
  /** Tasks that nobody can take. */
  readonly unplaced: readonly number[];
}

/**
 * Which servers serve which tasks. Present hosts stay: a load costs more than a slightly better place. Then every
 * task gets a first host, its replicas, and as many more as its demand needs, each on the server with the most free CPU. Where
 * memory is short, a first host counts more than another's replica, and other tasks move (augmenting paths, as in
 * bipartite matching: exact where tasks are of one size). Memory counts at the leanest versions; what else fits is
 * chosen later.
 * @param versionOf by task: the version whose cost counts, an index
 */
export function chooseHosts(model: Model, versionOf: readonly (number | undefined)[]): Hosting {
  const rooms = new Rooms(model);
  keepPresent(model, rooms);
  const unplaced = placeFirst(model, rooms, versionOf);
  addReplicas(model, rooms, versionOf);
  const loads = addForDemand(model, rooms, versionOf);
  return { hosts: rooms.hosts, loads, unplaced };
}

/** Who is where, and the memory that this takes at the leanest versions. */
class Rooms {
  readonly #model: Model;
  readonly hosts: Set<number>[];
  readonly tasksOf: Set<number>[];
  /** Cores used by server as far as it is known while hosts are chosen: only orders candidates. */
  readonly #used: number[];
  readonly #bytes: number[];
  /** By server and task, at the leanest version. */
  readonly #lean: readonly Float64Array[];

  constructor(model: Model) {
    this.#model = model;
    this.hosts = model.state.tasks.map(() => new Set());
    this.tasksOf = model.state.servers.map(() => new Set());
    this.#used = model.capacity.map(() => 0);
    this.#bytes = model.capacity.map(() => 0);
    this.#lean = model.capacity.map((_, s) =>
      Float64Array.from(model.state.tasks, (_, k) => {
        const i = leanest(model, s, k);
        return i === undefined ? 0 : bytesOn(model, s, k, i);
      }),
    );
  }

  add(s: number, k: number): void {
    this.hosts[k]!.add(s);
    this.tasksOf[s]!.add(k);
    this.#bytes[s]! += this.bytes(s, k);
  }

  remove(s: number, k: number): void {
    this.hosts[k]!.delete(s);
    this.tasksOf[s]!.delete(k);
    this.#bytes[s]! -= this.bytes(s, k);
  }

  bytes(s: number, k: number): number {
    return this.#lean[s]![k]!;
  }

  /** Whether the task may be loaded there, were there room. */
  isEligible(s: number, k: number): boolean {
    return (
      this.#model.state.servers[s]!.canLoad &&
      this.#model.choices[s]![k]!.length > 0 &&
      !this.hosts[k]!.has(s)
    );
  }

  /** @param withSpare also leaves room for a second version of the largest, so that any task can be switched in place */
  fits(s: number, k: number, withSpare: boolean): boolean {
    let largest = 0;
    if (withSpare) {
      largest = this.bytes(s, k);
      for (const other of this.tasksOf[s]!) largest = Math.max(largest, this.bytes(s, other));
    }
    return this.#bytes[s]! + this.bytes(s, k) + largest <= this.#model.memory[s]!;
  }

  /** Tells the order of candidates what the tasks take. */
  setUsed(used: readonly number[]): void {
    for (const [s, cores] of used.entries()) this.#used[s] = cores;
  }

  addUsed(s: number, cores: number): void {
    this.#used[s]! += cores;
  }

  freeOf(s: number): number {
    return this.#model.capacity[s]! - this.#used[s]!;
  }
}

function keepPresent({ state, choices, memory }: Model, rooms: Rooms): void {
  for (const [s, server] of state.servers.entries()) {
    for (const [k, { task }] of state.tasks.entries()) {
      if (server.present[task] === undefined || choices[s]![k]!.length === 0) continue;
      if (!server.canLoad || memory[s] === Number.POSITIVE_INFINITY || rooms.fits(s, k, false))
        rooms.add(s, k);
    }
  }
}

/** @returns tasks without a host */
function placeFirst(model: Model, rooms: Rooms, versionOf: readonly (number | undefined)[]): number[] {
  const homeless = model.state.tasks
    .map((_, k) => ({ k, eligible: eligibleFor(model, rooms, k) }))
    .filter(({ k }) => rooms.hosts[k]!.size === 0)
    .sort((a, b) => a.eligible.length - b.eligible.length || a.k - b.k);
  const unplaced: number[] = [];
  for (const { k, eligible } of homeless) {
    const s = roomiest(rooms, eligible, k, true) ?? roomiest(rooms, eligible, k, false);
    if (s !== undefined) {
      rooms.add(s, k);
      rooms.addUsed(s, coresAt(model, s, k, versionOf[k]));
    } else if (!makeRoom(model, rooms, k, new Set())) unplaced.push(k);
  }
  return unplaced;
}

function eligibleFor(model: Model, rooms: Rooms, k: number): number[] {
  const eligible: number[] = [];
  for (let s = 0; s < model.capacity.length; s++) if (rooms.isEligible(s, k)) eligible.push(s);
  return eligible;
}

/** The candidate with room that has the most free CPU. */
function roomiest(
  rooms: Rooms,
  candidates: readonly number[],
  k: number,
  withSpare: boolean,
): number | undefined {
  let best: number | undefined;
  for (const s of candidates) {
    if (rooms.hosts[k]!.has(s) || !rooms.fits(s, k, withSpare)) continue;
    if (best === undefined || rooms.freeOf(s) > rooms.freeOf(best)) best = s;
  }
  return best;
}

/** Places a task where others have to leave: replicas first, then tasks that find another place. */
function makeRoom(model: Model, rooms: Rooms, k: number, visited: Set<number>): boolean {
  const candidates = eligibleFor(model, rooms, k).sort((a, b) => rooms.freeOf(b) - rooms.freeOf(a));
  for (const s of candidates) {
    if (visited.has(s)) continue;
    visited.add(s);
    if (rooms.fits(s, k, false)) {
      rooms.add(s, k);
      return true;
    }
    const residents = [...rooms.tasksOf[s]!].sort((a, b) => rooms.bytes(s, b) - rooms.bytes(s, a));
    const removed: number[] = [];
    for (const j of residents) {
      if (rooms.hosts[j]!.size < 2 || rooms.fits(s, k, false)) continue;
      rooms.remove(s, j);
      removed.push(j);
    }
    if (rooms.fits(s, k, false)) {
      rooms.add(s, k);
      return true;
    }
    for (const j of removed) rooms.add(s, j);
    for (const j of residents) {
      if (rooms.hosts[j]!.size !== 1) continue;
      rooms.remove(s, j);
      // Only where the task fits then is it worth to look for another place; the place must not be here.
      if (rooms.fits(s, k, false)) {
        rooms.add(s, k);
        if (makeRoom(model, rooms, j, visited)) return true;
        rooms.remove(s, k);
      }
      rooms.add(s, j);
    }
  }
  return false;
}

function addReplicas(model: Model, rooms: Rooms, versionOf: readonly (number | undefined)[]): void {
  for (const [k, task] of model.state.tasks.entries()) {
    if (rooms.hosts[k]!.size === 0 || rooms.hosts[k]!.size >= task.replicas) continue;
    const eligible = eligibleFor(model, rooms, k);
    while (rooms.hosts[k]!.size < task.replicas) {
      const s = roomiest(rooms, eligible, k, true);
      if (s === undefined) break;
      rooms.add(s, k);
      rooms.addUsed(s, coresAt(model, s, k, versionOf[k]) / task.replicas);
    }
  }
}

/** A few passes settle it: each adds what the one before left over. */
const DEMAND_PASSES = 3;

/**
 * A task whose hosts lack less than this share of the cores that it should get is served there by smaller versions; more
 * hosts would hardly help, and every one of them costs memory and a connection.
 */
const TOLERATED_EXCESS = 0.05;

/** More hosts where a task's own do not have the CPU for it. */
function addForDemand(model: Model, rooms: Rooms, versionOf: readonly (number | undefined)[]): Loads {
  const { capacity } = model;
  let spread = spreadLoads(model, rooms.hosts, versionOf);
  for (let pass = 0; pass < DEMAND_PASSES; pass++) {
    let added = 0;
    const { loads, used } = spread;
    const order = rooms.hosts
      .map((_, k) => k)
      .sort((a, b) => model.demandRps[b]! - model.demandRps[a]! || a - b);
    for (const k of order) {
      const version = versionOf[k];
      if (version === undefined || rooms.hosts[k]!.size === 0) continue;
      let excess = 0;
      for (const [s, rps] of loads[k]!)
        excess += Math.min(Math.max(0, used[s]! - capacity[s]!), rps * costOn(model, s, k, version));
      if (
        excess <=
        TOLERATED_EXCESS * model.demandRps[k]! * model.state.tasks[k]!.versions[version]!.cpuSeconds
      )
        continue;
      const candidates = eligibleFor(model, rooms, k)
        .filter((s) => used[s]! < capacity[s]! && rooms.fits(s, k, true))
        .sort((a, b) => capacity[b]! - used[b]! - (capacity[a]! - used[a]!) || a - b);
      const before = added;
      for (const s of candidates) {
        if (excess <= 0) break;
        rooms.add(s, k);
        excess -= capacity[s]! - used[s]!;
        added++;
      }
      if (added > before) spreadTask(model, k, rooms.hosts[k]!, version, loads, used);
    }
    if (added === 0) break;
    spread = spreadLoads(model, rooms.hosts, versionOf);
  }
  return spread.loads;
}

function coresAt(model: Model, s: number, k: number, version: number | undefined): number {
  return version === undefined ? 0 : model.demandRps[k]! * costOn(model, s, k, version);
}
