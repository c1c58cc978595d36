/** Weight of the newest job: a second one is enough to believe it. */
export const PRESSURE_SMOOTHING = 0.3;

/** Of how far single jobs are from it, which takes more of them to know. */
export const DEVIATION_SMOOTHING = 0.05;

/** A job that took so many times what was expected was held up by something of its own: it counts as this at most. */
export const MAX_SURPRISE = 3;

/** Smaller changes of the margin are not worth telling anybody. */
export const LEAST_MARGIN_CHANGE = 0.02;

/**
 * What presses on the CPUs for now and slows all inferences alike: clients that come all at once, other processes, loads.
 * What is learned of single versions follows over some ten inferences; a queue of deadlines cannot wait for that.
 */
export class Pressure {
  #mean = 1;
  #variance = 0;
  #margin = 1;

  /**
   * How many times what is expected of it a job is to be planned with, >= 1: what the last ones took and a deviation more,
   * so that deadlines hold although jobs do not all take as long.
   */
  get margin(): number {
    return this.#margin;
  }

  /** @returns whether the margin has changed */
  learn(expectedMs: number, observedMs: number): boolean {
    if (expectedMs <= 0) return false;
    const surprise = Math.min(observedMs / expectedMs, MAX_SURPRISE) - this.#mean;
    this.#mean += PRESSURE_SMOOTHING * surprise;
    this.#variance += DEVIATION_SMOOTHING * (surprise ** 2 - this.#variance);
    const margin = Math.max(1, this.#mean + Math.sqrt(this.#variance));
    if (Math.abs(margin - this.#margin) < LEAST_MARGIN_CHANGE) return false;
    this.#margin = margin;
    return true;
  }
}
