import type { Logger } from 'pino';
import type { Clock } from '../base/clock.ts';
import type { StoredVersion } from '../repository/store.ts';
import type { TensorSpec } from '../repository/types.ts';
import type { LoadedNetwork, Loader } from './loader.ts';
import { newStatistics, type VersionStatistics } from './statistics.ts';
import type { WorkerHandle } from './worker-handle.ts';

/** Threads of one version that may be lost in a row, without an answer in between, before the version is given up. */
export const MAX_CONSECUTIVE_LOSSES = 3;

/** Weight of the newest inference in the estimate of the service time: follows a change within some ten requests. */
export const SERVICE_TIME_SMOOTHING = 0.1;

/** Estimate for a network that could not be warmed; its first answer replaces it. */
export const UNKNOWN_SERVICE_MS = 1;

/** What happens to a version on its own account. */
export interface LiveVersionEvents {
  /** A lane works again. */
  readonly onLaneReady: () => void;
  /** It lost its threads too often and answers no more. */
  readonly onGivenUp: (reason: string) => void;
}

/** A version in memory: one thread ("lane") per slot of the server, each with its own session. Lost threads are replaced. */
export class LiveVersion {
  readonly stored: StoredVersion;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  readonly loadMs: number;
  readonly statistics: VersionStatistics = newStatistics();
  readonly #lanes: (WorkerHandle | undefined)[];
  readonly #loader: Loader;
  readonly #logger: Logger;
  readonly #events: LiveVersionEvents;
  #serviceMs: number;
  #isMeasured = false;
  #losses = 0;
  #held = 0;
  #isRetired = false;
  #whenFree: (() => void) | undefined;

  /** Loads a version into as many threads as there are slots. @throws what `Loader.load` throws; nothing stays behind */
  static async load(
    stored: StoredVersion,
    slots: number,
    loader: Loader,
    logger: Logger,
    clock: Clock,
    events: LiveVersionEvents,
  ): Promise<LiveVersion> {
    const startMs = clock.nowMs();
    const networks: LoadedNetwork[] = [];
    try {
      for (let slot = 0; slot < slots; slot++) networks.push(await loader.load(stored));
    } catch (thrown) {
      await Promise.all(networks.map(({ worker }) => worker.close()));
      throw thrown;
    }
    return new LiveVersion(stored, networks, clock.nowMs() - startMs, loader, logger, events);
  }

  private constructor(
    stored: StoredVersion,
    networks: readonly LoadedNetwork[],
    loadMs: number,
    loader: Loader,
    logger: Logger,
    events: LiveVersionEvents,
  ) {
    const { report } = networks[0]!;
    this.stored = stored;
    this.inputs = report.inputs;
    this.outputs = report.outputs;
    this.loadMs = loadMs;
    this.#loader = loader;
    this.#logger = logger;
    this.#events = events;
    this.#serviceMs = report.serviceMs ?? UNKNOWN_SERVICE_MS;
    this.#lanes = networks.map(({ worker }) => worker);
    this.#lanes.forEach((worker, slot) => {
      this.#watch(worker!, slot);
    });
  }

  get version(): number {
    return this.stored.version;
  }

  /** Expected time of one inference at batch 1. */
  get serviceMs(): number {
    return this.#serviceMs;
  }

  /** Requests that this version has promised to answer. */
  get held(): number {
    return this.#held;
  }

  /** The thread for a slot, or undefined while it is being replaced. */
  lane(slot: number): WorkerHandle | undefined {
    const worker = this.#lanes[slot];
    return worker?.isLost === true ? undefined : worker;
  }

  observe(serviceMs: number): void {
    this.#losses = 0;
    // The warm-up ran beside other work; the first real answer is worth more than it.
    const weight = this.#isMeasured ? SERVICE_TIME_SMOOTHING : 1;
    this.#isMeasured = true;
    this.#serviceMs += weight * (serviceMs - this.#serviceMs);
  }

  /** Keeps the version in memory until `release`. */
  hold(): void {
    this.#held++;
  }

  release(): void {
    this.#held--;
    if (this.#held === 0) this.#whenFree?.();
  }

  /** Waits until every promised answer is given, then ends the threads and frees the memory. */
  async retire(): Promise<void> {
    this.#isRetired = true;
    if (this.#held > 0) {
      await new Promise<void>((resolve) => {
        this.#whenFree = resolve;
      });
    }
    await Promise.all(this.#lanes.map((worker) => worker?.close()));
  }

  /** Ends a slot's thread as a crash would; for drills and tests. */
  async crashLane(slot: number): Promise<void> {
    await this.#lanes[slot]?.terminate();
  }

  #watch(worker: WorkerHandle, slot: number): void {
    worker.onLost = (error) => {
      this.#lanes[slot] = undefined;
      this.#losses++;
      this.#logger.error({ version: this.version, slot, reason: error.message }, 'inference worker lost');
      void this.#replace(slot);
    };
    if (worker.isLost) void this.#replace(slot);
  }

  async #replace(slot: number): Promise<void> {
    if (this.#losses >= MAX_CONSECUTIVE_LOSSES) {
      this.#events.onGivenUp(`its inference workers were lost ${this.#losses} times in a row`);
      return;
    }
    try {
      const { worker } = await this.#loader.load(this.stored);
      if (this.#isRetired && this.#held === 0) {
        await worker.close();
        return;
      }
      this.#lanes[slot] = worker;
      this.#watch(worker, slot);
      this.#events.onLaneReady();
      this.#loader.refill();
    } catch (thrown) {
      this.#losses++;
      this.#logger.error(
        { version: this.version, slot, err: thrown },
        'a lost inference worker cannot be replaced',
      );
      await this.#replace(slot);
    }
  }
}
