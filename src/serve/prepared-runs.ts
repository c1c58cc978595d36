import type { PreparedRun, PreparedSession } from '../engine/prepared-session.ts';

/** Inferences before a version takes over: the first allocates, the second plans memory, the third is typical. */
export const WARMUP_RUNS = 3;

/** Shapes kept prepared: those of the small batches that requests are merged to. */
export const MAX_PREPARED_RUNS = 8;

/** Runs of a session prepared for the shapes that come, the most recent ones kept. */
export class PreparedRuns {
  readonly #session: PreparedSession;
  readonly #runs = new Map<string, PreparedRun>();

  constructor(session: PreparedSession) {
    this.#session = session;
  }

  /** @param shapes of the inputs in the network's order */
  for(shapes: readonly (readonly number[])[]): PreparedRun {
    const key = JSON.stringify(shapes);
    let run = this.#runs.get(key);
    if (run === undefined) {
      run = this.#session.prepare(shapes);
      if (this.#runs.size >= MAX_PREPARED_RUNS) this.#runs.delete(this.#runs.keys().next().value!);
      this.#runs.set(key, run);
    }
    return run;
  }
}
