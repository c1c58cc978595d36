import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../../base/clock.ts';
import { BonsaiError } from '../../base/errors.ts';
import { makeFolder } from '../../base/make-folder.ts';
import { metricsTextOf } from '../../base/metrics-text.ts';
import type { Random } from '../../base/random.ts';
import { parseManifest } from '../manifest.ts';
import { isTaskName } from '../names.ts';
import { listFolders, listTasks, readTask, type StoredTask, writeDescription } from '../store.ts';
import type { TaskStore } from '../task-store.ts';
import { type FetchOptions, fetchNetwork } from './fetch-network.ts';
import { manifestKey } from './layout.ts';
import type { NetworkCache } from './network-cache.ts';
import type { ObjectStore } from './object-store.ts';
import { s3Text } from './s3-url.ts';
import { StoreError } from './store-error.ts';

export interface MirrorOptions {
  readonly store: ObjectStore;
  /** For the descriptions of tasks; belongs to this URL alone. */
  readonly folder: string;
  readonly cache: NetworkCache;
  readonly clock: Clock;
  /** For how networks are brought here. */
  readonly fetch?: Pick<FetchOptions, 'retriesMs' | 'stallMs'>;
  /** Ends downloads that are under way. */
  readonly signal?: AbortSignal;
}

/** How things stand between here and the bucket. */
export interface MirrorStatus {
  /** Whether the last look at the bucket, or the last download, went well. */
  readonly isReachable: boolean;
  /** Since when that is so; milliseconds since the Unix epoch. */
  readonly sinceMs: number;
  /** The last look that saw all of the bucket; undefined if none ever did in this process. */
  readonly seenMs?: number;
  /** What is wrong, where something is. */
  readonly failure?: Error;
  /** Tasks whose description in the bucket is damaged, with the reason: what was there before is served on. */
  readonly damaged: ReadonlyMap<string, string>;
}

export const watchDefaults = {
  /** A wait is up to this part shorter or longer, so that many nodes do not come at once. */
  jitterRatio: 0.2,
  /** Waits double with each failure in a row, up to this many times the interval … */
  maxBackoff: 16,
  /** … and at most this long, unless the interval itself is longer. */
  maxWaitMs: 300_000,
} as const;

/**
 * A try so soon after one that failed would wait as long for the same. A server that starts looks for a version that it
 * can load, and should find the one that is here at once.
 */
export const FAIL_FAST_MS = 1_000;

/**
 * A repository in a bucket, as seen from this machine: descriptions of tasks are kept in a folder and looked at again
 * from time to time, networks come when they are needed. While the bucket cannot be reached, what is here serves.
 */
export class RepositoryMirror implements TaskStore {
  readonly name: string;
  readonly folder: string;
  readonly #options: MirrorOptions;
  /** What the bucket's manifests were when they were last read, by task. */
  readonly #etags = new Map<string, string>();
  readonly #damaged = new Map<string, string>();
  #failure: { readonly sinceMs: number; readonly failure: Error } | undefined;
  /** When the last try failed. */
  #failedMs = 0;
  #reachableSinceMs: number;
  #seenMs: number | undefined;
  #fetchedBytes = 0;
  #corruptFetches = 0;

  private constructor(options: MirrorOptions) {
    this.#options = options;
    this.name = s3Text(options.store.url);
    this.folder = options.folder;
    this.#reachableSinceMs = options.clock.epochMs();
  }

  /**
   * Looks at the bucket once. Where that fails, what was seen of it in earlier times is good enough.
   * @throws StoreError if the bucket cannot be read and was never before
   */
  static async open(options: MirrorOptions): Promise<RepositoryMirror> {
    const mirror = new RepositoryMirror(options);
    await makeFolder(options.folder);
    try {
      await mirror.refresh(options.signal);
    } catch (thrown) {
      if ((await mirror.listTasks()).length === 0) throw thrown;
    }
    return mirror;
  }

