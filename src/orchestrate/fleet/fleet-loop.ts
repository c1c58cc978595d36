import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../base/clock.ts';
import { messageOf } from '../../base/errors.ts';
import { type FleetChange, nextChanges } from '../../policy/placement/changes.ts';
import type {
  PlacementOptions,
  PlacementPlan,
  PlacementState,
  PresentVersion,
} from '../../policy/placement/placement.ts';
import { planPlacement } from '../../policy/placement/plan.ts';
import { differenceOf, type Routes, routesOf } from '../../policy/placement/routes.ts';
import type { DemandSample, Policy } from '../../policy/policy.ts';
import { type DemandMemory, forecastRps, learnDemand } from '../../policy/work-mdp/forecast.ts';
import { type Administrators, administrators } from '../administrators.ts';
import type { Balancer, RoutedServer, Routing } from '../balancer.ts';
import { type BoundedList, boundedList } from '../bounded-list.ts';
import { type Logger, silentLogger } from '../logger.ts';
import {
  described,
  newWatch,
  observeServer,
  servingVersionOf,
  stateOf,
  type Watch,
  type WatchedTask,
  watchDefaults,
} from '../watch.ts';
import { type FleetMembers, type FleetServer, placementTaskOf, watchedTasksOf } from './members.ts';
import { FLEET_RECORD_SCHEMA_VERSION, type FleetDecision, type FleetRecord } from './record.ts';

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
  /** A version that failed to load somewhere is not planned there for so long. */
  blockedMs: 60_000,
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

/**
 * The control loop over a fleet: look at every server, plan, change one step, route; once every period until the signal
 * aborts. Nothing that a server, the balancer or a policy does ends it.
 */
export async function runFleet(options: FleetOptions): Promise<void> {
  const fleet = newFleet(options);
  const { clock, signal, periodMs, sleep } = fleet;
  const startMs = clock.nowMs();
  try {
    for (let tick = 1; !signal.aborted; tick++) {
      await adoptMembers(fleet);
      await look(fleet);
      if (signal.aborted) break;
      learn(fleet);
      plan(fleet);
      begin(fleet);
      await route(fleet);
      await save(fleet);
      tick = Math.max(tick, Math.floor((clock.nowMs() - startMs) / periodMs) + 1);
      const waitMs = startMs + tick * periodMs - clock.nowMs();
      if (!signal.aborted) await sleep(waitMs, signal);
    }
    await Promise.allSettled(fleet.acting);
    await save(fleet);
  } finally {
    await Promise.all([...fleet.nodes.values()].map(({ watch }) => watch.server.close()));
  }
}

/** All that the loop remembers of one server. */
interface Node {
  member: FleetServer;
  readonly watch: Watch;
  health: 'unknown' | 'up' | 'down';
  /** Looks that failed one after another. */
  failures: number;
  /** What served at the last look, by task; also while it is down. */
  present: Record<string, PresentVersion>;
  change?: FleetChange;
}

interface TaskDemand {
  /** Of all servers together. */
  readonly history: BoundedList<DemandSample>;
  memory?: DemandMemory;
  /** The memory is that of the orchestrator before. */
  isRestored: boolean;
}

interface Fleet {
  readonly options: FleetOptions;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly logger: Logger;
  readonly told: Administrators;
  readonly periodMs: number;
  readonly sleep: (durationMs: number, signal: AbortSignal) => Promise<void>;
  members: FleetMembers;
  tasks: readonly WatchedTask[];
  readonly nodes: Map<string, Node>;
  readonly demand: Map<string, TaskDemand>;
  readonly decisions: BoundedList<FleetDecision>;
  state?: PlacementState;
  plan?: PlacementPlan;
  /** Changes that failed, by what they were: when. */
  readonly failed: Map<string, number>;
  readonly blocked: Map<
    string,
    { readonly server: string; readonly task: string; readonly version: number; readonly untilMs: number }
  >;
  readonly acting: Set<Promise<void>>;
  /** What the balancer routes by. */
  applied?: Routes;
  appliedMs: number;
  /** The last that the balancer was asked; calls go one after another. */
  applying: Promise<void>;
  balancerError?: string;
  saveError?: string;
  membersError?: string;
}

