import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../base/clock.ts';
import type { FleetChange } from '../../policy/placement/changes.ts';
import type {
  PlacementOptions,
  PlacementPlan,
  PlacementState,
  PresentVersion,
} from '../../policy/placement/placement.ts';
import type { Routes } from '../../policy/placement/routes.ts';
import type { DemandSample, Policy } from '../../policy/policy.ts';
import { type DemandMemory, forecastRps } from '../../policy/work-mdp/forecast.ts';
import { type Administrators, administrators } from '../administrators.ts';
import type { Balancer } from '../balancer.ts';
import { type BoundedList, boundedList } from '../bounded-list.ts';
import { type Logger, silentLogger } from '../logger.ts';
import { type LookRecord, newWatch, type Watch, type WatchedTask, watchDefaults } from '../watch.ts';
import { type FleetMembers, type FleetServer, watchedTasksOf } from './members.ts';
import { type FleetOverrides, NO_OVERRIDES } from './overrides.ts';
import type { FleetDecision, FleetRecord } from './record.ts';

export interface FleetOptions {
  readonly members: FleetMembers;
  /** Asked every period: the members if they changed since. Its errors are told and change nothing. */
  readonly reread?: () => Promise<FleetMembers | undefined>;
  /** Chooses the versions on each server, where the planner is not to; it always chooses the servers. */
  readonly policy?: Policy;
  readonly placement?: Partial<PlacementOptions>;
  /** Undefined: whoever balances reads the weights from the record. */
  readonly balancer?: Balancer & { readonly kind: string };
  /** What the orchestrator before wrote down last. */
  readonly before?: FleetRecord;
  /** Called every period. */
  readonly save?: (record: FleetRecord) => Promise<void>;
  /** Of the lease. */
  readonly term?: number;
  readonly clock: Clock;
  /** Ends the loop. Changes under way are waited for by the server, not by us. */
  readonly signal: AbortSignal;
  readonly logger?: Logger;
  readonly administrators?: Administrators;
  readonly onDecision?: (decision: FleetDecision) => void;
  /** Told of every look at a server that could be compared with one before. */
  readonly onLook?: (look: LookRecord) => void;
  /** Told when who belongs to the fleet was described anew. */
  readonly onMembers?: (members: FleetMembers) => void;
  /** Asked every period: what people have set by hand. Its errors are told and change nothing. */
  readonly overrides?: () => Promise<FleetOverrides>;
  readonly periodMs?: number;
  /** Waits; replaced where time is simulated. */
  readonly sleep?: (durationMs: number, signal: AbortSignal) => Promise<void>;
}

export const fleetDefaults = {
  periodMs: 1_000,
  /** Servers looked at in the same moment. */
  looksAtOnce: 64,
  /** Looks that ran out of time before a server counts as down: one may only be busy. A refused connection counts at once. */
  toleratedTimeouts: 1,
  /** Samples of demand before anything is switched: with fewer, demand would seem to be none. */
  learningSamples: 4,
  /** A version that failed to load somewhere is not planned there for so long; twice as long each time that it fails again. */
  blockedMs: 60_000,
  longestBlockedMs: 16 * 60_000,
  /** Somebody else's changes of a server's versions are told no more often. */
  foreignPeriodMs: 60_000,
  /** A change that failed is not begun again sooner. */
  retryAfterMs: 10_000,
  /** Weights that move are brought to the balancer at most this often; servers that come or go at once. */
  weightsPeriodMs: 2_000,
  /** From the end of a balancer's old routing to the unloading of what it reached: requests on their way arrive. */
  drainMs: 500,
  /** Samples kept of each task's demand. */
  demandCapacity: 60,
  /** Deviations that the forecast adds: a re-plan takes longer than a switch on one server. */
  caution: 0.5,
  /** Decisions kept in the record. */
  decisionCapacity: 200,
} as const;