  get status(): MirrorStatus {
    const damaged = new Map(this.#damaged);
    const seen = this.#seenMs === undefined ? {} : { seenMs: this.#seenMs };
    if (this.#failure === undefined)
      return { isReachable: true, sinceMs: this.#reachableSinceMs, ...seen, damaged };
    return { isReachable: false, ...this.#failure, ...seen, damaged };
  }

  listTasks(): Promise<string[]> {
    return listTasks(this.folder);
  }

  listFolders(): Promise<string[]> {
    return listFolders(this.folder);
  }

  /** All versions of the manifest: those whose networks are not here yet come when they are held. */
  async readTask(task: string): Promise<StoredTask> {
    const described = await readTask(this.folder, task);
    const { cache } = this.#options;
    const versions = (described.manifest?.variants ?? []).map((variant) => {
      const { version, digest, sizeBytes } = variant;
      const hold = () =>
        cache.hold(digest, sizeBytes, (path) => this.#fetch({ task, digest, sizeBytes }, path));
      return { version, modelPath: cache.pathOf(digest), sizeBytes, identity: digest, variant, hold };
    });
    return { ...described, versions, problems: [] };
  }

  /**
   * Makes the folder say what the bucket says. A description that is damaged is reported, and the one before stays.
   * @throws StoreError, and then nothing was taken away
   */
  async refresh(signal?: AbortSignal): Promise<void> {
    try {
      await this.#refresh(signal);
      this.#seenMs = this.#options.clock.epochMs();
      this.#reached();
    } catch (thrown) {
      signal?.throwIfAborted();
      this.#failed(thrown);
      throw thrown;
    }
  }

  /**
   * Refreshes again and again until the signal, apart from each other by about an interval, longer while it fails.
   * @param onLook told of each look: what it threw, if it failed
   */
  async watch(
    intervalMs: number,
    random: Random,
    onLook: (failure?: unknown) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const { jitterRatio, maxBackoff, maxWaitMs } = watchDefaults;
    let failures = 0;
    while (!signal.aborted) {
      const longestMs = Math.max(intervalMs, Math.min(intervalMs * maxBackoff, maxWaitMs));
      const backedOffMs = Math.min(intervalMs * 2 ** failures, longestMs);
      await wait(backedOffMs * (1 + jitterRatio * (2 * random.uniform() - 1)), signal);
      if (signal.aborted) return;
      try {
        await this.refresh(signal);
        failures = 0;
        onLook();
      } catch (thrown) {
        if (signal.aborted) return;
        failures++;
        onLook(thrown);
      }
    }
  }

  /** Metrics in Prometheus' text format. */
  metricsText(): string {
    const { cache } = this.#options;
    const { isReachable, sinceMs, seenMs, damaged } = this.status;
    const rows: [name: string, type: 'gauge' | 'counter', help: string, value: number][] = [
      [
        'up',
        'gauge',
        'Whether the bucket of the repository could be reached at the last try',
        isReachable ? 1 : 0,
      ],
      ['up_since_timestamp_seconds', 'gauge', 'Since when it can or cannot be reached', sinceMs / 1000],
      ['seen_timestamp_seconds', 'gauge', 'When all of it was last seen; 0: never', (seenMs ?? 0) / 1000],
      ['damaged_tasks', 'gauge', 'Tasks whose description in the bucket is damaged', damaged.size],
      [
        'corrupt_fetches_total',
        'counter',
        'Networks that came with another digest than the manifest has',
        this.#corruptFetches,
      ],
      ['fetched_bytes_total', 'counter', 'Bytes of networks that were fetched', this.#fetchedBytes],
      ['cache_bytes', 'gauge', 'Bytes of networks that are kept here', cache.bytes],
      [
        'cache_evictions_total',
        'counter',
        'Networks that were removed from here to make room',
        cache.evictions,
      ],
    ];
    return metricsTextOf(
      rows.map(([name, type, help, value]) => ({
        name: `bonsai_repository_${name}`,
        type,
        help,
        series: [{ labels: {}, value }],
      })),
    );
  }

  async #refresh(signal: AbortSignal | undefined): Promise<void> {
    const { store } = this.#options;
    const names = (await store.listFolders(signal)).filter(isTaskName);
    const present = new Set<string>();
    for (const task of names) {
      const key = manifestKey(task);
      const knownEtag = (await this.#hasDescription(task)) ? this.#etags.get(task) : undefined;
      const read = await store.read(key, { knownEtag, signal });
      if (read === undefined) continue; // Not a task, or one whose first version is being published.
      present.add(task);
      if (read === 'unchanged') continue;
      try {
        const { manifest } = parseManifest(new TextDecoder().decode(read.bytes), s3Text(store.url, key));
        if (manifest.task !== task)
          throw new BonsaiError(
            'corrupt_repository',
            `${s3Text(store.url, key)} describes "${manifest.task}".`,
          );
        await writeDescription(this.folder, manifest);
        this.#damaged.delete(task);
        this.#etags.set(task, read.etag);
      } catch (thrown) {
        if (!(thrown instanceof BonsaiError) || thrown.code !== 'corrupt_repository') throw thrown;
        this.#damaged.set(task, thrown.message);
        this.#etags.delete(task);
      }
    }
    for (const task of await this.listTasks()) {
      if (present.has(task)) continue;
      await rm(join(this.folder, task), { recursive: true, force: true });
      this.#etags.delete(task);
    }
    for (const task of this.#damaged.keys()) if (!present.has(task)) this.#damaged.delete(task);
  }

  async #hasDescription(task: string): Promise<boolean> {
    return readFile(join(this.folder, task, 'bonsai.json')).then(
      () => true,
      () => false,
    );
  }

  async #fetch(wanted: { task: string; digest: string; sizeBytes: number }, path: string): Promise<void> {
    const { store, fetch, signal } = this.#options;
    try {
      const failure = this.#failure;
      if (failure !== undefined && this.#options.clock.nowMs() - this.#failedMs < FAIL_FAST_MS)
        throw failure.failure;
      await fetchNetwork(store, wanted, path, {
        ...fetch,
        // That the store is away is known: whoever waits for the network should not do so for long.
        ...(failure !== undefined && { retriesMs: [] }),
        signal,
        onBytes: (count) => {
          this.#fetchedBytes += count;
        },
      });
      this.#reached();
    } catch (thrown) {
      if (thrown instanceof StoreError && thrown !== this.#failure?.failure) this.#failed(thrown);
      else if (thrown instanceof BonsaiError && thrown.code === 'corrupt_repository') this.#corruptFetches++;
      if (this.#failure === undefined || !(thrown instanceof StoreError)) throw thrown;
      const since = new Date(this.#failure.sinceMs).toISOString();
      throw new StoreError(
        thrown.problem,
        `The network is not in the cache of this machine, and ${this.name} cannot be read since ${since}: ${thrown.message}`,
        { cause: thrown },
      );
    }
  }

  #reached(): void {
    if (this.#failure !== undefined) this.#reachableSinceMs = this.#options.clock.epochMs();
    this.#failure = undefined;
  }

  #failed(thrown: unknown): void {
    const sinceMs = this.#failure?.sinceMs ?? this.#options.clock.epochMs();
    this.#failedMs = this.#options.clock.nowMs();
    this.#failure = { sinceMs, failure: thrown instanceof Error ? thrown : new Error(String(thrown)) };
  }
}

/** Ends early, without an error, at the signal. Holds no process up. */
function wait(delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, delayMs).unref();
    signal.addEventListener('abort', done, { once: true });
  });
}
