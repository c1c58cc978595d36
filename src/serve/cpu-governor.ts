import type { Clock } from '../base/clock.ts';

/** CPU time that may be used at once after a pause, beyond the quota: short bursts are answered as without one. */
export const BURST_CPU_MS = 20;

/** At least this part of the quota is left to inferences while what is deferred is made up for. */
export const SERVING_SHARE = 0.5;

/** More is not made up for: at the half of half a CPU this takes 8 s. */
export const MAX_DEFERRED_CPU_MS = 2_000;

/**
 * A rest that other work of the process (refusals above all) draws out ends after so many times what it was to take
 * when its job ended, and the remainder is deferred; else a storm of refusals, which no rest makes fewer, would end all
 * inferences.
 */
export const LONGEST_REST_RATIO = 2;

/** It may always be drawn out to this: a few answers that are written meanwhile are no storm. */
export const SHORTEST_LAST_REST_MS = 20;

/** What jobs cost is learned over as many requests or as much computing, since CPU times of threads are told late. */
export const LEARNED_REQUESTS = 16;
export const LEARNED_COMPUTE_MS = 200;

/** While less of the quota is used, what the process does beside requests weighs too much to learn what they cost. */
export const LEARNED_UTILIZATION = 0.5;

/** Weight of the newest of these figures. */
export const COST_SMOOTHING = 0.25;

/** What else the process does between two jobs is no request's making beyond this. */
const MAX_OVERHEAD_CPU_MS = 20;

/** What the process has used of its CPUs, in ms since any one time. */
export interface CpuMeter {
  /** All threads, user and system. */
  processCpuMs(): number;
  /** Of that, what threads that load versions have used; 0 where the system does not tell. */
  loadCpuMs(): number;
}

/** A job that has ended. */
export interface EndedJob {
  /** CPU time where it is known, else time. */
  readonly computeMs: number;
  readonly threads: number;
  readonly requests: number;
}

/** Who sees to it that a process uses no more CPU than its quota: itself, or the system, which stops it amid its work. */
export type QuotaHolder = 'server' | 'system';

/**
 * Holds the process to a share of CPU time without any right: who would start a job asks how long to rest first. A
 * bucket fills at the quota and is emptied by the CPU time that the process has really used, whatever for; a job starts
 * when nothing is owed, and pays after it has run. So an inference of t ms holds its slot for about t / quota.
 * Loads cannot be held up. What they use is deferred: owed apart, and made up for by a part of the quota.
 * Where the system holds it, nobody rests, and only the cost of requests is learned: what they take when they come one by
 * one says nothing of how many can be answered.
 */
export class CpuGovernor {
  readonly #quotaCores: number;
  readonly #slots: number;
  readonly #holder: QuotaHolder;
  readonly #clock: Clock;
  readonly #meter: CpuMeter;
  /** CPU time at hand; negative: owed. */
  #levelMs = BURST_CPU_MS;
  /** CPU time of loads and of what drew rests out, not made up for yet. */
  #deferredMs = 0;
  #lookedMs = 0;
  #processCpuMs = 0;
  #loadCpuMs = 0;
  /** All that was used beside loads. */
  #servingCpuMs = 0;
  /** When the rest ends whatever else is used; undefined: nobody rests. */
  #restLimitMs: number | undefined;
  #learning = { sinceMs: 0, sinceCpuMs: 0, computeMs: 0, requests: 0 };
  #overheadCpuMs = 0;
  #cpuRatio = 1;

  /** @param options.quotaCores CPU time per time, > 0 @param options.slots jobs that may run at a time */
  constructor(options: {
    readonly quotaCores: number;
    readonly slots: number;
    readonly holder?: QuotaHolder;
    readonly clock: Clock;
    readonly meter: CpuMeter;
  }) {
    this.#quotaCores = options.quotaCores;
    this.#slots = options.slots;
    this.#holder = options.holder ?? 'server';
    this.#clock = options.clock;
    this.#meter = options.meter;
    this.restart();
  }

  /** Forgets what was used so far: the start of a server is not made up for. */
  restart(): void {
    this.#look();
    this.#levelMs = BURST_CPU_MS;
    this.#deferredMs = 0;
    this.#restLimitMs = undefined;
    this.#learnAnew();
  }

  /** Jobs have to rest: each is paid for before the next one starts. */
  get rests(): boolean {
    return this.#holder === 'server';
  }

