import type { Logger } from 'pino';
import type { Clock } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import { VersionNotFoundError } from '../repository/errors.ts';
import type { StoredTask, StoredVersion } from '../repository/store.ts';
import { LoadFailedError, NotLoadedError, NotReadyError } from './errors.ts';
import { LiveVersion } from './live-version.ts';
import type { Loader } from './loader.ts';
import { RecentLatencies } from './recent-latencies.ts';
import { warmUp } from './warm-up.ts';

/** Which versions of a task shall be in memory. */
export type VersionSelection =
  | {
      readonly kind: 'specific';
      readonly versions: readonly number[];
      /** How requests that name no version are split among them; undefined: the current version answers all. */
      readonly shares?: ReadonlyMap<number, number>;
    }
  | { readonly kind: 'latest'; readonly count: number }
  | { readonly kind: 'all' };

export type VersionState = 'LOADING' | 'READY' | 'UNLOADING' | 'UNAVAILABLE';

export interface VersionStatus {
  readonly state: VersionState;
  /** Why it is unavailable; of a version that serves, why its last reload failed. */
  readonly reason?: string;
}

export interface ServedModelOptions {
  readonly name: string;
  readonly slots: number;
  readonly loader: Loader;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Threads of one inference. Default 1. */
  readonly threads?: number;
  /** The versions or their lanes have changed: the server may have work for what has just become able to do it. */
  readonly onChange: () => void;
  /** A version has left memory. */
  readonly onReleased: () => void;
}

/** First wait before a version that was given up is tried again; doubled after each further time. */
export const REVIVAL_DELAY_MS = 1_000;

/** A version whose threads keep dying is tried again this often at least: a cause outside may have gone. */
export const MAX_REVIVAL_DELAY_MS = 60_000;

/** A version that has lived so long since it was revived is trusted again: the next wait is the first one's. */
export const REVIVAL_TRUST_MS = 60_000;

/** Triton's reason of a version that was loaded once and is not any more. */
export const UNLOADED = 'unloaded';

/** How many of a task's requests came in, by what became of them at the door. */
export interface Arrivals {
  accepted: number;
  refused: number;
  invalid: number;
}

/** When a version was last given up, and how long it was waited before it was tried again. */
interface GivenUp {
  readonly delayMs: number;
  readonly givenUpMs: number;
}

/**
 * The live versions of a task. A selection loads what is missing beside what serves, then takes over in one step, and
 * lets the versions no longer wanted finish what they promised. If anything cannot be loaded, nothing changes: a
 * version that serves is READY, whatever becomes of an attempt to load it anew.
 */
export class ServedModel {
  readonly name: string;
  readonly arrivals: Arrivals = { accepted: 0, refused: 0, invalid: 0 };
  /** Of all arrivals, those of the batch class. */
  batchArrivals = 0;
  readonly refusals = new Map<string, number>();
  /** Times that a version could not be loaded, or not loaded anew. */
  loadFailures = 0;
  readonly recent = new RecentLatencies();
  readonly #options: ServedModelOptions;
  #live: ReadonlyMap<number, LiveVersion> = new Map();
  #liveVersions: readonly LiveVersion[] = [];
  #current: LiveVersion | undefined;
  #selection: VersionSelection | undefined;
  #threads: number;
  #stored: StoredTask | undefined;
  readonly #statuses = new Map<number, VersionStatus>();
  #change: Promise<unknown> = Promise.resolve();
  /** Changes that were asked for, and the one of them that was done: a later one counts more, however long the earlier took. */
  #turns = 0;
  #latestTurn = 0;
  readonly #retiring = new Set<Promise<void>>();
  /** Versions that were given up and wait to be tried again. */
  readonly #revivals = new Map<number, NodeJS.Timeout>();
  readonly #past = new Map<number, GivenUp>();

  constructor(options: ServedModelOptions) {
    this.name = options.name;
    this.#options = options;
    this.#threads = options.threads ?? 1;
  }

  /** Ascending by number. */
  get liveVersions(): readonly LiveVersion[] {
    return this.#liveVersions;
  }

  /**
   * The version that answers requests which name none: the live one with the highest number. That is Triton's rule,
   * which its clients rely on. In a family version 1 is the most accurate, so of several resident versions the
   * smallest network answers; who wants the most accurate one keeps only it resident or names it in the request.
   */
  get current(): LiveVersion | undefined {
    return this.#current;
  }

  /** The last selection that took effect; a plain load keeps it. */
  get selection(): VersionSelection | undefined {
    return this.#selection;
  }

  get stored(): StoredTask | undefined {
    return this.#stored;
  }

  /** By version, all that were ever asked for. */
  get statuses(): ReadonlyMap<number, VersionStatus> {
    return this.#statuses;
  }

