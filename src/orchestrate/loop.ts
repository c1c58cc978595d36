import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../base/clock.ts';
import { BonsaiError, messageOf } from '../base/errors.ts';
import { checkedDecision, periodMsOf } from '../policy/checked-decision.ts';
import type { Action, Decision, Policy } from '../policy/policy.ts';
import { type Administrators, administrators } from './administrators.ts';
import { type BoundedList, boundedList } from './bounded-list.ts';
import { type Logger, silentLogger } from './logger.ts';
import { wantedVersions } from './resident-versions.ts';
import type { ServerAdapter } from './server-adapter.ts';
import {
  type Change,
  described,
  type LookRecord,
  newWatch,
  type Objective,
  observeServer,
  residentVersionsOf,
  servingVersionOf,
  stateOf,
  type TaskOverride,
  versionsOf,
  type Watch,
  type WatchedTask,
  watchedTasks,
} from './watch.ts';

export interface LoopOptions {
  /** Each is observed and decided about by itself. The caller closes them. */
  readonly servers: readonly ServerAdapter[];
  readonly policy: Policy;
  readonly objective: Objective;
  readonly clock: Clock;
  /** Ends the loop; switches under way are given up. */
  readonly signal: AbortSignal;
  readonly onDecision?: (record: DecisionRecord) => void;
  /** Told of every look at a server that could be compared with one before. */
  readonly onLook?: (look: LookRecord) => void;
  readonly logger?: Logger;
  /** Who is told when observation and model part; by default the logger. */
  readonly administrators?: Administrators;
  /**
   * How many versions of each task a server may have in memory, for policies that choose them. 1 (the default): the one
   * that serves, which is switched. More need a server that can keep several and a dispatch that chooses among them.
   */
  readonly residency?: number;
  /**
   * What people have set for single tasks, asked for at each look. A pinned version is the only one that the policy sees of
   * its task, and is switched to whatever the policy says.
   */
  readonly overrides?: () => ReadonlyMap<string, TaskOverride>;
  /**
   * Whether a task is the servers' to serve now, asked at each look: what is not is none of the policy's business. By
   * default every task is. Where others load and unload tasks, the policy chooses among versions of what they loaded.
   */
  readonly isHosted?: (task: string) => boolean;
  /** It runs in the server that it decides about; one outside leaves servers alone that have a policy of their own. */
  readonly isInside?: boolean;
  /** Time between looks; by default the policy's, else `loopDefaults.periodMs`. */
  readonly periodMs?: number;
  /** Keeps the latest decisions of all servers for whoever shows them; see `decisionLog`. */
  readonly decisions?: BoundedList<DecisionRecord>;
  /** Waits; replaced where time is simulated. Must return at once when the signal aborts. */
  readonly sleep?: (durationMs: number, signal: AbortSignal) => Promise<void>;
}

export interface DecisionRecord extends Decision {
  readonly server: string;
  readonly atMs: number;
}

export const loopDefaults = {
  /** The thesis samples every second. */
  periodMs: 1_000,
  /** A quarter of an hour of decisions of one server. */
  decisionCapacity: 900,
  /** A switch that failed is not tried again sooner, however often the policy asks; each time it fails again the wait doubles. */
  retryAfterMs: 5_000,
  /** A file may be repaired at any time. */
  longestRetryAfterMs: 60_000,
} as const;

/** A list for `LoopOptions.decisions`. */
export function decisionLog(capacity: number = loopDefaults.decisionCapacity): BoundedList<DecisionRecord> {
  return boundedList(capacity);
}

/**
 * The control loop: observe, decide, act; once every period for every server, until the signal aborts.
 * A server that cannot be observed, a switch that fails and a policy that throws or returns no decision are logged and never end it.
 * @throws BonsaiError `invalid_argument` at once for a policy whose `periodMs` is no time
 */
export async function runLoop(options: LoopOptions): Promise<void> {
  const settings = settingsOf(options);
  await Promise.all(options.servers.map((server) => control(newWatch(server), settings)));
}

async function control(watch: Watch, settings: Settings): Promise<void> {
  const { clock, signal, periodMs, sleep } = settings;
  const startMs = clock.nowMs();
  for (let tick = 1; !signal.aborted; tick++) {
    if ((await observeServer(watch, settings)) && !isLeftAlone(watch, settings)) {
      const decision = decide(watch, settings);
      if (decision !== undefined) act(watch, decision, settings);
    }
    // On a fixed grid, so that the time a look takes does not add up; grid points that were missed are left out.
    tick = Math.max(tick, Math.floor((clock.nowMs() - startMs) / periodMs) + 1);
    const waitMs = startMs + tick * periodMs - clock.nowMs();
    if (!signal.aborted) await sleep(waitMs, signal);
  }
  await watch.acting;
}