function newFleet(options: FleetOptions): Fleet {
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
    nodes: new Map(),
    demand: new Map(),
    decisions: boundedList(fleetDefaults.decisionCapacity),
    failed: new Map(),
    blocked: new Map(),
    acting: new Set(),
    appliedMs: Number.NEGATIVE_INFINITY,
    applying: Promise.resolve(),
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
  for (const { name, tasks } of before.servers) {
    const node = fleet.nodes.get(name);
    for (const { task, version, sinceMs } of node === undefined ? [] : tasks)
      if (version !== undefined)
        node!.present[task] = { version, sinceMs: sinceMs === undefined ? undefined : nowOf(sinceMs) };
  }
  for (const decision of before.decisions) fleet.decisions.push(decision);
}

async function adoptMembers(fleet: Fleet): Promise<void> {
  try {
    const members = await fleet.options.reread?.();
    fleet.membersError = undefined;
    if (members === undefined) return;
    const { joined, left } = setMembers(fleet, members);
    const parts = [
      joined.length > 0 ? `${joined.join(', ')} joined` : '',
      left.length > 0 ? `${left.join(', ')} left` : '',
    ].filter((part) => part !== '');
    decide(fleet, {
      kind: 'members',
      text: `The fleet was described anew: ${parts.join('; ') || 'the same servers'}.`,
    });
  } catch (error) {
    // Half-written by an editor, perhaps: the fleet stays as it is, and the file is read again.
    const message = messageOf(error);
    if (fleet.membersError !== message)
      fleet.logger.error(described(error), `The fleet stays as it was: ${message}`);
    fleet.membersError = message;
  }
}

function setMembers(fleet: Fleet, members: FleetMembers): { joined: string[]; left: string[] } {
  fleet.members = members;
  fleet.tasks = watchedTasksOf(members.tasks);
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
    const watch = newWatch(member.connect(), capacity);
    fleet.nodes.set(member.name, { member, watch, health: 'unknown', failures: 0, present: {} });
  }
  for (const { task } of fleet.tasks)
    if (!fleet.demand.has(task))
      fleet.demand.set(task, { history: boundedList(fleetDefaults.demandCapacity), isRestored: false });
  return { joined, left };
}

/** Looks at all servers, a limited number at a time. */
async function look(fleet: Fleet): Promise<void> {
  const waiting = [...fleet.nodes.values()];
  const worker = async () => {
    for (let node = waiting.pop(); node !== undefined && !fleet.signal.aborted; node = waiting.pop())
      await lookAt(fleet, node);
  };
  await Promise.all(Array.from({ length: Math.min(fleetDefaults.looksAtOnce, waiting.length) }, worker));
}

async function lookAt(fleet: Fleet, node: Node): Promise<void> {
  const { watch, member } = node;
  const isSeen = await observeServer(watch, watchingOf(fleet));
  if (fleet.signal.aborted) return;
  node.failures = isSeen ? 0 : node.failures + 1;
  const isPatient =
    node.health === 'up' && isTimeout(watch.failure) && node.failures <= fleetDefaults.toleratedTimeouts;
  const health = isSeen || isPatient ? 'up' : 'down';
  if (health !== node.health) {
    const why = health === 'up' ? '' : `: ${messageOf(watch.failure)}`;
    decide(fleet, { kind: 'server', server: member.name, text: `${member.name} is ${health}${why}` });
  }
  const isFirst = node.health === 'unknown';
  node.health = health;
  if (!isSeen) return;
  const present: Record<string, PresentVersion> = {};
  for (const { task } of fleet.tasks) {
    const version = servingVersionOf(watch, task);
    if (version === undefined) continue;
    const before = node.present[task];
    // What is there at the first look may have been there for long.
    const isOld = before === undefined && isFirst;
    present[task] =
      before?.version === version ? before : { version, ...(isOld ? {} : { sinceMs: fleet.clock.nowMs() }) };
  }
  node.present = present;
}

function isTimeout(failure: unknown): boolean {
  const cause = failure instanceof Error ? failure.cause : undefined;
  return cause instanceof Error && cause.name === 'TimeoutError';
}

