import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../base/clock.ts';
import { BonsaiError, type ErrorCode, messageOf } from '../base/errors.ts';
import type { Action, CpuSample, Decision, DemandSample, Policy, PolicyState } from '../policy/policy.ts';
import { frontierOf } from '../repository/frontier.ts';
import type { TaskManifest, Variant } from '../repository/types.ts';
import { type BoundedList, boundedList } from './bounded-list.ts';
import { observationBetween, type Scrape } from './observe.ts';
import type { ServerAdapter } from './server-adapter.ts';

export interface LoopOptions {
  /** Each is observed and decided about by itself. The caller closes them. */
  readonly servers: readonly ServerAdapter[];
  readonly policy: Policy;
  readonly objective: Objective;
  readonly clock: Clock;
  /** Ends the loop; switches under way are given up. */
  readonly signal: AbortSignal;
  readonly onDecision?: (record: DecisionRecord) => void;
  readonly logger?: Logger;
  /** Time between looks; by default the policy's, else `loopDefaults.periodMs`. */
  readonly periodMs?: number;
  /** Keeps the latest decisions of all servers for whoever shows them; see `decisionLog`. */
  readonly decisions?: BoundedList<DecisionRecord>;
  /** Waits; replaced where time is simulated. Must return at once when the signal aborts. */
  readonly sleep?: (durationMs: number, signal: AbortSignal) => Promise<void>;
}

/** What the policy is to aim at. */
export interface Objective {
  /** The tasks to decide about, as their repository describes them. */
  readonly tasks: readonly TaskManifest[];
  /** By task; 1 where absent. */
  readonly weights?: Readonly<Record<string, number>>;
  /** For tasks whose manifest has none. */
  readonly sloMs?: number;
  /** The target whose profiles count; by default a variant's most recent one. */
  readonly fingerprint?: string;
}

export interface DecisionRecord extends Decision {
  readonly server: string;
  readonly atMs: number;
}

/** What the loop says of its doings; a pino logger fits. */
export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export const loopDefaults = {
  /** The thesis samples every second. */
  periodMs: 1_000,
  /** Ten minutes at one sample a second; the longest window of a policy is one minute. */
  historyCapacity: 600,
  /** A quarter of an hour of decisions of one server. */
  decisionCapacity: 900,
  /** A switch that failed is not tried again sooner, however often the policy asks. */
  retryAfterMs: 5_000,
  /** A notice that was not repeated for this long is over; the next one is told again. */
  noticeClearMs: 60_000,
  /** A manifest without an objective, nor one given: the thesis' 400 ms. */
  sloMs: 400,
} as const;

/** A list for `LoopOptions.decisions`. */
export function decisionLog(capacity: number = loopDefaults.decisionCapacity): BoundedList<DecisionRecord> {
  return boundedList(capacity);
}

/**
 * The control loop: observe, decide, act; once every period for every server, until the signal aborts.
 * A server that cannot be observed, a switch that fails and a policy that throws are logged and never end it.
 */
export async function runLoop(options: LoopOptions): Promise<void> {
  const settings = settingsOf(options);
  await Promise.all(options.servers.map((server) => control(newWatch(server), settings)));
}

async function control(watch: Watch, settings: Settings): Promise<void> {
  const { clock, signal, periodMs, sleep } = settings;
  const startMs = clock.nowMs();
  for (let tick = 1; !signal.aborted; tick++) {
    if (await observe(watch, settings)) {
      const decision = decide(watch, settings);
      if (decision !== undefined) act(watch, decision.actions, settings);
    }
    // On a fixed grid, so that the time a look takes does not add up; grid points that were missed are left out.
    tick = Math.max(tick, Math.floor((clock.nowMs() - startMs) / periodMs) + 1);
    const waitMs = startMs + tick * periodMs - clock.nowMs();
    if (!signal.aborted) await sleep(waitMs, signal);
  }
  await watch.acting;
}

/** All that the loop remembers of one server. */
interface Watch {
  readonly server: ServerAdapter;
  readonly cpu: BoundedList<CpuSample>;
  readonly demand: Map<string, BoundedList<DemandSample>>;
  scrape?: Scrape;
  lastChangeMs?: number;
  memory?: unknown;
  /** Switches decided and not yet done, by task. */
  readonly pending: Map<string, number>;
  /** Settles when the switches decided so far are done; they run one after another. */
  acting: Promise<void>;
  /** By task: what succeeded last, and when; truer than a look that began before. */
  readonly done: Map<string, { readonly toVersion: number; readonly atMs: number }>;
  /** By task: what failed last, and when. */
  readonly failed: Map<string, { readonly toVersion: number; readonly atMs: number }>;
  /** Tasks not ready yet at the last look; see `tellWaiting`. */
  waiting: ReadonlySet<string>;
  /** Troubles that were reported and are not over. */
  readonly troubles: Set<'unreachable' | 'policy' | 'cpu'>;
  noticeMs?: number;
}

