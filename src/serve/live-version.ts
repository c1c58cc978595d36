import type { Logger } from 'pino';
import type { Clock } from '../base/clock.ts';
import { batchServiceMs, type ResidentVersion } from '../policy/dispatch.ts';
import type { StoredVersion } from '../repository/store.ts';
import type { TensorSpec } from '../repository/types.ts';
import { MAX_INLINE_JOB_MS } from './inline-lane.ts';
import type { Lane } from './lane.ts';
import type { LoadedNetwork, Loader } from './loader.ts';
import { MAX_SURPRISE } from './pressure.ts';
import { newStatistics, type VersionStatistics } from './statistics.ts';

/** Threads of one version that may be lost in a row, without an answer in between, before the version is given up. */
export const MAX_CONSECUTIVE_LOSSES = 3;

/** Weight of the newest inference in the estimate of the service time: follows a change within some ten requests. */
export const SERVICE_TIME_SMOOTHING = 0.1;

/** Weight of the newest job in the estimate of what a request costs beside its inference: it varies more than that. */
export const OVERHEAD_SMOOTHING = 0.02;

/** A pause longer than this is none of the request's making. */
export const MAX_OVERHEAD_MS = 20;

/** Share by which what is expected of a version that was not used for a second nears what the others suggest. */
export const UNUSED_RELAXATION = 0.1;

/**
 * The share of what a request costs beside its inference that a job pays once: turns between computing and sockets. Of CIFAR-10
 * networks of 0.2 to 0.5 ms it is a half to nine tenths.
 */
export const OVERHEAD_SHARED_RATIO = 0.5;

/** Estimate for a network that could not be warmed; its first answer replaces it. */
export const UNKNOWN_SERVICE_MS = 1;

/** Requests that may be merged into one job: longer jobs gain little more and hold up what is more urgent. */
export const MAX_MERGED_ROWS = 8;

/** The share of the time of single requests, with all that they cost, that joint ones have to save. */
export const MIN_JOINT_SAVING = 0.01;

/** What happens to a version on its own account. */
export interface LiveVersionEvents {
  /** A lane works again. */
  readonly onLaneReady: () => void;
  /** It lost its threads too often and answers no more. */
  readonly onGivenUp: (reason: string) => void;
}

/** The record by which a dispatch knows a version; its times follow what is measured. */
type MutableResident = { -readonly [K in keyof ResidentVersion]: ResidentVersion[K] };

/** A version in memory: one lane per slot of the server, each with its own session. Lost lanes are replaced. */
export class LiveVersion {
  readonly stored: StoredVersion;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  readonly loadMs: number;
  /** Resident memory that all its lanes took when they were loaded and warmed. */
  readonly memoryBytes: number;
  /** Threads of one inference. */
  readonly threads: number;
  readonly statistics: VersionStatistics = newStatistics();
  readonly resident: Readonly<ResidentVersion>;
  readonly #resident: MutableResident;
  readonly #isBatchable: boolean;
  readonly #isInline: boolean;
  readonly #lanes: (Lane | undefined)[];
  readonly #loader: Loader;
  readonly #logger: Logger;
  readonly #events: LiveVersionEvents;
  /** Of one inference by itself. */
  #computeMs: number;
  #overheadMs = 0;
  #pace = 1;
  /** The same when it was warmed. */
  readonly #warmMs: number;
  readonly #isWarmed: boolean;
  #isUsed = false;
  #isMeasured = false;
  /**
   * The share of computing that a joint job pays once, negative where such jobs cost time. Measured when the network was loaded, under one load
   * for joint and single ones: of those that are served, joint ones come when there is much to do and all takes longer.
   */
  readonly #jointRatio: number;
  #losses = 0;
  #held = 0;
  #isRetired = false;
  #whenFree: (() => void) | undefined;
  /** Lets the file go, where it was brought here for this version. */
  readonly #releaseFile: () => void;

  /**
   * Loads a version into as many threads as there are slots.
   * @param options.relativeAccuracy over that of the task's most accurate version, in [0, 1]
   * @throws what `Loader.load` throws; nothing stays behind
   */
  static async load(
    stored: StoredVersion,
    options: { readonly slots: number; readonly threads: number; readonly relativeAccuracy: number },
    loader: Loader,
    logger: Logger,
    clock: Clock,
    events: LiveVersionEvents,
  ): Promise<LiveVersion> {
    const startMs = clock.nowMs();
    const networks: LoadedNetwork[] = [];
    // Lost threads are replaced from the file, so that it stays as long as the version serves.
    const releaseFile = (await stored.hold?.()) ?? (() => undefined);
    try {
      for (let slot = 0; slot < options.slots; slot++)
        networks.push(await loader.load(stored, options.threads));
    } catch (thrown) {
      await Promise.all(networks.map(({ lane }) => lane.close()));
      releaseFile();
      throw thrown;
    }
    const file = { loadMs: clock.nowMs() - startMs, release: releaseFile };
    return new LiveVersion(stored, options, networks, file, loader, logger, events);
  }