/** A task's demand is that of all servers that were seen; its forecast carries over the moment in which one fails. */
function learn(fleet: Fleet): void {
  const nowMs = fleet.clock.nowMs();
  const seen = [...fleet.nodes.values()].filter(
    ({ watch, failures }) => failures === 0 && watch.seen !== undefined,
  );
  if (seen.length === 0) return;
  for (const [task, demand] of fleet.demand) {
    const demandRps = seen.reduce((sum, { watch }) => sum + (watch.seen!.demandRps.get(task) ?? 0), 0);
    demand.history.push({ atMs: nowMs, demandRps });
    demand.memory = learnDemand(demand.memory, demand.history.items());
  }
}

function demandOf({ demand, clock }: Fleet, task: string): number {
  const known = demand.get(task);
  if (known?.memory === undefined) return 0;
  const options = { nowMs: clock.nowMs(), caution: fleetDefaults.caution };
  return forecastRps(known.memory, known.history.items(), options);
}

/** Whether demand is known well enough to switch by it. */
function isLearned({ demand }: Fleet): boolean {
  return [...demand.values()].every(
    ({ history, isRestored }) => isRestored || history.items().length >= fleetDefaults.learningSamples,
  );
}

function plan(fleet: Fleet): void {
  const nowMs = fleet.clock.nowMs();
  for (const [key, { untilMs }] of fleet.blocked) if (untilMs <= nowMs) fleet.blocked.delete(key);
  for (const [key, atMs] of fleet.failed)
    if (nowMs - atMs > fleetDefaults.retryAfterMs) fleet.failed.delete(key);
  const state: PlacementState = {
    nowMs,
    servers: [...fleet.nodes.values()].map((node) => ({
      name: node.member.name,
      cpus: cpusOf(node),
      weight: node.member.weight,
      memoryBytes: node.member.memoryBytes,
      target: node.member.target,
      isUp: node.health === 'up',
      canLoad: node.member.canLoad,
      present: node.present,
    })),
    tasks: fleet.members.tasks.map((task, k) =>
      placementTaskOf(task, fleet.tasks[k]!, demandOf(fleet, task.manifest.task)),
    ),
    blocked: [...fleet.blocked.values()],
  };
  const before = fleet.plan;
  const planned = planPlacement(state, fleet.options.placement);
  fleet.state = state;
  fleet.plan =
    fleet.options.policy === undefined ? planned : withPolicy(fleet, planned, fleet.options.policy);
  if (before === undefined || cellsText(before) !== cellsText(fleet.plan)) {
    const lacks = planned.unplaced.map(({ task, reason }) => ` ${task} is not placed: ${reason}.`).join('');
    decide(fleet, { kind: 'plan', text: `${planned.reason}${lacks}` });
  }
}

function cellsText({ cells, unplaced }: PlacementPlan): string {
  return JSON.stringify([cells.map(({ server, task, version }) => [server, task, version]), unplaced]);
}

function cpusOf({ member, watch }: Node): number {
  return member.cpus ?? watch.scrape?.cpuBudget ?? 1;
}

/** The same places with the versions that the policy wants on each server. */
function withPolicy(fleet: Fleet, planned: PlacementPlan, policy: Policy): PlacementPlan {
  const wanted = new Map<string, Map<string, number>>();
  for (const node of fleet.nodes.values()) {
    const { watch, member, present } = node;
    const cells = planned.cells.filter(
      ({ server, task }) => server === member.name && present[task] !== undefined,
    );
    if (node.health !== 'up' || !member.canLoad || watch.seen === undefined || cells.length === 0) continue;
    const versions = new Map<string, number>();
    wanted.set(member.name, versions);
    const { change } = node;
    for (const { task } of cells) {
      const isChanging = change?.task === task && change.kind !== 'unload';
      versions.set(task, isChanging ? change.version : present[task]!.version);
    }
    const tasks = fleet.tasks.filter(({ task }) => versions.has(task));
    try {
      const decision = policy.decide(stateOf(watch, { ...watchingOf(fleet), tasks }, new Set()));
      watch.memory = decision.memory;
      watch.troubles.delete('policy');
      fleet.told.hear(member.name, decision.notice);
      for (const { task, toVersion } of decision.actions) versions.set(task, toVersion);
      for (const { kind, task, version } of decision.residency ?? [])
        if (kind === 'load') versions.set(task, version);
    } catch (error) {
      if (!watch.troubles.has('policy'))
        fleet.logger.error(
          { server: member.name, ...described(error) },
          `Policy ${policy.name} failed, nothing is changed on ${member.name}: ${messageOf(error)}`,
        );
      watch.troubles.add('policy');
    }
  }
  return {
    ...planned,
    cells: planned.cells.map((cell) => {
      const version = wanted.get(cell.server)?.get(cell.task);
      return version === undefined ? cell : { ...cell, version };
    }),
  };
}