function newWatch(server: ServerAdapter): Watch {
  return {
    server,
    cpu: boundedList<CpuSample>(loopDefaults.historyCapacity),
    demand: new Map(),
    pending: new Map(),
    acting: Promise.resolve(),
    done: new Map(),
    failed: new Map(),
    waiting: new Set(),
    troubles: new Set(),
  };
}

/** Takes one look and extends the histories. @returns whether the server could be seen */
async function observe(watch: Watch, { signal, logger, tasks }: Settings): Promise<boolean> {
  const server = watch.server.name;
  let scrape: Scrape;
  try {
    scrape = await watch.server.observe(
      signal,
      tasks.map(({ task }) => task),
    );
  } catch (error) {
    if (!signal.aborted && !watch.troubles.has('unreachable')) {
      watch.troubles.add('unreachable');
      logger.error(
        { server, ...described(error) },
        `Cannot observe ${server}, trying on: ${messageOf(error)}`,
      );
    }
    return false;
  }
  if (watch.troubles.delete('unreachable')) logger.info({ server }, `${server} can be observed again.`);
  if (scrape.cpuSeconds === undefined && !watch.troubles.has('cpu')) {
    watch.troubles.add('cpu');
    logger.warn(
      { server },
      `${server} does not tell its CPU: policies that need it will stay where they are.`,
    );
  }
  const seen = watch.scrape && observationBetween(watch.scrape, scrape);
  watch.scrape = scrape;
  if (seen === undefined) return true;
  const { atMs } = scrape;
  for (const { task } of tasks) {
    const history = watch.demand.get(task) ?? boundedList<DemandSample>(loopDefaults.historyCapacity);
    watch.demand.set(task, history);
    history.push({ atMs, demandRps: seen.demandRps.get(task) ?? 0 });
  }
  if (seen.utilization !== undefined) watch.cpu.push({ atMs, utilization: seen.utilization });
  return true;
}

/** Asks the policy and records what it says; undefined if it threw, or if there is nothing to ask about yet. */
function decide(watch: Watch, settings: Settings): Decision | undefined {
  const { policy, logger, decisions, onDecision } = settings;
  const server = watch.server.name;
  const waiting = tellWaiting(watch, settings);
  const state = stateOf(watch, settings, waiting);
  if (waiting.size > 0 && state.tasks.length === 0) return undefined;
  let decision: Decision;
  try {
    decision = policy.decide(state);
  } catch (error) {
    if (!watch.troubles.has('policy')) {
      watch.troubles.add('policy');
      logger.error(
        { server, ...described(error) },
        `Policy ${policy.name} failed, nothing is changed: ${messageOf(error)}`,
      );
    }
    return undefined;
  }
  watch.troubles.delete('policy');
  watch.memory = decision.memory;
  const record: DecisionRecord = { server, atMs: state.nowMs, ...decision };
  decisions.push(record);
  const { actions, reason } = decision;
  if (actions.length > 0) logger.info({ server, actions }, reason);
  else logger.debug({ server }, reason);
  tellAdministrators(watch, decision.notice, state.nowMs, logger);
  onDecision?.(record);
  return decision;
}

/**
 * Tasks of which nothing serves and of which the server does not say what will: it is starting, or ends a version.
 * The policy does not see them, else it would take them for tasks that nobody loads. Told once per episode.
 */
function tellWaiting(watch: Watch, { tasks, logger }: Settings): ReadonlySet<string> {
  const server = watch.server.name;
  const waiting = new Set(
    tasks
      .map(({ task }) => task)
      .filter(
        (task) =>
          servingVersionOf(watch, task) === undefined &&
          !watch.pending.has(task) &&
          watch.scrape?.loading.get(task) === 'unnamed',
      ),
  );
  for (const task of waiting) {
    if (!watch.waiting.has(task))
      logger.info({ server, task }, `${task} is not ready on ${server} yet: it is waited for.`);
  }
  watch.waiting = waiting;
  return waiting;
}

/** Logs a notice when its episode begins. */
function tellAdministrators(watch: Watch, notice: string | undefined, nowMs: number, logger: Logger): void {
  if (notice === undefined) return;
  const isNew = watch.noticeMs === undefined || nowMs - watch.noticeMs > loopDefaults.noticeClearMs;
  watch.noticeMs = nowMs;
  if (isNew) logger.warn({ server: watch.server.name, notice: true }, notice);
}

/** Puts switches behind those under way. A task that is being switched already keeps that one. */
function act(watch: Watch, actions: readonly Action[], settings: Settings): void {
  const nowMs = settings.clock.nowMs();
  const accepted = actions.filter((action) => isDue(watch, action, nowMs, settings));
  if (accepted.length === 0) return;
  watch.lastChangeMs = nowMs;
  for (const { task, toVersion } of accepted) watch.pending.set(task, toVersion);
  watch.acting = watch.acting.then(async () => {
    for (const action of accepted) await perform(watch, action, settings);
  });
}