/** All that the loop remembers of one server. */
export interface Node {
  member: FleetServer;
  readonly watch: Watch;
  health: 'unknown' | 'up' | 'down';
  /** Since when; undefined: it was so at the first look. */
  healthSinceMs?: number;
  /** What the orchestrator before knew of its health. */
  before?: { readonly health: string; readonly sinceMs?: number };
  /** Of a policy that decides in the server itself. */
  ownPolicy?: string;
  /** Looks that failed one after another. */
  failures: number;
  /** What served at the last look, by task; also while it is down. */
  present: Record<string, PresentVersion>;
  /** The version of each task whose tensors were looked at. */
  readonly checked: Map<string, number>;
  /** Tasks under whose name it serves another network, and how one sees that. */
  readonly strangers: Map<string, string>;
  /** When it was last told that somebody else changes its versions. */
  toldForeignMs?: number;
  change?: FleetChange;
}

/** What is not tried again on a server before a time. */
export interface Blocked {
  readonly server: string;
  readonly task: string;
  /** Undefined: none of its versions, since the server does not have the task. */
  readonly version?: number;
  readonly untilMs: number;
  /** How often it failed in a row. */
  readonly times: number;
}

interface TaskDemand {
  /** Of all servers together. */
  readonly history: BoundedList<DemandSample>;
  memory?: DemandMemory;
  /** The memory is that of the orchestrator before. */
  isRestored: boolean;
}

export interface Fleet {
  readonly options: FleetOptions;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly logger: Logger;
  readonly told: Administrators;
  readonly periodMs: number;
  readonly sleep: (durationMs: number, signal: AbortSignal) => Promise<void>;
  members: FleetMembers;
  tasks: readonly WatchedTask[];
  /** Tasks that were taken out of the description: they are unloaded wherever they still serve. */
  readonly leaving: Set<string>;
  readonly nodes: Map<string, Node>;
  readonly demand: Map<string, TaskDemand>;
  readonly decisions: BoundedList<FleetDecision>;
  state?: PlacementState;
  plan?: PlacementPlan;
  /** Changes that failed, by what they were: when. */
  readonly failed: Map<string, number>;
  readonly blocked: Map<string, Blocked>;
  readonly acting: Set<Promise<void>>;
  /** What the balancer routes by. */
  applied?: Routes;
  appliedMs: number;
  /** The last that the balancer was asked; calls go one after another. */
  applying: Promise<void>;
  balancerError?: string;
  saveError?: string;
  membersError?: string;
  /** What people have set by hand. */
  overrides: FleetOverrides;
  overridesError?: string;
}

export function newFleet(options: FleetOptions): Fleet {
  const { clock, members, before, logger = silentLogger } = options;
  const fleet: Fleet = {
    options,
    clock,
    signal: options.signal,
    logger,
    told: options.administrators ?? administrators({ logger, clock }),
    periodMs: options.periodMs ?? fleetDefaults.periodMs,
    sleep: options.sleep ?? realSleep,
    members: { servers: [], tasks: [] },
    tasks: [],
    leaving: new Set(),
    nodes: new Map(),
    demand: new Map(),
    decisions: boundedList(fleetDefaults.decisionCapacity),
    failed: new Map(),
    blocked: new Map(),
    acting: new Set(),
    appliedMs: Number.NEGATIVE_INFINITY,
    applying: Promise.resolve(),
    overrides: before?.overrides ?? NO_OVERRIDES,
  };
  setMembers(fleet, members);
  if (before !== undefined) restore(fleet, before);
  return fleet;
}