function watchingOf({ clock, signal, logger, tasks }: Fleet) {
  return { clock, signal, logger, tasks, residency: 1 };
}

/** Begins the changes that may begin now. */
function begin(fleet: Fleet): void {
  const state = fleet.state!;
  const nowMs = fleet.clock.nowMs();
  const isReady = isLearned(fleet);
  const changes = nextChanges(state, fleet.plan!, underWay(fleet))
    .filter((change) => !fleet.failed.has(keyOf(change)))
    .flatMap((change): FleetChange[] => {
      if (isReady) return [change];
      // Nobody serves it: anything is better than to wait, and the quickest version is safe at any demand.
      if (change.kind !== 'load' || isServed(fleet, change.task)) return [];
      const versions = state.tasks.find(({ task }) => task === change.task)!.versions;
      const quickest = versions.reduce((a, b) => (b.cpuSeconds < a.cpuSeconds ? b : a));
      return [{ ...change, version: quickest.version }];
    });
  if (changes.length === 0) return;
  for (const change of changes) {
    const node = fleet.nodes.get(change.server)!;
    node.change = change;
    node.watch.lastChangeMs = nowMs;
    if (change.kind !== 'unload')
      node.watch.pending.set(change.task, { kind: 'switch', task: change.task, toVersion: change.version });
    decide(fleet, {
      kind: 'begin',
      server: change.server,
      task: change.task,
      text: `${textOf(change)}: ${change.reason}.`,
    });
  }
  const acting = performAll(fleet, changes).finally(() => fleet.acting.delete(acting));
  fleet.acting.add(acting);
}

function isServed({ nodes }: Fleet, task: string): boolean {
  for (const { health, present } of nodes.values())
    if (health === 'up' && present[task] !== undefined) return true;
  return false;
}

/** Our own changes, and what servers do on their own account. */
function underWay({ nodes, tasks }: Fleet): { server: string; task: string }[] {
  return [...nodes.values()].flatMap(({ member: { name }, change, watch, health }) => {
    if (change !== undefined) return [{ server: name, task: change.task }];
    if (health !== 'up') return [];
    return tasks
      .filter(({ task }) => watch.scrape?.loading.has(task) && servingVersionOf(watch, task) === undefined)
      .map(({ task }) => ({ server: name, task }));
  });
}

/** Never rejects. */
async function performAll(fleet: Fleet, changes: readonly FleetChange[]): Promise<void> {
  const nodes = changes.map(({ server }) => fleet.nodes.get(server)!);
  // Weights go down before anything is touched.
  const isRouted = await applyRoutes(fleet).then(
    () => true,
    () => false,
  );
  await Promise.all(changes.map((change, i) => perform(fleet, nodes[i]!, change, isRouted)));
}

async function perform(fleet: Fleet, node: Node, change: FleetChange, isRouted: boolean): Promise<void> {
  const { clock, signal } = fleet;
  const { watch } = node;
  const { server, task } = change;
  const beginMs = clock.nowMs();
  const about = { server, task };
  try {
    signal.throwIfAborted();
    if (change.kind === 'unload' || change.kind === 'replace') {
      if (!isRouted) throw new Error('the balancer still sends requests there');
      if (watch.server.unload === undefined) throw new Error(`${server} cannot unload`);
      await fleet.sleep(fleetDefaults.drainMs + (fleet.options.balancer?.staleMs ?? 0), signal);
      signal.throwIfAborted();
      await watch.server.unload(task, signal);
      finish(fleet, node, task, undefined);
    }
    if (change.kind !== 'unload') {
      await watch.server.switchVersion(task, change.version, signal);
      finish(fleet, node, task, change.version);
    }
    const tookS = ((clock.nowMs() - beginMs) / 1000).toFixed(1);
    decide(fleet, { kind: 'done', ...about, text: `${textOf(change)} took ${tookS} s.` });
  } catch (error) {
    if (signal.aborted) return;
    fleet.failed.set(keyOf(change), clock.nowMs());
    if (change.kind !== 'unload') {
      const untilMs = clock.nowMs() + fleetDefaults.blockedMs;
      fleet.blocked.set(keyOf(change), { ...about, version: change.version, untilMs });
    }
    fleet.logger.error({ ...about, ...described(error) }, messageOf(error));
    decide(fleet, { kind: 'failed', ...about, text: `${textOf(change)} failed: ${messageOf(error)}` });
  } finally {
    watch.pending.delete(task);
    node.change = undefined;
  }
}

