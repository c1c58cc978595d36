import type { Clock } from '../base/clock.ts';
import { BonsaiError, type ErrorCode, messageOf } from '../base/errors.ts';
import type { CpuSample, DemandSample, Policy, PolicyState, TaskObjective } from '../policy/policy.ts';
import { acceptableOf, frontierOf } from '../repository/frontier.ts';
import type { TaskManifest, Variant } from '../repository/types.ts';
import { type BoundedList, boundedList } from './bounded-list.ts';
import type { Logger } from './logger.ts';
import { type Observation, observationBetween, type Scrape } from './observe.ts';
import type { ResidentVersions } from './resident-versions.ts';
import type { ServerAdapter } from './server-adapter.ts';

export const watchDefaults = {
  /** Ten minutes at one sample a second; the longest window of a policy is one minute. */
  historyCapacity: 600,
  /** A manifest without an objective, nor one given: the thesis' 400 ms. */
  sloMs: 400,
} as const;

/** What the policy is to aim at. */
export interface Objective {
  /** The tasks to decide about, as their repository describes them. */
  readonly tasks: readonly TaskManifest[];
  /** What is asked of single tasks, by name; it counts more than their manifests. */
  readonly byTask?: Readonly<Record<string, TaskObjective>>;
  /** For tasks of which neither their manifest nor `byTask` has one. */
  readonly sloMs?: number;
  /** The target whose profiles count; by default a variant's most recent one. */
  readonly fingerprint?: string;
}

/** What a person has set for a task, against what it was started with and what the policy would do. */
export interface TaskOverride {
  /** The one version that is to answer. */
  readonly version?: number;
  readonly sloMs?: number;
}

/** What a look has shown. */
export interface LookRecord {
  readonly server: string;
  readonly scrape: Scrape;
  readonly seen: Observation;
  /** Time since the look before. */
  readonly spanMs: number;
}

/** A task that is decided about, with what is asked of it. */
export interface WatchedTask {
  readonly task: string;
  readonly weight: number;
  readonly sloMs: number;
  /** For the policy's metric, most accurate first; what is too inaccurate is left out. */
  readonly frontier: readonly Variant[];
  /** All that its repository has. */
  readonly variants: readonly Variant[];
}

/** @param policy whose metric makes the frontier; by default `inverseThroughput` */
export function watchedTasks(objective: Objective, policy?: Pick<Policy, 'metric'>): WatchedTask[] {
  return objective.tasks.map((manifest) => {
    const own = objective.byTask?.[manifest.task];
    const frontier = frontierOf(
      manifest.variants,
      policy?.metric ?? 'inverseThroughput',
      objective.fingerprint,
    );
    return {
      task: manifest.task,
      weight: own?.weight ?? 1,
      sloMs: own?.sloMs ?? manifest.sloMs ?? objective.sloMs ?? watchDefaults.sloMs,
      frontier: acceptableOf(frontier, own?.minAccuracy),
      variants: manifest.variants,
    };
  });
}

/** One change of a server: a task's serving version, or all that it has in memory. */
export type Change =
  | { readonly kind: 'switch'; readonly task: string; readonly toVersion: number }
  | { readonly kind: 'reside'; readonly task: string; readonly versions: readonly number[] };

/** All that the loop remembers of one server. */
export interface Watch {
  readonly server: ServerAdapter;
  /** Samples kept of each history. */
  readonly historyCapacity: number;
  readonly cpu: BoundedList<CpuSample>;
  readonly demand: Map<string, BoundedList<DemandSample>>;
  /** Why the last look failed; undefined if it did not. */
  failure?: unknown;
  scrape?: Scrape;
  seen?: Observation;
  lastChangeMs?: number;
  memory?: unknown;
  /** Changes decided and not yet done, by task. */
  readonly pending: Map<string, Change>;
  /** Settles when the changes decided so far are done; they run one after another. */
  acting: Promise<void>;
  /** By task: what succeeded last, and when; truer than a look that began before. */
  readonly done: Map<string, { readonly change: Change; readonly atMs: number }>;
  /** By task: what failed last, when, and how often in a row. */
  readonly failed: Map<string, { readonly change: Change; readonly atMs: number; readonly times: number }>;
  /** Tasks not ready yet at the last look; see `tellWaiting`. */
  waiting: ReadonlySet<string>;
  /** Troubles that were reported and are not over. */
  readonly troubles: Set<'unreachable' | 'policy' | 'own policy' | 'cpu'>;
}

export function newWatch(
  server: ServerAdapter,
  historyCapacity: number = watchDefaults.historyCapacity,
): Watch {
  return {
    server,
    historyCapacity,
    cpu: boundedList<CpuSample>(historyCapacity),
    demand: new Map(),
    pending: new Map(),
    acting: Promise.resolve(),
    done: new Map(),
    failed: new Map(),
    waiting: new Set(),
    troubles: new Set(),
  };
}

/** What looks at servers need to know. */
export interface Watching {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly logger: Logger;
  readonly tasks: readonly WatchedTask[];
  /** Versions of each task that may be in memory. */
  readonly residency: number;
  /** Told of every look that could be compared with one before. */
  readonly onLook?: (look: LookRecord) => void;
  /** What people have set for single tasks. */
  readonly overrides?: () => ReadonlyMap<string, TaskOverride>;
}