  get isReady(): boolean {
    return this.#current !== undefined;
  }

  /** Whether a version that is wanted was given up and waits to be tried again. */
  get isReviving(): boolean {
    return this.#revivals.size > 0;
  }

  /** Shares of traffic by version, if any were set. */
  get shares(): ReadonlyMap<number, number> | undefined {
    return this.#selection?.kind === 'specific' ? this.#selection.shares : undefined;
  }

  /** Threads of one inference of the versions that are loaded from now on. */
  get threads(): number {
    return this.#threads;
  }

  /**
   * The live version that a request means.
   * @throws NotLoadedError where none was named and none is live; VersionNotFoundError or NotReadyError for a number
   */
  resolve(version: number | undefined): LiveVersion {
    if (version === undefined) {
      if (this.#current !== undefined) return this.#current;
      throw this.#nothingServes();
    }
    const live = this.#live.get(version);
    if (live !== undefined) return live;
    const isKnown =
      this.#statuses.has(version) ||
      this.#stored?.versions.some((entry) => entry.version === version) === true;
    const ready = [...this.#live.keys()];
    const stored = this.#stored?.versions.map((entry) => entry.version) ?? [];
    if (isKnown)
      throw new NotReadyError(
        `Request for model '${this.name}' version ${version}: it is not at ready state; ready: ${ready.join(', ') || 'none'}`,
      );
    throw new VersionNotFoundError(
      this.name,
      version,
      [...new Set([...stored, ...ready])].sort((a, b) => a - b),
    );
  }

  /**
   * Makes the selected versions, and no others, serve. Changes of one task happen one after the other.
   * @param stored the task as it lies in the repository now; files that changed are loaded anew
   * @param threads of one inference; versions that were loaded with others are loaded anew. Default: as before
   * @throws LoadFailedError with the reason; then what served before still does
   */
  async select(stored: StoredTask, selection: VersionSelection, threads?: number): Promise<void> {
    const turn = ++this.#turns;
    const wanted = this.#wantedVersions(stored, selection);
    const letGo = await this.#bring(wanted);
    try {
      await this.#serialized(async () => {
        if (turn < this.#latestTurn)
          throw new LoadFailedError(this.name, 'something else was asked for while its network was fetched');
        await this.#takeOver(stored, selection, wanted, threads ?? this.#threads);
        this.#latestTurn = turn;
      });
    } finally {
      letGo();
    }
  }

  /** Stops serving; requests already promised are answered. Returns before they are. */
  unload(): Promise<void> {
    const turn = ++this.#turns;
    return this.#serialized(async () => {
      this.#latestTurn = turn;
      const retired = this.liveVersions;
      this.#stopRevivals();
      this.#setLive(new Map());
      for (const version of retired) this.#retire(version);
      this.#options.onChange();
    });
  }

  /** Unloads and waits until the memory is free. */
  async close(): Promise<void> {
    await this.unload();
    while (this.#retiring.size > 0) await Promise.all(this.#retiring);
  }

  countRefusal(reason: string): void {
    this.refusals.set(reason, (this.refusals.get(reason) ?? 0) + 1);
  }

  /**
   * Fetches networks that are not here yet before they have their turn: a store that hangs is to hold up no other change.
   * @returns lets them go
   */
  async #bring(wanted: readonly StoredVersion[]): Promise<() => void> {
    const held: (() => void)[] = [];
    const letGo = () => {
      for (const release of held) release();
    };
    for (const entry of wanted) {
      if (entry.hold === undefined || this.#live.has(entry.version)) continue;
      this.#mark(entry.version, { state: 'LOADING' });
      try {
        held.push(await entry.hold());
      } catch (thrown) {
        letGo();
        throw this.#failed(entry.version, thrown);
      }
    }
    return letGo;
  }

  async #takeOver(
    stored: StoredTask,
    selection: VersionSelection,
    wanted: readonly StoredVersion[],
    threads: number,
  ): Promise<void> {
    const next = new Map<number, LiveVersion>();
    const fresh: LiveVersion[] = [];
    try {
      for (const entry of wanted) {
        const live = this.#live.get(entry.version);
        const isSame =
          live !== undefined && live.stored.identity === entry.identity && live.threads === threads;
        const version = isSame ? live : await this.#loadVersion(entry, stored, threads);
        if (isSame) await this.#checkWarmUp(live, stored);
        else fresh.push(version);
        next.set(entry.version, version);
      }
    } catch (thrown) {
      for (const version of fresh) {
        this.#mark(version.version, { state: 'UNAVAILABLE', reason: UNLOADED });
        this.#track(version.retire());
      }
      throw thrown;
    } finally {
      this.#options.loader.refill();
    }
    const retired = this.liveVersions.filter((live) => next.get(live.version) !== live);
    this.#stored = stored;
    this.#selection = selection;
    this.#threads = threads;
    this.#stopRevivals();
    this.#setLive(next);
    for (const version of next.keys()) this.#statuses.set(version, { state: 'READY' });
    for (const version of retired) this.#retire(version);
    this.#options.onChange();
  }

  /** Ascending by number, so that the last one is the current one. */
  #wantedVersions(stored: StoredTask, selection: VersionSelection): StoredVersion[] {
    const available = stored.versions;
    const names = available.map((entry) => entry.version).join(', ') || 'none';
    switch (selection.kind) {
      case 'all':
      case 'latest': {
        const count = selection.kind === 'all' ? Number.POSITIVE_INFINITY : selection.count;
        this.#checkProblems(stored, count);
        if (available.length > 0) return available.slice(-count);
        break;
      }
      case 'specific': {
        const versions = [...new Set(selection.versions)].sort((a, b) => a - b);
        return versions.map((version) => {
          const entry = available.find((candidate) => candidate.version === version);
          if (entry !== undefined) return entry;
          const problem = stored.problems.find((candidate) => candidate.version === version);
          const reason =
            problem?.error.message ?? `there is no version ${version}; the repository has ${names}`;
          if (problem !== undefined || this.#live.has(version)) this.#markFailed(version, reason);
          throw new LoadFailedError(this.name, reason, { cause: problem?.error });
        });
      }
      default:
        selection satisfies never;
    }
    const reasons = stored.problems.map(({ error }) => error.message).join('; ');
    throw new LoadFailedError(this.name, reasons || 'the repository has no version of it');
  }

  /**
   * Of the newest `count` versions, damaged ones are left out; but one that serves is not taken away because its file
   * has come to harm.
   */
  #checkProblems(stored: StoredTask, count: number): void {
    const newest = [...stored.versions, ...stored.problems]
      .map(({ version }) => version)
      .sort((a, b) => b - a)
      .slice(0, count);
    for (const { version, error } of stored.problems) {
      if (!newest.includes(version)) continue;
      this.#markFailed(version, error.message);
      if (this.#live.has(version)) throw new LoadFailedError(this.name, error.message, { cause: error });
    }
  }

  async #loadVersion(entry: StoredVersion, stored: StoredTask, threads: number): Promise<LiveVersion> {
    const { slots, loader, logger, clock, onChange } = this.#options;
    this.#mark(entry.version, { state: 'LOADING' });
    const options = { slots, threads, relativeAccuracy: relativeAccuracyOf(entry, stored) };
    try {
      const live = await LiveVersion.load(entry, options, loader, logger.child({ model: this.name }), clock, {
        onLaneReady: onChange,
        onGivenUp: (reason) => this.#giveUp(entry, reason),
      });
      await this.#warmUp(live, stored);
      logger.info(
        { model: this.name, version: entry.version, loadMs: Math.round(live.loadMs) },
        'version loaded',
      );
      return live;
    } catch (thrown) {
      throw this.#failed(entry.version, thrown);
    }
  }

  /** What does not fit a version that serves would only be found out when it is loaded anew. @throws LoadFailedError */
  async #checkWarmUp(live: LiveVersion, { warmups = [], folder }: StoredTask): Promise<void> {
    try {
      await warmUp([], live.inputs, warmups, folder);
    } catch (thrown) {
      throw new LoadFailedError(this.name, `version ${live.version}: ${messageOf(thrown)}`, {
        cause: thrown,
      });
    }
  }

  async #warmUp(live: LiveVersion, { warmups = [], folder }: StoredTask): Promise<void> {
    if (warmups.length === 0) return;
    const lanes = Array.from({ length: this.#options.slots }, (_, slot) => live.lane(slot));
    try {
      await warmUp(
        lanes.filter((lane) => lane !== undefined),
        live.inputs,
        warmups,
        folder,
      );
    } catch (thrown) {
      this.#track(live.retire());
      throw thrown;
    }
  }

  /** Sets the status of a version, unless it serves: then it stays READY. */
  #mark(version: number, status: VersionStatus): void {
    if (!this.#live.has(version)) this.#statuses.set(version, status);
  }

  /** @returns what to throw */
  #failed(version: number, cause: unknown): LoadFailedError {
    const reason = messageOf(cause);
    this.#markFailed(version, reason);
    return new LoadFailedError(this.name, `version ${version}: ${reason}`, { cause });
  }

  /** Keeps the reason for the index and the log; a version that serves is READY all the same. */
  #markFailed(version: number, reason: string): void {
    this.loadFailures++;
    const isServing = this.#live.has(version);
    this.#statuses.set(
      version,
      isServing
        ? { state: 'READY', reason: `not reloaded, what was loaded before still serves: ${reason}` }
        : { state: 'UNAVAILABLE', reason },
    );
    this.#options.logger.error({ model: this.name, version, reason, isServing }, 'version cannot be loaded');
  }

  /** For who asked for any version while there is none: what is known of each. */
  #nothingServes(): NotLoadedError {
    const loading: number[] = [];
    const failures: string[] = [];
    for (const [version, { state, reason }] of this.#statuses) {
      if (state === 'LOADING') loading.push(version);
      else if (reason !== undefined && reason !== UNLOADED)
        failures.push(`version ${version} failed: ${reason}`);
    }
    return new NotLoadedError(this.name, loading, failures);
  }

  #giveUp(entry: StoredVersion, reason: string): void {
    const live = this.#live.get(entry.version);
    if (live?.stored !== entry) return;
    this.#setLive(new Map([...this.#live].filter(([version]) => version !== entry.version)));
    const delayMs = this.#reviveLater(entry);
    const why = `${reason}; it is tried again in ${delayMs / 1000} s`;
    this.#statuses.set(entry.version, { state: 'UNAVAILABLE', reason: why });
    this.#options.logger.error({ model: this.name, version: entry.version, reason: why }, 'version given up');
    this.#track(live.retire());
    this.#options.onChange();
  }

  /** @returns the wait until the version is loaded again */
  #reviveLater(entry: StoredVersion): number {
    const nowMs = this.#options.clock.nowMs();
    const before = this.#past.get(entry.version);
    const isTrusted = before === undefined || nowMs - before.givenUpMs - before.delayMs > REVIVAL_TRUST_MS;
    const delayMs = isTrusted ? REVIVAL_DELAY_MS : Math.min(2 * before.delayMs, MAX_REVIVAL_DELAY_MS);
    const timer = setTimeout(() => void this.#serialized(() => this.#revive(entry)), delayMs);
    timer.unref();
    this.#past.set(entry.version, { delayMs, givenUpMs: nowMs });
    this.#revivals.set(entry.version, timer);
    return delayMs;
  }

  /** Loads a version that was given up, unless it is not wanted any more. Never rejects. */
  async #revive(entry: StoredVersion): Promise<void> {
    const stored = this.#stored;
    if (!this.#revivals.has(entry.version) || stored === undefined) return;
    try {
      const live = await this.#loadVersion(entry, stored, this.#threads);
      this.#revivals.delete(entry.version);
      const next = [...this.#live, [entry.version, live] as const].sort(([a], [b]) => a - b);
      this.#setLive(new Map(next));
      this.#statuses.set(entry.version, { state: 'READY' });
      this.#options.logger.info({ model: this.name, version: entry.version }, 'version is back');
      this.#options.onChange();
    } catch {
      this.#reviveLater(entry); // Why it failed is in the log and the status already.
    } finally {
      this.#options.loader.refill();
    }
  }

  #stopRevivals(): void {
    for (const timer of this.#revivals.values()) clearTimeout(timer);
    this.#revivals.clear();
  }

  #setLive(live: ReadonlyMap<number, LiveVersion>): void {
    this.#live = live;
    this.#liveVersions = [...live.values()];
    this.#current = this.#liveVersions.at(-1);
    // Counts for shares begin anew, or a version that was away would be given all requests until it had caught up.
    for (const version of this.#liveVersions) version.resetDispatched();
  }

  #retire(live: LiveVersion): void {
    const isReplaced = () => this.#live.has(live.version);
    if (!isReplaced()) this.#statuses.set(live.version, { state: 'UNLOADING' });
    this.#track(
      live.retire().then(() => {
        // It may be loading again by now.
        if (this.#statuses.get(live.version)?.state === 'UNLOADING')
          this.#statuses.set(live.version, { state: 'UNAVAILABLE', reason: UNLOADED });
      }),
    );
  }

  #track(work: Promise<void>): void {
    const tracked: Promise<void> = work
      .catch((err: unknown) => this.#options.logger.error({ err }, 'a version did not end cleanly'))
      .then(() => {
        this.#retiring.delete(tracked);
        this.#options.onReleased();
      });
    this.#retiring.add(tracked);
  }

  #serialized<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#change.then(work);
    this.#change = result.catch(() => undefined);
    return result;
  }
}

/** Accuracy over that of the task's most accurate version; 1 where nothing is known. */
function relativeAccuracyOf(entry: StoredVersion, { versions }: StoredTask): number {
  const accuracy = entry.variant?.accuracy.test;
  if (accuracy === undefined) return 1;
  const best = Math.max(...versions.map(({ variant }) => variant?.accuracy.test ?? 0));
  return best > 0 ? accuracy / best : 1;
}