/** Goes on from what the orchestrator before knew: demand, what served where and since when. */
function restore(fleet: Fleet, before: FleetRecord): void {
  const { clock } = fleet;
  // The monotonic clock began anew; ages carry over.
  const nowOf = (epochMs: number) => clock.nowMs() - Math.max(0, clock.epochMs() - epochMs);
  for (const { task, levelRps, deviationRps } of before.tasks) {
    const demand = fleet.demand.get(task);
    if (demand === undefined || levelRps === undefined || deviationRps === undefined) continue;
    demand.memory = { atMs: nowOf(before.savedMs), levelRps, deviationRps };
    demand.isRestored = true;
  }
  for (const { name, health, healthSinceMs, tasks } of before.servers) {
    const node = fleet.nodes.get(name);
    if (node !== undefined)
      node.before = { health, sinceMs: healthSinceMs === undefined ? undefined : nowOf(healthSinceMs) };
    for (const { task, version, sinceMs } of node === undefined ? [] : tasks)
      if (version !== undefined)
        node!.present[task] = { version, sinceMs: sinceMs === undefined ? undefined : nowOf(sinceMs) };
  }
  for (const decision of before.decisions) fleet.decisions.push(decision);
}

export function setMembers(fleet: Fleet, members: FleetMembers): { joined: string[]; left: string[] } {
  const taskNames = new Set(members.tasks.map(({ manifest }) => manifest.task));
  for (const { task } of fleet.tasks) if (!taskNames.has(task)) fleet.leaving.add(task);
  for (const task of taskNames) fleet.leaving.delete(task);
  fleet.members = members;
  fleet.tasks = watchedTasksOf(members.tasks);
  for (const { checked } of fleet.nodes.values()) checked.clear();
  const joined: string[] = [];
  const left: string[] = [];
  const byName = new Map(members.servers.map((member) => [member.name, member]));
  for (const [name, node] of fleet.nodes) {
    const member = byName.get(name);
    if (member?.identity === node.member.identity) {
      node.member = member;
      continue;
    }
    fleet.nodes.delete(name);
    if (member === undefined) left.push(name);
    // What is under way there ends with the connection.
    void node.watch.server.close().catch(() => {});
  }
  // Only a policy looks back for longer than a moment.
  const capacity = fleet.options.policy === undefined ? 2 : watchDefaults.historyCapacity;
  for (const member of members.servers) {
    if (fleet.nodes.has(member.name)) continue;
    joined.push(member.name);
    fleet.nodes.set(member.name, newNode(member, newWatch(member.connect(), capacity)));
  }
  const names = new Set(fleet.tasks.map(({ task }) => task));
  for (const task of fleet.demand.keys()) if (!names.has(task)) fleet.demand.delete(task);
  for (const task of names)
    if (!fleet.demand.has(task))
      fleet.demand.set(task, { history: boundedList(fleetDefaults.demandCapacity), isRestored: false });
  return { joined, left };
}

function newNode(member: FleetServer, watch: Watch): Node {
  return {
    ...{ member, watch, health: 'unknown', failures: 0, present: {} },
    ...{ checked: new Map(), strangers: new Map() },
  };
}

export function demandOf({ demand, clock }: Fleet, task: string): number {
  const known = demand.get(task);
  if (known?.memory === undefined) return 0;
  const options = { nowMs: clock.nowMs(), caution: fleetDefaults.caution };
  return forecastRps(known.memory, known.history.items(), options);
}

export function cpusOf({ member, watch }: Node): number {
  return member.cpus ?? watch.scrape?.cpuBudget ?? 1;
}

/** Whether it says itself by which versions it serves what is loaded there. */
export function choosesVersions({ ownPolicy }: Node): boolean {
  return ownPolicy !== undefined;
}

export function isDrained({ overrides }: Fleet, server: string): boolean {
  return overrides.drained.includes(server);
}

export function watchingOf({ clock, signal, logger, tasks, overrides, options }: Fleet) {
  const byHand = new Map(Object.entries(overrides.tasks));
  return { clock, signal, logger, tasks, residency: 1, onLook: options.onLook, overrides: () => byHand };
}

export function decide(fleet: Fleet, what: Omit<FleetDecision, 'atMs'>): void {
  const decision: FleetDecision = { atMs: Math.round(fleet.clock.epochMs()), ...what };
  fleet.decisions.push(decision);
  fleet.options.onDecision?.(decision);
}

async function realSleep(durationMs: number, signal: AbortSignal): Promise<void> {
  await delay(Math.max(0, durationMs), undefined, { signal }).catch(() => {});
}