/** Takes one look and extends the histories. @returns whether the server could be seen */
export async function observeServer(
  watch: Watch,
  { signal, logger, tasks, onLook }: Watching,
): Promise<boolean> {
  const server = watch.server.name;
  let scrape: Scrape;
  try {
    scrape = await watch.server.observe(
      signal,
      tasks.map(({ task }) => task),
    );
  } catch (error) {
    watch.failure = error;
    if (!signal.aborted && !watch.troubles.has('unreachable')) {
      watch.troubles.add('unreachable');
      logger.error(
        { server, ...described(error) },
        `Cannot observe ${server}, trying on: ${messageOf(error)}`,
      );
    }
    return false;
  }
  watch.failure = undefined;
  if (watch.troubles.delete('unreachable')) logger.info({ server }, `${server} can be observed again.`);
  if (scrape.cpuSeconds === undefined && !watch.troubles.has('cpu')) {
    watch.troubles.add('cpu');
    logger.warn(
      { server },
      `${server} does not tell its CPU: policies that need it will stay where they are.`,
    );
  }
  const seen = watch.scrape && observationBetween(watch.scrape, scrape);
  const { atMs } = scrape;
  const spanMs = atMs - (watch.scrape?.atMs ?? atMs);
  watch.scrape = scrape;
  watch.seen = seen;
  if (seen === undefined) return true;
  onLook?.({ server, scrape, seen, spanMs });
  for (const { task } of tasks) {
    const history = watch.demand.get(task) ?? boundedList<DemandSample>(watch.historyCapacity);
    watch.demand.set(task, history);
    history.push({ atMs, demandRps: seen.demandRps.get(task) ?? 0 });
  }
  if (seen.utilization !== undefined) watch.cpu.push({ atMs, utilization: seen.utilization });
  return true;
}

/** What a policy may know of the server now. */
export function stateOf(watch: Watch, settings: Watching, waiting: ReadonlySet<string>): PolicyState {
  const { scrape, seen } = watch;
  const { clock, residency, overrides } = settings;
  const byHand = overrides?.();
  const present = settings.tasks
    .filter(({ task }) => !waiting.has(task))
    .map((task) => withOverride(task, byHand?.get(task.task)));
  return {
    nowMs: clock.nowMs(),
    tasks: present.map(({ task, weight, sloMs, frontier }) => ({
      task,
      weight,
      sloMs,
      frontier,
      servingVersion: servingVersionOf(watch, task),
      loadingVersion: loadingVersionOf(watch, task),
      demand: watch.demand.get(task)?.items() ?? [],
      queued: scrape?.queued.get(task),
      ...residentVersionsOf(watch, task),
      residencyLimit: Math.min(residency, frontier.length),
      planned: scrape?.planned?.get(task),
      violations: seen?.violations.get(task),
    })),
    cpu: watch.cpu.items(),
    lastChangeMs: watch.lastChangeMs,
    cpuBudget: scrape?.cpuBudget ?? 1,
    slots: scrape?.slots,
    memory: watch.memory,
  };
}

/** A pin to a version that the repository has no more is none. */
function withOverride(task: WatchedTask, override: TaskOverride | undefined): WatchedTask {
  const pinned = task.variants.find(({ version }) => version === override?.version);
  return {
    ...task,
    sloMs: override?.sloMs ?? task.sloMs,
    frontier: pinned === undefined ? task.frontier : [pinned],
  };
}

export function residentVersionsOf(watch: Watch, task: string): ResidentVersions {
  const pending = watch.pending.get(task);
  const serving = servingVersionOf(watch, task);
  const done = doneSince(watch, task);
  const seen = watch.scrape?.resident?.get(task) ?? [];
  const known = done?.kind === 'reside' ? done.versions : done === undefined ? seen : [];
  const resident = known.length > 0 ? known : serving === undefined ? [] : [serving];
  const loading = pending === undefined ? [] : versionsOf(pending).filter((v) => !resident.includes(v));
  return { resident, loading };
}

/** The version that answers those who name none, as far as it is known. */
export function servingVersionOf(watch: Watch, task: string): number | undefined {
  const done = doneSince(watch, task);
  // Of several versions in memory the highest number serves those that name none.
  return done === undefined ? watch.scrape?.serving.get(task) : versionsOf(done).at(-1);
}

/** What was changed after the last look, which does not show it. */
function doneSince({ scrape, done }: Watch, task: string): Change | undefined {
  const latest = done.get(task);
  return latest !== undefined && (scrape === undefined || scrape.atMs <= latest.atMs)
    ? latest.change
    : undefined;
}

/** The version that a switch brings, or one that the server loads on its own account or somebody else's. */
function loadingVersionOf(watch: Watch, task: string): number | undefined {
  const pending = watch.pending.get(task);
  if (pending !== undefined) return pending.kind === 'switch' ? pending.toVersion : undefined;
  // A look from before our own change was done saw that change.
  if (doneSince(watch, task) !== undefined) return undefined;
  const version = watch.scrape?.loading.get(task);
  return version === 'unnamed' ? undefined : version;
}

/** What the task has in memory after the change. */
export function versionsOf(change: Change): readonly number[] {
  return change.kind === 'switch' ? [change.toVersion] : change.versions;
}

/** The code of an error of ours, for logs. */
export function described(error: unknown): { code?: ErrorCode } {
  return error instanceof BonsaiError ? { code: error.code } : {};
}