/** What a change brought, until the next look shows it. */
function finish({ clock }: Fleet, { watch, present }: Node, task: string, version: number | undefined): void {
  const atMs = clock.nowMs();
  const versions = version === undefined ? [] : [version];
  watch.done.set(task, { change: { kind: 'reside', task, versions }, atMs });
  if (version === undefined) delete present[task];
  else present[task] = { version, sinceMs: atMs };
}

function textOf(change: FleetChange): string {
  const { kind, server, task } = change;
  switch (kind) {
    case 'load':
      return `load ${task} ${change.version} on ${server}`;
    case 'switch':
    case 'replace':
      return `${kind} ${task} ${change.fromVersion} -> ${change.version} on ${server}`;
    case 'unload':
      return `unload ${task} ${change.fromVersion} from ${server}`;
    default:
      return kind satisfies never;
  }
}

function keyOf(change: FleetChange): string {
  return JSON.stringify([
    change.kind,
    change.server,
    change.task,
    change.kind === 'unload' ? 0 : change.version,
  ]);
}

function routesNow(fleet: Fleet): Routes {
  const nodes = [...fleet.nodes.values()];
  const lowered = new Set(
    nodes.filter(({ change }) => change !== undefined).map(({ member }) => member.name),
  );
  // What is replaced does not serve in between.
  const servers = fleet.state!.servers.map((server) => {
    const node = fleet.nodes.get(server.name);
    if (node === undefined) return server;
    const { [node.change?.kind === 'replace' ? node.change.task : '']: _, ...present } = node.present;
    return { ...server, isUp: node.health === 'up', present };
  });
  return routesOf({ ...fleet.state!, servers }, fleet.plan!, lowered);
}

/** Brings routes to the balancer where they changed. */
async function route(fleet: Fleet): Promise<void> {
  const { balancer } = fleet.options;
  if (balancer === undefined) {
    fleet.applied = routesNow(fleet);
    return;
  }
  // What changes that just began asked for comes first, and may be all that there is to do.
  await fleet.applying.catch(() => {});
  if (fleet.signal.aborted) return;
  const isDue = fleet.clock.nowMs() - fleet.appliedMs >= fleetDefaults.weightsPeriodMs;
  const difference = differenceOf(fleet.applied, routesNow(fleet));
  const hasFailed = fleet.balancerError !== undefined;
  const isLost = isDue && !hasFailed && fleet.applied !== undefined && !(await balancer.isRunning());
  if (isLost) {
    decide(fleet, { kind: 'balancer', text: `${balancer.kind} has ended: it is started again.` });
    fleet.applied = undefined;
  }
  const isUrgent = difference === 'servers' && !hasFailed;
  if (isUrgent || (isDue && (hasFailed || isLost || difference === 'weights')))
    await applyRoutes(fleet).catch(() => {});
}

/** @throws what the balancer threw, which has been told */
function applyRoutes(fleet: Fleet): Promise<void> {
  const { balancer } = fleet.options;
  if (balancer === undefined) return Promise.resolve();
  const work = fleet.applying
    .catch(() => {})
    .then(async () => {
      const routes = routesNow(fleet);
      if (differenceOf(fleet.applied, routes) === 'none' && fleet.balancerError === undefined) return;
      fleet.appliedMs = fleet.clock.nowMs();
      try {
        await balancer.apply(routingOf(fleet, routes), fleet.signal);
        fleet.applied = routes;
        if (fleet.balancerError !== undefined)
          decide(fleet, { kind: 'balancer', text: `${balancer.kind} routes again.` });
        fleet.balancerError = undefined;
      } catch (error) {
        if (!fleet.signal.aborted && fleet.balancerError !== messageOf(error)) {
          fleet.balancerError = messageOf(error);
          fleet.logger.error(described(error), messageOf(error));
          decide(fleet, { kind: 'balancer', text: messageOf(error) });
        }
        throw error;
      }
    });
  fleet.applying = work;
  // Whoever called hears of a failure; nobody else has to.
  work.catch(() => {});
  return work;
}

