import { InvalidArgumentError } from '../../base/errors.ts';
import type { OracleTask, OracleWorkload } from './oracle.ts';
import { type OracleOutcome, outcomeOf, type TaskTotal } from './outcome.ts';

export const interpolatedDefaults = {
  /** Grid of the backlog. */
  stepMs: 1,
  /**
   * Price of a dropped request in units of accuracy × weight. Interpolation spreads it over the cells below the deadline: a
   * price far above what is at stake would keep the schedule far from there.
   */
  dropPrice: 10,
} as const;

/** One byte a request and cell: at this many the choices take 2 GB. */
const MAX_CELLS = 2 ** 31;
/** Choices are kept as bytes. */
const MAX_VERSIONS = 126;

/**
 * A schedule by perfect knowledge for service times that are short against any grid: the value of a backlog is
 * interpolated between cells, so that a service of 0.2 ms counts as 0.2 ms on a grid of 1 ms, where rounding would make it 1
 * or 0. What is chosen cell by cell is then carried out in exact times, so what it comes to could have been got: a lower
 * bound of the optimum, as `oracle`'s feasible one, and a tighter one for such times.
 * @throws InvalidArgumentError for a task without versions, more than 126 of them, or a grid beyond 2³¹ cells
 */
export function interpolatedOracle(
  workload: OracleWorkload,
  tasks: readonly OracleTask[],
  options: { readonly stepMs?: number; readonly dropPrice?: number } = {},
): OracleOutcome {
  const { stepMs, dropPrice } = { ...interpolatedDefaults, ...options };
  const { arrivalMs, task: taskOf, multiplier } = workload;
  const count = arrivalMs.length;
  const cells = Math.ceil(Math.max(...tasks.map(({ sloMs }) => sloMs)) / stepMs) + 1;
  check(tasks, count, cells, stepMs);
  const choices = new Int8Array(count * cells);
  let value = new Float64Array(cells);
  let next = new Float64Array(cells);
  const after = new Float64Array(cells);
  for (let i = count - 1; i >= 0; i--) {
    const { weight, versions, sloMs } = tasks[taskOf[i]!]!;
    drain(value, after, i + 1 < count ? (arrivalMs[i + 1]! - arrivalMs[i]!) / stepMs : 0);
    const row = choices.subarray(i * cells, (i + 1) * cells).fill(-1);
    for (let b = 0; b < cells; b++) next[b] = after[b]! - dropPrice * weight;
    for (let v = 0; v < versions.length; v++) {
      const { accuracy, serviceMs } = versions[v]!;
      const work = (serviceMs * multiplier[i]!) / stepMs;
      serve(next, after, row, v, weight * accuracy, work, sloMs / stepMs);
    }
    [value, next] = [next, value];
  }
  return carryOut(workload, tasks, choices, cells, stepMs);
}

/** next(b) = max(next(b), reward + after(b + work)), and who achieved it. */
function serve(
  next: Float64Array,
  after: Float64Array,
  row: Int8Array,
  version: number,
  reward: number,
  work: number,
  limit: number,
): void {
  const whole = Math.floor(work);
  const part = work - whole;
  const last = after.length - 1;
  const end = Math.min(last - whole, Math.floor(limit - work));
  for (let b = 0; b <= end; b++) {
    const at = b + whole;
    const above = at < last ? after[at + 1]! : after[at]!;
    const value = reward + after[at]! + part * (above - after[at]!);
    if (value > next[b]!) {
      next[b] = value;
      row[b] = version;
    }
  }
}

/** after(b) = value(max(0, b − cells)). */
function drain(value: Float64Array, after: Float64Array, cells: number): void {
  const whole = Math.floor(cells);
  const part = cells - whole;
  for (let b = 0; b < after.length; b++) {
    const at = b - whole;
    if (at <= 0) after[b] = value[0]!;
    else after[b] = value[at]! + part * (value[at - 1]! - value[at]!);
  }
}

/** Follows the choices of the nearest cells in exact times; what would be late there is served by a faster version. */
function carryOut(
  { arrivalMs, task: taskOf, multiplier }: OracleWorkload,
  tasks: readonly OracleTask[],
  choices: Int8Array,
  cells: number,
  stepMs: number,
): OracleOutcome {
  const totals = tasks.map((): TaskTotal => ({ offered: 0, dropped: 0, accuracy: 0 }));
  let freeMs = 0;
  let usedMs = 0;
  for (let i = 0; i < arrivalMs.length; i++) {
    const nowMs = arrivalMs[i]!;
    const backlogMs = Math.max(0, freeMs - nowMs);
    const { versions, sloMs } = tasks[taskOf[i]!]!;
    const total = totals[taskOf[i]!]!;
    const cell = Math.min(cells - 1, Math.round(backlogMs / stepMs));
    const isInTime = (version: number) => backlogMs + versions[version]!.serviceMs * multiplier[i]! <= sloMs;
    let version = choices[i * cells + cell]!;
    if (version < 0 || !isInTime(version)) version = versions.findIndex((_, v) => v > version && isInTime(v));
    total.offered++;
    if (version < 0) {
      total.dropped++;
      continue;
    }
    const tookMs = versions[version]!.serviceMs * multiplier[i]!;
    total.accuracy += versions[version]!.accuracy;
    usedMs += tookMs;
    freeMs = nowMs + backlogMs + tookMs;
  }
  return outcomeOf(totals, usedMs, arrivalMs.at(-1));
}

function check(tasks: readonly OracleTask[], count: number, cells: number, stepMs: number): void {
  for (const { versions } of tasks) {
    if (versions.length === 0 || versions.length > MAX_VERSIONS) {
      throw new InvalidArgumentError(
        `The oracle needs 1 to ${MAX_VERSIONS} versions of each task, got ${versions.length}.`,
      );
    }
  }
  if (count * cells > MAX_CELLS) {
    throw new InvalidArgumentError(
      `The oracle needs ${count} requests × ${cells} cells; use a larger step than ${stepMs} ms or a shorter workload.`,
    );
  }
}