/** Two who choose the versions of one server would undo each other's work for ever: it is left to the one inside it. */
function isLeftAlone(watch: Watch, { isInside, logger }: Settings): boolean {
  const policy = isInside ? undefined : watch.scrape?.ownPolicy;
  if (policy === undefined) {
    watch.troubles.delete('own policy');
    return false;
  }
  if (!watch.troubles.has('own policy')) {
    const { name } = watch.server;
    logger.warn(
      { server: name, policy },
      `${name} has a policy of its own (${policy}), so that nothing is changed there. Start it without --policy, or end this orchestrator.`,
    );
  }
  watch.troubles.add('own policy');
  return true;
}

/** Asks the policy and records what it says; undefined if it threw or said nonsense, or if there is nothing to ask about yet. */
function decide(watch: Watch, settings: Settings): Decision | undefined {
  const { policy, logger, decisions, onDecision, administrators: told } = settings;
  const server = watch.server.name;
  const hidden = new Set([...tellWaiting(watch, settings), ...elsewhere(settings)]);
  const state = stateOf(watch, settings, hidden);
  if (hidden.size > 0 && state.tasks.length === 0) return undefined;
  let decision: Decision;
  try {
    decision = withPins(checkedDecision(policy.name, policy.decide(state)), watch, settings);
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
  const { actions, residency = [], reason } = decision;
  if (actions.length + residency.length > 0) logger.info({ server, actions, residency }, reason);
  else logger.debug({ server }, reason);
  told.hear(server, decision.notice);
  onDecision?.(record);
  return decision;
}

/** Tasks that are not these servers' to serve. */
function elsewhere({ tasks, isHosted }: Settings): string[] {
  return tasks.map(({ task }) => task).filter((task) => !isHosted(task));
}

/** Of tasks that are pinned the policy decides nothing: they go where they were pinned to. */
function withPins(decision: Decision, watch: Watch, { overrides, tasks, isHosted }: Settings): Decision {
  const pins = [...overrides()].flatMap(([task, { version }]) =>
    version !== undefined && tasks.some((known) => known.task === task) && isHosted(task)
      ? [{ task, version }]
      : [],
  );
  if (pins.length === 0) return decision;
  const isFree = ({ task }: { readonly task: string }) => !pins.some((pin) => pin.task === task);
  const moves = pins.flatMap(({ task, version }): Action[] => {
    const { resident, loading } = residentVersionsOf(watch, task);
    const isThere = resident.length === 1 && resident[0] === version;
    return isThere || loading.includes(version) ? [] : [{ kind: 'switch', task, toVersion: version }];
  });
  const pinned = pins.map(({ task, version }) => `${task} is pinned to version ${version}`).join(', ');
  return {
    ...decision,
    actions: [...decision.actions.filter(isFree), ...moves],
    residency: decision.residency?.filter(isFree),
    reason: `${decision.reason} By hand: ${pinned}.`,
  };
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

/** Puts changes behind those under way. A task that is being changed already keeps that one. */
function act(watch: Watch, { actions, residency = [] }: Decision, settings: Settings): void {
  const nowMs = settings.clock.nowMs();
  const accepted = [...actions.map(switchOf), ...residencyChanges(watch, residency, settings)].filter(
    (change) => isDue(watch, change, nowMs, settings),
  );
  if (accepted.length === 0) return;
  watch.lastChangeMs = nowMs;
  for (const change of accepted) watch.pending.set(change.task, change);
  watch.acting = watch.acting.then(async () => {
    for (const change of accepted) await perform(watch, change, settings);
  });
}

function switchOf({ task, toVersion }: Action): Change {
  return { kind: 'switch', task, toVersion };
}

/** On a server that holds one version of each task, to have another one in memory is to switch to it. */
function residencyChanges(
  watch: Watch,
  actions: NonNullable<Decision['residency']>,
  { residency }: Settings,
): Change[] {
  const wanted = wantedVersions(actions, (task) => residentVersionsOf(watch, task).resident);
  const keepsSeveral = residency > 1 && watch.server.setResident !== undefined;
  return [...wanted].map(([task, versions]): Change => {
    if (keepsSeveral) return { kind: 'reside', task, versions };
    const loaded = actions.find((action) => action.task === task && action.kind === 'load')?.version;
    return { kind: 'switch', task, toVersion: loaded ?? versions.at(-1)! };
  });
}

function isDue(watch: Watch, change: Change, nowMs: number, { tasks, logger }: Settings): boolean {
  const { task } = change;
  if (watch.pending.has(task)) return false;
  // Somebody else's load: a second one would only queue behind it, and undo it.
  if (watch.scrape?.loading.has(task) === true && servingVersionOf(watch, task) === undefined) return false;
  const failure = watch.failed.get(task);
  const isRetry = failure !== undefined && isSame(failure.change, change);
  if (isRetry && nowMs - failure.atMs < retryAfterMs(failure.times)) return false;
  const known = tasks.find((candidate) => candidate.task === task)?.variants ?? [];
  const unknown = versionsOf(change).filter((wanted) => !known.some(({ version }) => version === wanted));
  if (unknown.length === 0) return true;
  logger.error(
    { server: watch.server.name, task, versions: unknown },
    `The repository has no version ${unknown.join(', ')} of ${task}.`,
  );
  noteFailure(watch, change, nowMs);
  return false;
}

function noteFailure({ failed }: Watch, change: Change, atMs: number): void {
  const before = failed.get(change.task);
  const times = before !== undefined && isSame(before.change, change) ? before.times + 1 : 1;
  failed.set(change.task, { change, atMs, times });
}

function retryAfterMs(times: number): number {
  return Math.min(loopDefaults.longestRetryAfterMs, loopDefaults.retryAfterMs * 2 ** (times - 1));
}

/** Never rejects. */
async function perform(watch: Watch, change: Change, settings: Settings): Promise<void> {
  const { signal, clock, logger } = settings;
  const { task } = change;
  const server = watch.server.name;
  const beginMs = clock.nowMs();
  try {
    signal.throwIfAborted();
    // Let go since it was decided: to load it now would bring it back.
    if (!settings.isHosted(task)) return;
    let done = change;
    let failure: unknown;
    if (change.kind === 'switch') await watch.server.switchVersion(task, change.toVersion, signal);
    else {
      const resided = await reside(watch, change, signal);
      done = { ...change, versions: resided.versions };
      failure = resided.failure;
    }
    const tookMs = Math.round(clock.nowMs() - beginMs);
    const versions = versionsOf(done);
    const what = change.kind === 'switch' ? 'serves version' : 'has in memory versions';
    logger.info({ server, task, versions, tookMs }, `${server} ${what} ${versions.join(', ')} of ${task}.`);
    if (failure === undefined) watch.failed.delete(task);
    else {
      noteFailure(watch, change, clock.nowMs());
      logger.error({ server, task, versions: versionsOf(change), ...described(failure) }, messageOf(failure));
    }
    watch.done.set(task, { change: done, atMs: clock.nowMs() });
  } catch (error) {
    if (!signal.aborted) {
      noteFailure(watch, change, clock.nowMs());
      logger.error({ server, task, versions: versionsOf(change), ...described(error) }, messageOf(error));
    }
  } finally {
    watch.pending.delete(task);
  }
}

/**
 * Has versions loaded together; where that fails, one after another, so that a damaged one does not keep out the others.
 * @returns those in memory now, and why some of the wanted ones are not
 * @throws as `ServerAdapter.setResident`, if not a single one could be added
 */
async function reside(
  watch: Watch,
  { task, versions }: Extract<Change, { kind: 'reside' }>,
  signal: AbortSignal,
): Promise<{ readonly versions: readonly number[]; readonly failure?: unknown }> {
  const { server } = watch;
  try {
    await server.setResident!(task, versions, undefined, signal);
    return { versions };
  } catch (failure) {
    const { resident } = residentVersionsOf(watch, task);
    const added = versions.filter((version) => !resident.includes(version));
    const isOfVersions = failure instanceof BonsaiError && failure.code === 'load_failed';
    if (!isOfVersions || added.length < 2) throw failure;
    let held = versions.filter((version) => resident.includes(version));
    let count = 0;
    for (const version of added) {
      signal.throwIfAborted();
      const wanted = [...held, version].sort((a, b) => a - b);
      try {
        await server.setResident!(task, wanted, undefined, signal);
      } catch {
        continue; // Of what was asked for at first, the failure is told.
      }
      held = wanted;
      count++;
    }
    if (count === 0) throw failure;
    return { versions: held, failure };
  }
}

function isSame(a: Change, b: Change): boolean {
  return a.kind === b.kind && versionsOf(a).join() === versionsOf(b).join();
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
  readonly onLook: LoopOptions['onLook'];
  readonly administrators: Administrators;
  readonly residency: number;
  readonly isHosted: (task: string) => boolean;
  readonly isInside: boolean;
  readonly sleep: (durationMs: number, signal: AbortSignal) => Promise<void>;
  readonly overrides: () => ReadonlyMap<string, TaskOverride>;
  readonly tasks: readonly WatchedTask[];
}

const NO_OVERRIDES: ReadonlyMap<string, TaskOverride> = new Map();

function settingsOf(options: LoopOptions): Settings {
  const { policy, objective, logger = silentLogger } = options;
  return {
    policy,
    clock: options.clock,
    signal: options.signal,
    logger,
    administrators: options.administrators ?? administrators({ logger, clock: options.clock }),
    residency: options.residency ?? 1,
    periodMs: options.periodMs ?? periodMsOf(policy, loopDefaults.periodMs),
    decisions: options.decisions ?? decisionLog(),
    onDecision: options.onDecision,
    onLook: options.onLook,
    overrides: options.overrides ?? (() => NO_OVERRIDES),
    isHosted: options.isHosted ?? (() => true),
    isInside: options.isInside ?? false,
    sleep: options.sleep ?? realSleep,
    tasks: watchedTasks(objective, policy),
  };
}

async function realSleep(durationMs: number, signal: AbortSignal): Promise<void> {
  // An abort only means that there is nothing more to wait for.
  await delay(Math.max(0, durationMs), undefined, { signal }).catch(() => {});
}