function routingOf(fleet: Fleet, routes: Routes): Routing {
  const routed = (name: string, weight: number): RoutedServer[] => {
    const member = fleet.nodes.get(name)?.member;
    return member === undefined ? [] : [{ name, http: member.http, grpc: member.grpc, weight }];
  };
  const nodes = [...fleet.nodes.values()];
  const up = nodes.filter(({ health }) => health === 'up');
  // By cores: which of its tasks a request is about is not known here.
  const everyone = up.length > 0 ? up : nodes;
  const most = Math.max(...everyone.map((node) => cpusOf(node) * node.member.weight));
  return {
    tasks: [...routes].map(([task, list]) => ({
      task,
      servers: list.flatMap(({ server, weight }) => routed(server, weight)),
    })),
    all: everyone.flatMap((node) =>
      routed(node.member.name, Math.max(1, Math.round((100 * cpusOf(node) * node.member.weight) / most))),
    ),
  };
}

async function save(fleet: Fleet): Promise<void> {
  if (fleet.options.save === undefined || fleet.plan === undefined) return;
  try {
    await fleet.options.save(recordOf(fleet));
    fleet.saveError = undefined;
  } catch (error) {
    if (fleet.saveError !== messageOf(error)) fleet.logger.error(described(error), messageOf(error));
    fleet.saveError = messageOf(error);
  }
}

function recordOf(fleet: Fleet): FleetRecord {
  const { clock, options } = fleet;
  const { reason, utilization, accuracy, unplaced, unservedRps, cells } = fleet.plan!;
  const epochOf = (nowMs: number) => Math.round(clock.epochMs() - (clock.nowMs() - nowMs));
  const weights = new Map(
    [...(fleet.applied ?? [])].flatMap(([task, list]) =>
      list.map(({ server, weight }) => [JSON.stringify([server, task]), weight] as const),
    ),
  );
  const planned = new Map(cells.map((cell) => [JSON.stringify([cell.server, cell.task]), cell.version]));
  return {
    schemaVersion: FLEET_RECORD_SCHEMA_VERSION,
    term: options.term ?? 0,
    savedMs: Math.round(clock.epochMs()),
    plan: { reason, utilization, accuracy, unplaced, unservedRps },
    balancer: {
      kind: options.balancer?.kind ?? 'none',
      ...(fleet.balancerError && { error: fleet.balancerError }),
    },
    servers: [...fleet.nodes.values()].map((node) => ({
      name: node.member.name,
      http: node.member.http,
      health: node.health,
      ...(node.health === 'down' && { trouble: messageOf(node.watch.failure) }),
      cpus: cpusOf(node),
      utilization: node.health === 'up' ? node.watch.seen?.utilization : undefined,
      memoryBytes: node.member.memoryBytes,
      change: node.change && textOf(node.change),
      tasks: fleet.tasks.flatMap(({ task }) => {
        const key = JSON.stringify([node.member.name, task]);
        const present = node.present[task];
        const plannedVersion = planned.get(key);
        if (present === undefined && plannedVersion === undefined) return [];
        return [
          {
            task,
            version: present?.version,
            sinceMs: present?.sinceMs === undefined ? undefined : epochOf(present.sinceMs),
            plannedVersion,
            weight: weights.get(key) ?? 0,
            demandRps: node.health === 'up' ? (node.watch.seen?.demandRps.get(task) ?? 0) : 0,
          },
        ];
      }),
    })),
    tasks: fleet.tasks.map(({ task }) => {
      const memory = fleet.demand.get(task)?.memory;
      return {
        task,
        demandRps: demandOf(fleet, task),
        levelRps: memory?.levelRps,
        deviationRps: memory?.deviationRps,
      };
    }),
    decisions: fleet.decisions.items(),
  };
}

function decide(fleet: Fleet, what: Omit<FleetDecision, 'atMs'>): void {
  const decision: FleetDecision = { atMs: Math.round(fleet.clock.epochMs()), ...what };
  fleet.decisions.push(decision);
  fleet.options.onDecision?.(decision);
}

async function realSleep(durationMs: number, signal: AbortSignal): Promise<void> {
  await delay(Math.max(0, durationMs), undefined, { signal }).catch(() => {});
}
