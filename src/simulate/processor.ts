/** Work that a processor computes: requests, and versions that load. */
export interface Job {
  /** Share of the CPU relative to other jobs, > 0, as of a cgroup or by `nice`. */
  readonly weight: number;
  /** CPU time still to go, in ms of one CPU. */
  remainingMs: number;
  /** CPUs that the job has at the moment, in [0, 1]; the processor keeps it. */
  rate: number;
  done(nowMs: number): void;
}

/** Remaining work below this (in ms) is rounding: times of 10^7 ms leave about 10^-9 ms. */
const ROUNDING_MS = 1e-7;

/**
 * CPUs that are shared by weight among the jobs at hand (generalised processor sharing): each job uses at most one
 * CPU, what one cannot use goes to the others, and no CPU idles while a job could use it. With equal weights and one
 * CPU this is the processor sharing of queueing theory. Source: Parekh and Gallager, "A generalized processor
 * sharing approach to flow control", 1993.
 */
export class Processor {
  readonly cpus: number;
  readonly jobs: Job[] = [];
  #nowMs = 0;
  #usedMs = 0;
  #nextMs = Number.POSITIVE_INFINITY;

  constructor(cpus: number) {
    this.cpus = cpus;
  }

  /** When the next job ends if none comes before; Infinity without jobs. */
  get nextMs(): number {
    return this.#nextMs;
  }

  /** CPU time used until the time of the last `advance`, in ms. */
  get usedMs(): number {
    return this.#usedMs;
  }

  /** Computes until `nowMs`, which must not lie beyond `nextMs`. */
  advance(nowMs: number): void {
    const elapsedMs = nowMs - this.#nowMs;
    this.#nowMs = nowMs;
    if (elapsedMs <= 0) return;
    for (const job of this.jobs) {
      job.remainingMs -= elapsedMs * job.rate;
      this.#usedMs += elapsedMs * job.rate;
    }
  }

  /** Adds a job at `nowMs`. */
  add(job: Job, nowMs: number): void {
    this.advance(nowMs);
    this.jobs.push(job);
    this.#share();
  }

  /** Takes a job away that is not done. */
  remove(job: Job, nowMs: number): void {
    this.advance(nowMs);
    const index = this.jobs.indexOf(job);
    if (index >= 0) this.jobs.splice(index, 1);
    this.#share();
  }

  /** Ends the one job that is done at `nowMs` = `nextMs` (of several the one added first) and calls its `done`. */
  complete(nowMs: number): void {
    this.advance(nowMs);
    let index = 0;
    for (let i = 1; i < this.jobs.length; i++) {
      if (this.jobs[i]!.remainingMs < this.jobs[index]!.remainingMs - ROUNDING_MS) index = i;
    }
    const [job] = this.jobs.splice(index, 1);
    this.#share();
    job?.done(nowMs);
  }

  /** Gives each job its rate: by weight, at most 1, the rest to those that can still take more. */
  #share(): void {
    const { jobs } = this;
    let weights = 0;
    for (const job of jobs) {
      job.rate = 0;
      weights += job.weight;
    }
    let left = Math.min(this.cpus, jobs.length);
    // Each round gives at least one job its whole CPU, or shares out what is left.
    for (let open = jobs.length; open > 0; ) {
      const perWeight = left / weights;
      let full = 0;
      for (const job of jobs) {
        if (job.rate === 0 && job.weight * perWeight >= 1) {
          job.rate = 1;
          left -= 1;
          weights -= job.weight;
          full++;
        }
      }
      open -= full;
      if (full > 0) continue;
      for (const job of jobs) if (job.rate === 0) job.rate = Math.min(1, job.weight * perWeight);
      break;
    }
    this.#nextMs = Number.POSITIVE_INFINITY;
    for (const job of jobs) {
      const endMs = this.#nowMs + Math.max(0, job.remainingMs) / job.rate;
      if (endMs < this.#nextMs) this.#nextMs = endMs;
    }
  }
}
