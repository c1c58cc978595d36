import { createHash } from 'node:crypto';
import { access, mkdtemp, rm } from 'node:fs/promises';
import { getPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { messageOf } from '../base/errors.ts';
import type { StoredVersion } from '../repository/store.ts';
import { mayRaisePriority } from './pinning.ts';
import { WorkerHandle } from './worker-handle.ts';
import type { LoadReport } from './worker-messages.ts';

/** A network ready in its own thread. */
export interface LoadedNetwork {
  readonly worker: WorkerHandle;
  readonly report: LoadReport;
}

/**
 * How long a load may stay at low priority. On a saturated CPU a nice-19 thread gets some 1.5 % of it, and a server
 * that must step down to a faster variant *is* saturated: waiting on would cost more than the load's own CPU time.
 */
export const LOW_PRIORITY_BUDGET_MS = 250;

/**
 * Loads networks into fresh threads beside the serving ones. Threads are booted ahead of need, since booting costs more
 * CPU than loading a small network. Where priorities can be raised again, a thread loads and warms up at low priority
 * and is raised to serve. Where not, a throw-away thread at low priority optimises the network into a file, which a
 * thread of normal priority then opens in a few milliseconds; the files are kept as long as the server runs.
 */
export class Loader {
  readonly #spareCount: number;
  readonly #logger: Logger;
  readonly #basePriority: number;
  readonly #spares: Promise<WorkerHandle>[] = [];
  #isPrivileged: boolean;
  #cacheFolder: Promise<string> | undefined;
  #isClosed = false;

  /** @param options.isPrivileged whether priorities may be raised; by default as the system says */
  constructor(options: { spareCount: number; logger: Logger; isPrivileged?: boolean }) {
    this.#spareCount = options.spareCount;
    this.#logger = options.logger;
    this.#isPrivileged = options.isPrivileged ?? mayRaisePriority();
    this.#basePriority = getPriority();
    this.refill();
  }

  get isPrivileged(): boolean {
    return this.#isPrivileged;
  }

  /**
   * Boots threads for the loads to come; called when a load is done, so as not to compete with it. A thread can lower
   * its priority only once it runs, so booting (some 50 ms of CPU) shares the CPU evenly; it cannot be starved either.
   */
  refill(): void {
    while (!this.#isClosed && this.#spares.length < this.#spareCount) {
      const spare = WorkerHandle.boot({ lowPriority: this.#isPrivileged });
      spare.catch(() => undefined); // Whoever takes it sees the error.
      this.#spares.push(spare);
    }
  }

  /**
   * @param threads of one inference
   * @param isUrgent nothing serves in its place, so that there is nobody to give way to: at normal priority
   * @throws BonsaiError `load_failed`, `corrupt_repository` … as the worker says
   */
  async load(stored: StoredVersion, threads = 1, isUrgent = false): Promise<LoadedNetwork> {
    const request = {
      modelPath: stored.modelPath,
      digest: stored.variant?.digest ?? stored.digest,
      intraOpThreads: threads,
    };
    if (!this.#isPrivileged) {
      const optimized = await this.#optimized(stored);
      const worker = await this.#takeWorker();
      return { worker, report: await worker.load({ ...request, modelPath: optimized, isOptimized: true }) };
    }
    const worker = await this.#takeWorker();
    const raiseLater = setTimeout(() => worker.raisePriority(this.#basePriority), LOW_PRIORITY_BUDGET_MS);
    if (isUrgent) worker.raisePriority(this.#basePriority);
    try {
      const report = await worker.load({ ...request, isOptimized: false });
      if (worker.raisePriority(this.#basePriority)) return { worker, report };
    } finally {
      clearTimeout(raiseLater);
    }
    this.#logger.warn(
      'Thread priorities cannot be raised here; networks are optimised into files before they load.',
    );
    this.#isPrivileged = false;
    await worker.close();
    return this.load(stored, threads, isUrgent);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(
      this.#spares.splice(0).map((spare) =>
        spare.then(
          (worker) => worker.close(),
          () => undefined,
        ),
      ),
    );
    if (this.#cacheFolder !== undefined) await rm(await this.#cacheFolder, { recursive: true, force: true });
  }

  async #takeWorker(): Promise<WorkerHandle> {
    for (let spare = this.#spares.shift(); spare !== undefined; spare = this.#spares.shift()) {
      try {
        const worker = await spare;
        if (!worker.isLost && (this.#isPrivileged || !worker.isLowPriority)) return worker;
        await worker.close();
      } catch (thrown) {
        this.#logger.warn({ reason: messageOf(thrown) }, 'a spare inference thread was lost');
      }
    }
    return WorkerHandle.boot({ lowPriority: this.#isPrivileged });
  }

  async #optimized(stored: StoredVersion): Promise<string> {
    this.#cacheFolder ??= mkdtemp(join(tmpdir(), 'bonsai-optimized-'));
    const key = createHash('sha256').update(`${stored.modelPath}\0${stored.identity}`).digest('hex');
    const path = join(await this.#cacheFolder, `${key}.onnx`);
    const isCached = await access(path).then(
      () => true,
      () => false,
    );
    if (isCached) return path;
    const throwAway = await WorkerHandle.boot({ lowPriority: true });
    await throwAway.optimize({
      modelPath: stored.modelPath,
      digest: stored.variant?.digest ?? stored.digest,
      isOptimized: false,
      intraOpThreads: 1,
      saveOptimizedTo: path,
    });
    return path;
  }
}