  private constructor(
    stored: StoredVersion,
    options: { readonly threads: number; readonly relativeAccuracy: number },
    networks: readonly LoadedNetwork[],
    file: { readonly loadMs: number; readonly release: () => void },
    loader: Loader,
    logger: Logger,
    events: LiveVersionEvents,
  ) {
    const { report } = networks[0]!;
    this.stored = stored;
    this.inputs = report.inputs;
    this.outputs = report.outputs;
    this.loadMs = file.loadMs;
    this.#releaseFile = file.release;
    this.memoryBytes = networks.reduce((sum, network) => sum + network.report.memoryBytes, 0);
    this.threads = options.threads;
    this.#loader = loader;
    this.#logger = logger;
    this.#events = events;
    this.#isBatchable = report.batchMs !== undefined;
    this.#isInline = networks.some(({ lane }) => lane.isInline);
    this.#computeMs = report.serviceMs ?? UNKNOWN_SERVICE_MS;
    this.#warmMs = this.#computeMs;
    this.#isWarmed = report.serviceMs !== undefined;
    this.#resident = {
      version: stored.version,
      accuracy: options.relativeAccuracy,
      serviceMs: this.#computeMs,
      batchSharedRatio: 0,
      maxBatch: 1,
      dispatched: 0,
    };
    this.resident = this.#resident;
    this.#jointRatio =
      report.batchMs === undefined ? 0 : sharedRatioOf(report.batchRows, report.batchMs, this.#computeMs);
    this.setOverhead(0);
    this.#lanes = networks.map(({ lane }) => lane);
    this.#lanes.forEach((lane, slot) => {
      this.#watch(lane!, slot);
    });
  }

  get version(): number {
    return this.stored.version;
  }

  /** On its test data; undefined where unknown. */
  get accuracy(): number | undefined {
    return this.stored.variant?.accuracy.test;
  }

  /** Expected time of an inference over so many examples, where nothing else presses on the CPUs. */
  computeMs(rows: number): number {
    return batchServiceMs({ serviceMs: this.#computeMs, batchSharedRatio: this.#sharedRatio }, rows);
  }

  get #sharedRatio(): number {
    return Math.max(0, this.#jointRatio);
  }

  /** Expected time of a request of so many examples, from its dispatch until the next one can begin. */
  serviceMs(rows = 1): number {
    return this.#pace * this.computeMs(rows) + this.#overheadMs;
  }

  /** What a request adds to the work of a slot where so many of its task wait: less than `serviceMs` where joint jobs are made of them. */
  workMs(waiting: number): number {
    const batch = Math.min(this.#resident.maxBatch ?? 1, waiting);
    return batch < 2 ? this.serviceMs() : batchServiceMs(this.#resident, batch) / batch;
  }

  /**
   * What a request that is computed alone costs its slot beside the inference, as measured over all versions.
   * @param pace how many times as long as an inference is expected to compute it holds its slot, >= 1: rests under a CPU
   *   quota, and what else presses on the CPUs
   */
  setOverhead(overheadMs: number, pace = 1): void {
    this.#overheadMs = overheadMs;
    this.#pace = pace;
    const heldMs = pace * this.#computeMs;
    this.#resident.serviceMs = heldMs + overheadMs;
    // s(b) = c · (α + (1 − α) b) + o · (β + (1 − β) b), as s · (α' + (1 − α') b) with s = c + o.
    const sharedMs = this.#sharedRatio * heldMs + OVERHEAD_SHARED_RATIO * overheadMs;
    this.#resident.batchSharedRatio = this.#resident.serviceMs > 0 ? sharedMs / this.#resident.serviceMs : 0;
    // Also the turns between computing and sockets: ResNet-20 saves 3 % of the inferences, and 6 % of all.
    const savedMs = this.#jointRatio * heldMs + OVERHEAD_SHARED_RATIO * overheadMs;
    this.#resident.maxBatch = savedMs >= MIN_JOINT_SAVING * this.#resident.serviceMs ? this.maxJointRows : 1;
  }

  /** Examples of several requests that may be computed as one job, whether or not that pays; 1: none are joined. */
  get maxJointRows(): number {
    if (!this.#isBatchable) return 1;
    if (!this.#isInline) return MAX_MERGED_ROWS;
    const rows = Math.floor(MAX_INLINE_JOB_MS / this.#computeMs);
    return Math.min(Math.max(rows, 1), MAX_MERGED_ROWS);
  }

  /** Requests that this version has promised to answer. */
  get held(): number {
    return this.#held;
  }

  /** The thread for a slot, or undefined while it is being replaced. */
  lane(slot: number): Lane | undefined {
    const lane = this.#lanes[slot];
    return lane?.isLost === true ? undefined : lane;
  }

  /** Learns from an inference over so many examples. */
  observe(rows: number, computeMs: number): void {
    this.#losses = 0;
    const aloneMs = computeMs / batchServiceMs({ serviceMs: 1, batchSharedRatio: this.#sharedRatio }, rows);
    // The warm-up ran beside other work; the first real answer is worth more than it.
    const weight = this.#isMeasured ? SERVICE_TIME_SMOOTHING : 1;
    // What is chosen by its time and once was held up would not be chosen again, and so never be measured again.
    const limitMs = this.#isMeasured || this.#isWarmed ? MAX_SURPRISE * this.#computeMs : aloneMs;
    this.#isMeasured = true;
    this.#isUsed = true;
    this.#computeMs += weight * (Math.min(aloneMs, limitMs) - this.#computeMs);
    this.setOverhead(this.#overheadMs, this.#pace);
  }

  /** How much longer its inferences take than when it was warmed; undefined where that is not known. */
  get slowdown(): number | undefined {
    return this.#isWarmed && this.#isMeasured ? this.#computeMs / this.#warmMs : undefined;
  }

  /**
   * To be called about once a second: where it was not used since, what is expected of it nears what it took when it was
   * warmed times the slowdown that others show.
   */
  relax(slowdown: number): void {
    if (!this.#isUsed && this.#isWarmed)
      this.#computeMs += UNUSED_RELAXATION * (this.#warmMs * slowdown - this.#computeMs);
    this.#isUsed = false;
  }

  /** Counts a request given to it by the server's choice. */
  countDispatched(): void {
    this.#resident.dispatched++;
  }

  /** Begins a new count, for a new plan of shares. */
  resetDispatched(): void {
    this.#resident.dispatched = 0;
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
    await Promise.all(this.#lanes.map((lane) => lane?.close()));
    this.#releaseFile();
  }

  /** Ends a slot's thread as a crash would; for drills and tests. */
  async crashLane(slot: number): Promise<void> {
    await this.#lanes[slot]?.crash();
  }

  /**
   * Replaces its threads by fresh ones, one after the other, the new one ready before the old one ends: gives back
   * memory that has piled up in them.
   */
  async recycle(): Promise<void> {
    for (let slot = 0; slot < this.#lanes.length && !this.#isRetired; slot++) {
      const { lane } = await this.#loader.load(this.stored, this.threads);
      const old = this.#lanes[slot];
      if (this.#isRetired || old === undefined) {
        await lane.close();
        continue;
      }
      this.#lanes[slot] = lane;
      this.#watch(lane, slot);
      this.#events.onLaneReady();
      this.#loader.refill();
      await old.close();
    }
  }

  #watch(lane: Lane, slot: number): void {
    lane.onLost = (error) => {
      if (this.#lanes[slot] !== lane) return; // Replaced already.
      this.#lanes[slot] = undefined;
      this.#losses++;
      this.#logger.error({ version: this.version, slot, reason: error.message }, 'inference worker lost');
      void this.#replace(slot);
    };
    if (lane.isLost) void this.#replace(slot);
  }

  async #replace(slot: number): Promise<void> {
    if (this.#losses >= MAX_CONSECUTIVE_LOSSES) {
      this.#events.onGivenUp(`its inference workers were lost ${this.#losses} times in a row`);
      return;
    }
    try {
      const { lane } = await this.#loader.load(this.stored, this.threads, true);
      if (this.#isRetired && this.#held === 0) {
        await lane.close();
        return;
      }
      this.#lanes[slot] = lane;
      this.#watch(lane, slot);
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

/** One measurement that was disturbed is not to say that joint jobs are worse than they can be, or for nothing. */
const LEAST_SHARED_RATIO = -0.2;
const MOST_SHARED_RATIO = 0.95;

/** s(b) = s(1) · (α + (1 − α) b): from the time of a job follows α, the share that a job pays once. */
function sharedRatioOf(rows: number, jointMs: number, singleMs: number): number {
  const ratio = (rows - jointMs / singleMs) / (rows - 1);
  return Math.min(Math.max(ratio, LEAST_SHARED_RATIO), MOST_SHARED_RATIO);
}
