import type { PlannedService } from '../policy/policy.ts';

/** What one look at a server gives: counters since its start, and its state now. */
export interface Scrape {
  readonly atMs: number;
  /** By task, by series (a task may have many: versions, outcomes): requests, refused ones included. */
  readonly requests: ReadonlyMap<string, ReadonlyMap<string, number>>;
  /** When `requests` counts one: as it arrives (Bonsai) or when it is done (Triton). */
  readonly countedAt: 'arrival' | 'end';
  /** The version that answers, by task. */
  readonly serving: ReadonlyMap<string, number>;
  /**
   * Tasks that something is happening to already: the version on its way, or `unnamed` where the server does not
   * say which (it is just starting, or is ending another). They are to be waited for, not to be loaded.
   */
  readonly loading: ReadonlyMap<string, number | 'unnamed'>;
  /** Requests that wait, by task, where the server tells. */
  readonly queued: ReadonlyMap<string, number>;
  /** Of `requests`, those without deadline (the batch class), by task; where the server tells. */
  readonly batchRequests?: ReadonlyMap<string, number>;
  /** By task, by series: requests that were refused, given up or answered late; where the server tells. */
  readonly violations?: ReadonlyMap<string, ReadonlyMap<string, number>>;
  /** By task and version: answers given, and the version's accuracy on test data, where the server tells both. */
  readonly answers?: ReadonlyMap<string, ReadonlyMap<number, VersionAnswers>>;
  /** All versions that can answer, ascending, where the server tells. */
  readonly resident?: ReadonlyMap<string, readonly number[]>;
  /** What the server itself expects of one inference by each version in memory, where it tells. */
  readonly planned?: ReadonlyMap<string, readonly PlannedService[]>;
  /** CPU seconds used by the server; undefined where nobody can tell. */
  readonly cpuSeconds?: number;
  /** Cores given to the server. */
  readonly cpuBudget: number;
  /** Inferences that it computes at a time, where it tells. */
  readonly slots?: number;
  /** Resident memory of the server, where it tells. */
  readonly memoryBytes?: number;
  /** Name of a policy that decides in the server itself, where it tells of one. */
  readonly ownPolicy?: string;
}

export interface VersionAnswers {
  readonly count: number;
  readonly accuracy: number;
}

/** The answers of a task between two looks. */
export interface Answered {
  /** That gave the most of them. */
  readonly version: number;
  /** Mean over the answers, on test data. */
  readonly accuracy: number;
}

/** What happened between two looks. */
export interface Observation {
  /** Arrivals per second of requests that have an objective: the batch class waits for idle time, and is no demand. */
  readonly demandRps: ReadonlyMap<string, number>;
  /** Requests refused, given up or late, by task. */
  readonly violations: ReadonlyMap<string, number>;
  /** Of tasks that had answers, where the server tells: by which versions. */
  readonly answered: ReadonlyMap<string, Answered>;
  /** CPU used over the CPU budget; undefined where either look has no CPU. */
  readonly utilization?: number;
}

/**
 * Rates from two successive looks at one server; undefined if no time passed between them.
 *
 * Where a server counts a request when it is done, arrivals are the requests done plus the growth of the queue: else
 * an overloaded server's demand would look like its capacity.
 * Each series counts by itself: one that went down was restarted, so all of its value is new; one that is new
 * started at 0, unless the whole task is new; one that is gone (an unloaded version) adds nothing. With 1000 → 1030 on version 1 and a new
 * series of version 2 at 5, after 0.5 s: (30 + 5) / 0.5 = 70 req/s.
 */
export function observationBetween(before: Scrape, after: Scrape): Observation | undefined {
  const elapsedS = (after.atMs - before.atMs) / 1000;
  if (elapsedS <= 0) return undefined;
  const demandRps = new Map<string, number>();
  for (const [task, series] of after.requests) {
    // It may have been hidden while the task was unloaded, with all that was counted before: from now on it tells.
    if (!before.requests.has(task)) continue;
    let arrivals = growth(before.requests.get(task), series);
    arrivals -= increase(before.batchRequests?.get(task) ?? 0, after.batchRequests?.get(task) ?? 0);
    if (after.countedAt === 'end') arrivals += (after.queued.get(task) ?? 0) - (before.queued.get(task) ?? 0);
    // A queue that was dropped by a restart looks like departures.
    demandRps.set(task, Math.max(0, arrivals) / elapsedS);
  }
  const violations = new Map<string, number>();
  for (const [task, series] of after.violations ?? [])
    violations.set(task, growth(before.violations?.get(task), series));
  const seen = { demandRps, violations, answered: answeredBetween(before, after) };
  if (before.cpuSeconds === undefined || after.cpuSeconds === undefined) return seen;
  const utilization = increase(before.cpuSeconds, after.cpuSeconds) / (elapsedS * after.cpuBudget);
  return { ...seen, utilization };
}

function answeredBetween(before: Scrape, after: Scrape): Map<string, Answered> {
  const answered = new Map<string, Answered>();
  for (const [task, versions] of after.answers ?? []) {
    let total = 0;
    let sum = 0;
    let most = { version: 0, count: 0 };
    for (const [version, { count: all, accuracy }] of versions) {
      const count = increase(before.answers?.get(task)?.get(version)?.count ?? 0, all);
      total += count;
      sum += count * accuracy;
      if (count > most.count) most = { version, count };
    }
    if (total > 0) answered.set(task, { version: most.version, accuracy: sum / total });
  }
  return answered;
}

function growth(before: ReadonlyMap<string, number> | undefined, after: ReadonlyMap<string, number>): number {
  let sum = 0;
  for (const [key, count] of after) sum += increase(before?.get(key) ?? 0, count);
  return sum;
}

function increase(before: number, after: number): number {
  return after >= before ? after - before : after;
}