function isDue(
  watch: Watch,
  { task, toVersion }: Action,
  nowMs: number,
  { tasks, logger }: Settings,
): boolean {
  if (watch.pending.has(task)) return false;
  // Somebody else's load: a second one would only queue behind it, and undo it.
  if (watch.scrape?.loading.has(task) === true && servingVersionOf(watch, task) === undefined) return false;
  const failure = watch.failed.get(task);
  if (failure?.toVersion === toVersion && nowMs - failure.atMs < loopDefaults.retryAfterMs) return false;
  const isKnown = tasks.some((known) => known.task === task && known.versions.has(toVersion));
  if (!isKnown) {
    logger.error(
      { server: watch.server.name, task, toVersion },
      `The repository has no version ${toVersion} of ${task}.`,
    );
    watch.failed.set(task, { toVersion, atMs: nowMs });
  }
  return isKnown;
}

/** Never rejects. */
async function perform(watch: Watch, { task, toVersion }: Action, settings: Settings): Promise<void> {
  const { signal, clock, logger } = settings;
  const server = watch.server.name;
  const beginMs = clock.nowMs();
  try {
    signal.throwIfAborted();
    await watch.server.switchVersion(task, toVersion, signal);
    const tookMs = Math.round(clock.nowMs() - beginMs);
    logger.info({ server, task, toVersion, tookMs }, `${server} serves version ${toVersion} of ${task}.`);
    watch.failed.delete(task);
    watch.done.set(task, { toVersion, atMs: clock.nowMs() });
  } catch (error) {
    if (!signal.aborted) {
      watch.failed.set(task, { toVersion, atMs: clock.nowMs() });
      logger.error({ server, task, toVersion, ...described(error) }, messageOf(error));
    }
  } finally {
    watch.pending.delete(task);
  }
}

function stateOf(watch: Watch, { clock, tasks }: Settings, waiting: ReadonlySet<string>): PolicyState {
  const scrape = watch.scrape;
  const present = tasks.filter(({ task }) => !waiting.has(task));
  return {
    nowMs: clock.nowMs(),
    tasks: present.map(({ task, weight, sloMs, frontier }) => ({
      task,
      weight,
      sloMs,
      frontier,
      servingVersion: servingVersionOf(watch, task),
      loadingVersion: watch.pending.get(task) ?? loadingVersionOf(watch, task),
      demand: watch.demand.get(task)?.items() ?? [],
      queued: scrape?.queued.get(task),
    })),
    cpu: watch.cpu.items(),
    lastChangeMs: watch.lastChangeMs,
    cpuBudget: scrape?.cpuBudget ?? 1,
    memory: watch.memory,
  };
}

function servingVersionOf({ scrape, done }: Watch, task: string): number | undefined {
  const latest = done.get(task);
  if (latest !== undefined && (scrape === undefined || scrape.atMs <= latest.atMs)) return latest.toVersion;
  return scrape?.serving.get(task);
}

/** A version that the server loads on its own account or somebody else's. */
function loadingVersionOf({ scrape, done }: Watch, task: string): number | undefined {
  const version = scrape?.loading.get(task);
  const latest = done.get(task);
  // A look from before our own switch was done saw that switch.
  const isPast = latest !== undefined && scrape !== undefined && scrape.atMs <= latest.atMs;
  return version === 'unnamed' || isPast ? undefined : version;
}

function described(error: unknown): { code?: ErrorCode } {
  return error instanceof BonsaiError ? { code: error.code } : {};
}

/** The options with everything decided that does not change during the loop. */
interface Settings {
  readonly policy: Policy;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly logger: Logger;
  readonly periodMs: number;
  readonly decisions: BoundedList<DecisionRecord>;
  readonly onDecision: LoopOptions['onDecision'];
  readonly sleep: (durationMs: number, signal: AbortSignal) => Promise<void>;
  readonly tasks: readonly {
    readonly task: string;
    readonly weight: number;
    readonly sloMs: number;
    readonly frontier: readonly Variant[];
    readonly versions: ReadonlySet<number>;
  }[];
}

function settingsOf(options: LoopOptions): Settings {
  const { policy, objective } = options;
  return {
    policy,
    clock: options.clock,
    signal: options.signal,
    logger: options.logger ?? silent,
    periodMs: options.periodMs ?? policy.periodMs ?? loopDefaults.periodMs,
    decisions: options.decisions ?? decisionLog(),
    onDecision: options.onDecision,
    sleep: options.sleep ?? realSleep,
    tasks: objective.tasks.map((manifest) => ({
      task: manifest.task,
      weight: objective.weights?.[manifest.task] ?? 1,
      sloMs: manifest.sloMs ?? objective.sloMs ?? loopDefaults.sloMs,
      frontier: frontierOf(manifest.variants, policy.metric ?? 'inverseThroughput', objective.fingerprint),
      versions: new Set(manifest.variants.map((variant) => variant.version)),
    })),
  };
}

const silent: Logger = { debug() {}, info() {}, warn() {}, error() {} };

async function realSleep(durationMs: number, signal: AbortSignal): Promise<void> {
  // An abort only means that there is nothing more to wait for.
  await delay(Math.max(0, durationMs), undefined, { signal }).catch(() => {});
}
