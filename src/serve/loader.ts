import { createHash } from 'node:crypto';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { Clock } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import type { StoredVersion } from '../repository/store.ts';
import { InlineLane, MAX_INLINE_BYTES } from './inline-lane.ts';
import type { Lane } from './lane.ts';
import { mayRaisePriority } from './pinning.ts';
import { watchForStarvation } from './starvation.ts';
import { WorkerHandle } from './worker-handle.ts';
import type { DeclaredSpecs, LoadReport } from './worker-messages.ts';

/** A network ready to run. */
export interface LoadedNetwork {
  readonly lane: Lane;
  readonly report: LoadReport;
}

/** A network as ONNX Runtime optimised it, and what its own file says. */
interface OptimizedFile {
  readonly path: string;
  readonly declared: DeclaredSpecs;
}

/** Optimised files that are kept for the next load of the same version. */
export const MAX_OPTIMIZED_FILES = 64;

export interface LoaderOptions {
  /** Threads booted ahead of need. */
  readonly spareCount: number;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Whether priorities may be raised; by default as the system says. */
  readonly isPrivileged?: boolean;
  /** Networks whose inference was measured to be shorter than this run in the thread that has the sockets. Default 0: none. */
  readonly inlineBelowMs?: number;
}

/**
 * Loads networks into fresh threads beside the serving ones. Threads are booted ahead of need, since booting costs more
 * CPU than loading a small network. Where priorities can be raised again, a thread loads and warms up at low priority
 * and is raised to serve. Where not, a throw-away thread at low priority optimises the network into a file, which a
 * thread of normal priority then opens in a few milliseconds; the files are kept as long as the server runs.
 */
export class Loader {
  readonly #spareCount: number;
  readonly #logger: Logger;
  readonly #inlineBelowMs: number;
  readonly #clock: Clock;
  readonly #spares: WorkerHandle[] = [];
  /** By path, the oldest first. */
  readonly #optimizedFiles = new Map<string, OptimizedFile>();
  #isPrivileged: boolean;
  /** Threads that boot or load, with the CPU time that each had when it began, and when it was last looked at. */
  readonly #counted = new Map<WorkerHandle, { readonly sinceMs: number; untilMs: number }>();
  #endedCpuMs = 0;
  #cacheFolder: Promise<string> | undefined;
  #isClosed = false;

  constructor(options: LoaderOptions) {
    this.#spareCount = options.spareCount;
    this.#inlineBelowMs = options.inlineBelowMs ?? 0;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#isPrivileged = options.isPrivileged ?? mayRaisePriority();
    this.refill();
  }

  get isPrivileged(): boolean {
    return this.#isPrivileged;
  }

  /** CPU time that threads have used to boot and to load, as far as the system tells. */
  get cpuMs(): number {
    let sumMs = this.#endedCpuMs;
    for (const [worker, span] of this.#counted) {
      span.untilMs = worker.cpuMs ?? span.untilMs; // It may have ended.
      sumMs += span.untilMs - span.sinceMs;
    }
    return sumMs;
  }

  /**
   * Boots threads for the loads to come; called when a load is done, so as not to compete with it.
   */
  refill(): void {
    while (!this.#isClosed && this.#spares.length < this.#spareCount) {
      this.#spares.push(this.#start(this.#isPrivileged));
    }
  }