  /** How long to wait before a job may start; 0: it may now. */
  restMs(): number {
    if (!this.rests) return 0;
    this.#look();
    if (this.#levelMs >= 0) {
      this.#restLimitMs = undefined;
      return 0;
    }
    this.#restLimitMs ??= this.#limitOfRest();
    if (this.#lookedMs < this.#restLimitMs) return Math.min(this.#owedMs, this.#restLimitMs - this.#lookedMs);
    this.#defer(-this.#levelMs);
    this.#levelMs = 0;
    this.#restLimitMs = undefined;
    return 0;
  }

  /** Until when a job would have to rest by what was known at the last look. */
  get restUntilMs(): number {
    return this.rests ? this.#lookedMs + this.#owedMs : 0;
  }

  /** To be called when a job has ended: plans the rest that it asks for, and learns what jobs cost. */
  end({ computeMs, threads, requests }: EndedJob): void {
    this.#look();
    this.#restLimitMs = this.#levelMs < 0 ? this.#limitOfRest() : undefined;
    this.#learning.computeMs += computeMs * threads;
    this.#learning.requests += requests;
    this.#learn();
  }

  /**
   * A request was refused or given up, which costs about what an answered one does beside its inference. If it counted to those that are
   * answered, they would seem the dearer the more are refused, and more would be.
   */
  noteRefusal(): void {
    this.#learning.requests++;
  }

  /** CPU time of a request beside its inference. */
  get overheadMs(): number {
    return this.#overheadCpuMs;
  }

  /** How many times its overhead a request holds its slot for it. */
  get overheadPace(): number {
    return Math.max(1, this.#slots / this.#quotaCores);
  }

  /** How many times as long as it computes a job of so many threads holds its slot, the rest included. */
  paceOf(threads: number): number {
    return Math.max(1, (threads * this.#cpuRatio * this.#slots) / this.#quotaCores);
  }

  /** Time until nothing is owed, if nothing is used until then. */
  get #owedMs(): number {
    const owed = -this.#levelMs;
    if (owed <= 0) return 0;
    const ownMs = owed / (this.#quotaCores * SERVING_SHARE);
    const deferredMs = this.#deferredMs / (this.#quotaCores * (1 - SERVING_SHARE));
    return ownMs <= deferredMs ? ownMs : (owed + this.#deferredMs) / this.#quotaCores;
  }

  #defer(cpuMs: number): void {
    this.#deferredMs = Math.min(this.#deferredMs + cpuMs, MAX_DEFERRED_CPU_MS);
  }

  #limitOfRest(): number {
    return this.#lookedMs + Math.max(SHORTEST_LAST_REST_MS, LONGEST_REST_RATIO * this.#owedMs);
  }

  #look(): void {
    const nowMs = this.#clock.nowMs();
    const [processCpuMs, loadCpuMs] = [this.#meter.processCpuMs(), this.#meter.loadCpuMs()];
    const usedMs = Math.max(0, processCpuMs - this.#processCpuMs);
    const loadMs = Math.min(usedMs, Math.max(0, loadCpuMs - this.#loadCpuMs));
    const givenMs = Math.max(0, nowMs - this.#lookedMs) * this.#quotaCores;
    this.#lookedMs = nowMs;
    this.#processCpuMs = processCpuMs;
    this.#loadCpuMs = loadCpuMs;
    this.#servingCpuMs += usedMs - loadMs;

    this.#defer(loadMs);
    const paidBackMs = Math.min(this.#deferredMs, givenMs * (1 - SERVING_SHARE));
    this.#deferredMs -= paidBackMs;
    this.#levelMs += givenMs - paidBackMs - (usedMs - loadMs);
    const spareMs = this.#levelMs - BURST_CPU_MS;
    if (spareMs <= 0) return;
    this.#levelMs = BURST_CPU_MS;
    this.#deferredMs = Math.max(0, this.#deferredMs - spareMs);
  }

  #learn(): void {
    const { sinceMs, sinceCpuMs, computeMs, requests } = this.#learning;
    if (requests < LEARNED_REQUESTS && computeMs < LEARNED_COMPUTE_MS) return;
    const cpuMs = this.#servingCpuMs - sinceCpuMs;
    const givenMs = (this.#lookedMs - sinceMs) * this.#quotaCores;
    this.#learnAnew();
    if (cpuMs < LEARNED_UTILIZATION * givenMs) return;
    const overheadMs = Math.min(Math.max(0, cpuMs - computeMs) / requests, MAX_OVERHEAD_CPU_MS);
    this.#overheadCpuMs += COST_SMOOTHING * (overheadMs - this.#overheadCpuMs);
    // Where others want the same CPUs an inference takes longer than it uses them, and asks for less rest.
    if (computeMs > 0) this.#cpuRatio += COST_SMOOTHING * (Math.min(1, cpuMs / computeMs) - this.#cpuRatio);
  }

  #learnAnew(): void {
    this.#learning = {
      sinceMs: this.#lookedMs,
      sinceCpuMs: this.#servingCpuMs,
      computeMs: 0,
      requests: 0,
    };
  }
}

/** CPU time that all threads of this process have used, user and system. */
export function processCpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** CPU time of this process. @param loadCpuMs of its threads that load versions */
export function processMeter(loadCpuMs: () => number): CpuMeter {
  return { processCpuMs, loadCpuMs };
}
