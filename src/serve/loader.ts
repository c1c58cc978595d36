import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import type { Logger } from 'pino';
import type { Clock } from '../base/clock.ts';
import { messageOf } from '../base/errors.ts';
import type { StoredVersion } from '../repository/store.ts';
import { InlineLane, MAX_INLINE_BYTES } from './inline-lane.ts';
import type { Lane } from './lane.ts';
import { type OptimizedFile, OptimizedFiles } from './optimized-files.ts';
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
type Rehearsed = OptimizedFile<NetworkReport>;

export interface LoaderOptions {
  /** Threads booted ahead of need. */
  readonly spareCount: number;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Whether priorities may be raised; by default as the system says. */
  readonly isPrivileged?: boolean;
  /** Networks whose inference was measured to be shorter than this run in the thread that has the sockets. Default 0: none. */
  readonly inlineBelowMs?: number;
  /** CPU time of the process, if those networks are to measure what they use of it. */
  readonly processCpuMs?: (() => number) | undefined;
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
  readonly #processCpuMs: (() => number) | undefined;
  readonly #spares: WorkerHandle[] = [];
  readonly #files = new OptimizedFiles<NetworkReport>();
  /** Rehearses where no thread of low priority can be raised to serve. */
  #rehearser: WorkerHandle | undefined;
  #isPrivileged: boolean;
  /** Threads that boot or load, with the CPU time that each had when it began, and when it was last looked at. */
  readonly #counted = new Map<WorkerHandle, { readonly sinceMs: number; untilMs: number }>();
  #endedCpuMs = 0;
  #isClosed = false;

  constructor(options: LoaderOptions) {
    this.#spareCount = options.spareCount;
    this.#inlineBelowMs = options.inlineBelowMs ?? 0;
    this.#clock = options.clock;
    this.#processCpuMs = options.processCpuMs;
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
    const rehearsed = await this.#rehearsed(stored, isUrgent);
    try {
      const { serviceMs = Number.POSITIVE_INFINITY } = rehearsed.said;
      if (!mayBeInline || serviceMs >= this.#inlineBelowMs)
        return await this.#loadInThread(stored, threads, isUrgent, rehearsed);
      return await this.#openInline(rehearsed, startMs);
    } finally {
      await this.#files.release(rehearsed);
    }
  }

  async #openInline({ path, said: report }: Rehearsed, startMs: number): Promise<LoadedNetwork> {
    const bytesBefore = process.memoryUsage.rss();
    const lane = await InlineLane.open(path, report, {
      clock: this.#clock,
      processCpuMs: this.#processCpuMs,
    });
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
            declared: { inputs: rehearsed.said.inputs, outputs: rehearsed.said.outputs },
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
    await this.#files.close();
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

  async #rehearsed(stored: StoredVersion, isUrgent: boolean): Promise<Rehearsed> {
    return this.#files.take(await keyOf(stored), stored.sizeBytes, (optimizedPath) =>
      this.#rehearse({ ...fileOf(stored), optimizedPath }, isUrgent),
    );
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
    // Others may have been booted meanwhile.
    const isSpare = this.#isPrivileged && this.#spares.length < Math.max(1, this.#spareCount);
    if (this.#isClosed) await worker.close();
    else if (isSpare) this.#spares.unshift(worker);
    else if (!this.#isPrivileged && this.#rehearser === undefined) this.#rehearser = worker;
    else await worker.close();
  }
}

/** Tells a network's file from every other that was there before it, also one of the same size and time. */
async function keyOf({ modelPath, identity }: StoredVersion): Promise<string> {
  const file = await stat(modelPath).then(
    ({ size, mtimeMs, ctimeMs, ino }) => [size, mtimeMs, ctimeMs, ino].join(),
    () => '', // The load will say that it is not there.
  );
  return createHash('sha256').update([modelPath, identity, file].join('\0')).digest('hex');
}

function fileOf(stored: StoredVersion) {
  return { modelPath: stored.modelPath, digest: stored.variant?.digest ?? stored.digest };
}

async function isSmall(path: string): Promise<boolean> {
  return (await stat(path)).size <= MAX_INLINE_BYTES;
}