  /**
   * @param threads of one inference
   * @param isUrgent nothing serves in its place, so that there is nobody to give way to: at normal priority
   * @throws BonsaiError `load_failed`, `corrupt_repository` … as the worker says
   */
  async load(stored: StoredVersion, threads = 1, isUrgent = false): Promise<LoadedNetwork> {
    const mayBeInline = threads === 1 && this.#inlineBelowMs > 0 && (await isSmall(stored.modelPath));
    const loaded = await this.#loadInThread(stored, threads, isUrgent, mayBeInline);
    if (!mayBeInline) return loaded;
    const path = await this.#optimizedPath(stored);
    try {
      const { serviceMs = Number.POSITIVE_INFINITY } = loaded.report;
      if (serviceMs >= this.#inlineBelowMs) return loaded;
      // It was optimised and measured beside the sockets; what is left is to open the file.
      const lane = await InlineLane.open(path, loaded.report.inputs, this.#clock);
      await loaded.lane.close();
      return { lane, report: loaded.report };
    } finally {
      if (!this.#optimizedFiles.has(path)) await rm(path, { force: true });
    }
  }

  async #loadInThread(
    stored: StoredVersion,
    threads: number,
    isUrgent: boolean,
    keepsOptimized: boolean,
  ): Promise<LoadedNetwork> {
    const request = {
      modelPath: stored.modelPath,
      digest: stored.variant?.digest ?? stored.digest,
      intraOpThreads: threads,
    };
    if (!this.#isPrivileged) {
      const { path, declared } = await this.#optimized(stored);
      const lane = await this.#takeWorker(isUrgent);
      const report = await this.#counting(
        lane,
        lane.load({ ...request, modelPath: path, isOptimized: true, declared }),
      );
      return { lane, report };
    }
    const lane = await this.#takeWorker(isUrgent);
    const endWatch = watchForStarvation(
      () => lane.cpuMs,
      () => lane.raisePriority(),
    );
    try {
      const keepOptimizedAt = keepsOptimized ? await this.#optimizedPath(stored) : undefined;
      const report = await this.#counting(
        lane,
        lane.load({ ...request, isOptimized: false, keepOptimizedAt }),
      );
      if (lane.raisePriority()) return { lane, report };
    } finally {
      endWatch();
    }
    this.#logger.warn(
      'Thread priorities cannot be raised here; networks are optimised into files before they load.',
    );
    this.#isPrivileged = false;
    await lane.close();
    return this.#loadInThread(stored, threads, isUrgent, keepsOptimized);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(
      this.#spares.splice(0).map((spare) =>
        spare.booted.then(
          () => spare.close(),
          () => undefined,
        ),
      ),
    );
    if (this.#cacheFolder !== undefined) await rm(await this.#cacheFolder, { recursive: true, force: true });
  }

  #start(lowPriority: boolean): WorkerHandle {
    const worker = WorkerHandle.start({ lowPriority });
    this.#counting(worker, worker.booted).catch(() => undefined); // Whoever takes it sees the error.
    return worker;
  }

  /** Counts the CPU time of a thread while it does this. */
  async #counting<T>(worker: WorkerHandle, work: Promise<T>): Promise<T> {
    const sinceMs = worker.cpuMs ?? 0; // One that boots is not known yet.
    const span = { sinceMs, untilMs: sinceMs };
    this.#counted.set(worker, span);
    try {
      return await work;
    } finally {
      this.#counted.delete(worker);
      this.#endedCpuMs += (worker.cpuMs ?? span.untilMs) - sinceMs;
    }
  }

  async #takeWorker(isUrgent: boolean): Promise<WorkerHandle> {
    for (let spare = this.#spares.shift(); spare !== undefined; spare = this.#spares.shift()) {
      try {
        if (isUrgent) spare.hurry();
        await spare.booted;
        if (!spare.isLost && (this.#isPrivileged || !spare.isLowPriority)) return spare;
        await spare.close();
      } catch (thrown) {
        this.#logger.warn({ reason: messageOf(thrown) }, 'a spare inference thread was lost');
      }
    }
    const fresh = this.#start(this.#isPrivileged && !isUrgent);
    await fresh.booted;
    return fresh;
  }

  async #optimized(stored: StoredVersion): Promise<OptimizedFile> {
    const path = await this.#optimizedPath(stored);
    const known = this.#optimizedFiles.get(path);
    if (known !== undefined) return known;
    const throwAway = this.#start(true);
    await throwAway.booted;
    const declared = await this.#counting(
      throwAway,
      throwAway.optimize({
        modelPath: stored.modelPath,
        digest: stored.variant?.digest ?? stored.digest,
        isOptimized: false,
        intraOpThreads: 1,
        saveOptimizedTo: path,
      }),
    );
    const file = { path, declared };
    this.#optimizedFiles.set(path, file);
    const [oldest] = this.#optimizedFiles.keys();
    if (this.#optimizedFiles.size > MAX_OPTIMIZED_FILES) {
      this.#optimizedFiles.delete(oldest!);
      await rm(oldest!, { force: true });
    }
    return file;
  }

  /** Where the network as ONNX Runtime has optimised it here is kept as long as the server runs. */
  async #optimizedPath(stored: StoredVersion): Promise<string> {
    this.#cacheFolder ??= mkdtemp(join(tmpdir(), 'bonsai-optimized-'));
    const key = createHash('sha256').update(`${stored.modelPath}\0${stored.identity}`).digest('hex');
    return join(await this.#cacheFolder, `${key}.onnx`);
  }
}

async function isSmall(path: string): Promise<boolean> {
  return (await stat(path)).size <= MAX_INLINE_BYTES;
}
