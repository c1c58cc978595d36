import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
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
import type { NetworkReport } from './worker-messages.ts';

/** A network ready to run. */
export interface LoadedNetwork {
  readonly lane: Lane;
  readonly report: NetworkReport;
}

/** A network as ONNX Runtime optimised it in a file, and what was found out about it. */
interface Rehearsed {
  readonly path: string;
  readonly report: NetworkReport;
}

/** Of so many versions the optimised files are kept for the next load. */
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
 * and is raised to serve. Where not, and for networks that may run in the thread with the sockets, one at low priority
 * rehearses it first: it optimises the network into a file and measures it. A thread of normal priority then opens the file in a
 * few milliseconds. The files are kept as long as the server runs, so that a version which comes back costs little.
 */
export class Loader {
  readonly #spareCount: number;
  readonly #logger: Logger;
  readonly #inlineBelowMs: number;
  readonly #clock: Clock;
  readonly #spares: WorkerHandle[] = [];
  /** By path, the oldest first. */
  readonly #rehearsed = new Map<string, Rehearsed>();
  /** Rehearses where no thread of low priority can be raised to serve. */
  #rehearser: WorkerHandle | undefined;
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
    if (!mayBeInline && this.#isPrivileged) return this.#loadInThread(stored, threads, isUrgent);
    const startMs = this.#clock.nowMs();
    const { path, report } = await this.#rehearsedOf(stored, isUrgent);
    const { serviceMs = Number.POSITIVE_INFINITY } = report;
    if (!mayBeInline || serviceMs >= this.#inlineBelowMs)
      return this.#loadInThread(stored, threads, isUrgent, { path, report });
    const bytesBefore = process.memoryUsage.rss();
    const lane = await InlineLane.open(path, report.inputs, this.#clock);
    const memoryBytes = Math.max(report.memoryBytes, process.memoryUsage.rss() - bytesBefore);
    return { lane, report: { ...report, memoryBytes, loadMs: this.#clock.nowMs() - startMs } };
  }

  /** @param rehearsed the network is opened as it was optimised */
  async #loadInThread(
    stored: StoredVersion,
    threads: number,
    isUrgent: boolean,
    rehearsed?: Rehearsed,
  ): Promise<LoadedNetwork> {
    const command =
      rehearsed === undefined
        ? { ...fileOf(stored), isOptimized: false, intraOpThreads: threads }
        : {
            modelPath: rehearsed.path,
            isOptimized: true,
            declared: { inputs: rehearsed.report.inputs, outputs: rehearsed.report.outputs },
            intraOpThreads: threads,
          };
    const lane = await this.#takeWorker(isUrgent);
    const endWatch = watchForStarvation(
      () => lane.cpuMs,
      () => lane.raisePriority(),
    );
    try {
      const report = await this.#counting(lane, lane.load(command));
      if (lane.raisePriority()) return { lane, report };
    } finally {
      endWatch();
    }
    this.#logger.warn(
      'Thread priorities cannot be raised here; networks are optimised into files before they load.',
    );
    this.#isPrivileged = false;
    await lane.close();
    return this.load(stored, threads, isUrgent);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const idle = [...this.#spares.splice(0), ...(this.#rehearser === undefined ? [] : [this.#rehearser])];
    await Promise.all(
      idle.map((spare) =>
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

  async #rehearsedOf(stored: StoredVersion, isUrgent: boolean): Promise<Rehearsed> {
    const path = await this.#optimizedPath(stored);
    const known = this.#rehearsed.get(path);
    // Temporary files may be tidied up by others.
    if (known !== undefined && existsSync(path)) return known;
    const report = await this.#rehearse({ ...fileOf(stored), optimizedPath: path }, isUrgent);
    const rehearsed = { path, report };
    this.#rehearsed.set(path, rehearsed);
    const [oldest] = this.#rehearsed.keys();
    if (this.#rehearsed.size > MAX_OPTIMIZED_FILES) {
      this.#rehearsed.delete(oldest!);
      await rm(oldest!, { force: true });
    }
    return rehearsed;
  }

  /** The thread goes on to the next one: to boot another costs more than most rehearsals. */
  async #rehearse(
    command: Parameters<WorkerHandle['rehearse']>[0],
    isUrgent: boolean,
  ): Promise<NetworkReport> {
    const worker = await this.#takeRehearser(isUrgent);
    const endWatch = watchForStarvation(
      () => worker.cpuMs,
      () => worker.raisePriority(),
    );
    let report: NetworkReport;
    try {
      report = await this.#counting(worker, worker.rehearse(command));
    } finally {
      endWatch();
    }
    worker.lowerPriority();
    await this.#keepRehearser(worker);
    return report;
  }

  async #takeRehearser(isUrgent: boolean): Promise<WorkerHandle> {
    if (this.#isPrivileged) return this.#takeWorker(isUrgent);
    const kept = this.#rehearser;
    this.#rehearser = undefined;
    if (kept !== undefined && !kept.isLost) return kept;
    const fresh = this.#start(true);
    await fresh.booted;
    return fresh;
  }

  async #keepRehearser(worker: WorkerHandle): Promise<void> {
    if (this.#isClosed) await worker.close();
    else if (this.#isPrivileged) this.#spares.unshift(worker);
    else if (this.#rehearser === undefined) this.#rehearser = worker;
    else await worker.close();
  }

  /** Where the network as ONNX Runtime has optimised it here is kept as long as the server runs. */
  async #optimizedPath(stored: StoredVersion): Promise<string> {
    this.#cacheFolder ??= mkdtemp(join(tmpdir(), 'bonsai-optimized-'));
    const key = createHash('sha256').update(`${stored.modelPath}\0${stored.identity}`).digest('hex');
    return join(await this.#cacheFolder, `${key}.onnx`);
  }
}

function fileOf(stored: StoredVersion) {
  return { modelPath: stored.modelPath, digest: stored.variant?.digest ?? stored.digest };
}

async function isSmall(path: string): Promise<boolean> {
  return (await stat(path)).size <= MAX_INLINE_BYTES;
}
