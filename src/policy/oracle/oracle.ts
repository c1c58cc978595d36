import { InvalidArgumentError } from '../../base/errors.ts';
import { type OracleOutcome, outcomeOf, type TaskTotal } from './outcome.ts';

/** Everything that will be asked, known in advance. The arrays have one entry per request. */
export interface OracleWorkload {
  /** Ascending. */
  readonly arrivalMs: Float64Array;
  /** Index into the tasks. */
  readonly task: Uint16Array;
  /** Service time / mean service time of the version. */
  readonly multiplier: Float64Array;
}

export interface OracleTask {
  readonly sloMs: number;
  readonly weight: number;
  /** Most accurate first; all resident. */
  readonly versions: readonly { readonly accuracy: number; readonly serviceMs: number }[];
}

/**
 * `feasible`: times are rounded so that the choices can be carried out as they are, hence a lower bound of the optimum;
 * `relaxed`: so that no schedule is lost, hence an upper bound.
 */
export type OracleBound = 'feasible' | 'relaxed';

export interface OracleOptions {
  readonly bound: OracleBound;
  /** Grid of the backlog. */
  readonly stepMs?: number;
  /** Price of a dropped request in units of accuracy × weight; far above what is at stake: the fewest drops there can be. */
  readonly dropPrice?: number;
}

export const oracleDefaults = {
  stepMs: 1,
  dropPrice: 1e6,
} as const;

/** Choices are kept as bytes. */
const MAX_VERSIONS = 126;
/** One byte a request and cell: at this many the choices take 2 GB. */
const MAX_CELLS = 2 ** 31;

/** The best that could have been done, in hindsight. Ratios in [0, 1], NaN where nothing was answered. */
export interface OracleResult extends OracleOutcome {
  readonly bound: OracleBound;
  /** Chosen version of each request as index into its task's versions, -1: dropped. */
  readonly choice: Int8Array;
}

/**
 * The optimum of one server that knows every arrival and every service time: dynamic programming over the backlog
 * (time from an arrival until the server is free), backwards over the requests,
 *
 *     V_i(b) = max( −P·w_i + V_{i+1}(b'), max_v { w_i·a_v + V_{i+1}((b + s_v·m_i)') : b + s_v·m_i ≤ D } ),
 *
 * b' the backlog less the gap to the next arrival, not below 0. Where all tasks have the same SLO the order of
 * deadlines is that of arrivals, which is optimal, and idling never helps: so both bounds hold. Where SLOs differ the
 * feasible bound keeps to the order of arrivals, and the relaxed one gives every request the longest SLO.
 *
 * Times are counted in cells of δ from 0. With an arrival rounded down to its cell and service times up, the true
 * server is free at most δ later than the counted one; hence a limit of ⌊D/δ⌋ − 1 cells is kept in truth. With service
 * times rounded down the counted server is never behind the true one, and any true schedule keeps ⌈D/δ⌉ cells.
 *
 * Takes requests × versions × D/δ steps: 26,000 × 12 × 400 in about half a second.
 * @throws InvalidArgumentError for a task without versions, more than 126 of them, or a grid beyond 2³¹ cells
 */
export function oracle(
  workload: OracleWorkload,
  tasks: readonly OracleTask[],
  options: OracleOptions,
): OracleResult {
  const { bound, stepMs, dropPrice } = { ...oracleDefaults, ...options };
  check(workload, tasks, stepMs);
  const { arrivalMs, task: taskOf } = workload;
  const count = arrivalMs.length;
  const limits = limitsOf(tasks, stepMs, bound);
  const cells = Math.max(1, ...limits.map((limit) => limit + 1));
  if (count * cells > MAX_CELLS) {
    throw new InvalidArgumentError(
      `The oracle needs ${count} requests × ${cells} cells; use a larger step than ${stepMs} ms or a shorter workload.`,
    );
  }
  const work = workOf(workload, tasks, stepMs, bound);
  const choices = new Int8Array(count * cells);
  let value = new Float64Array(cells);
  let next = new Float64Array(cells);
  const after = new Float64Array(cells);
  for (let i = count - 1; i >= 0; i--) {
    const { weight, versions } = tasks[taskOf[i]!]!;
    drain(value, after, i + 1 < count ? shiftOf(arrivalMs[i]!, arrivalMs[i + 1]!, stepMs) : 0);
    const row = choices.subarray(i * cells, (i + 1) * cells).fill(-1);
    for (let b = 0; b < cells; b++) next[b] = after[b]! - dropPrice * weight;
    const limit = limits[taskOf[i]!]!;
    for (let v = 0; v < versions.length; v++) {
      serve(next, after, row, v, weight * versions[v]!.accuracy, work[v]![i]!, limit);
    }
    [value, next] = [next, value];
  }
  return replay(workload, tasks, { bound, stepMs, cells, choices, work });
}

/** next(b) = max(next(b), reward + after(b + cells)), and who achieved it. */
function serve(
  next: Float64Array,
  after: Float64Array,
  row: Int8Array,
  version: number,
  reward: number,
  cells: number,
  limit: number,
): void {
  for (let b = 0; b + cells <= limit; b++) {
    const value = reward + after[b + cells]!;
    if (value > next[b]!) {
      next[b] = value;
      row[b] = version;
    }
  }
}

/** after(b) = value(max(0, b − cells)). */
export function drain(value: Float64Array, after: Float64Array, cells: number): void {
  const cut = Math.min(cells, after.length);
  after.fill(value[0]!, 0, cut);
  after.set(value.subarray(0, after.length - cut), cut);
}

/** Cells from one time to a later one, both rounded down. */
export function shiftOf(fromMs: number, toMs: number, stepMs: number): number {
  return Math.floor(toMs / stepMs) - Math.floor(fromMs / stepMs);
}

/** Cells by which each task's requests must be done after their arrival; -1: none can be. */
export function limitsOf(tasks: readonly OracleTask[], stepMs: number, bound: OracleBound): number[] {
  const longestMs = Math.max(...tasks.map(({ sloMs }) => sloMs));
  return tasks.map(({ sloMs }) =>
    bound === 'feasible'
      ? Math.floor(sloMs / stepMs + ROUNDING) - 1
      : Math.ceil(longestMs / stepMs - ROUNDING),
  );
}

/** Times that are whole numbers of cells but for rounding count as whole. */
const ROUNDING = 1e-9;

/** By version index and request, the cells that serving takes. */
export function workOf(
  { task, multiplier }: OracleWorkload,
  tasks: readonly OracleTask[],
  stepMs: number,
  bound: OracleBound,
): Int32Array[] {
  const most = Math.max(...tasks.map(({ versions }) => versions.length));
  return Array.from({ length: most }, (_, v) =>
    Int32Array.from(task, (k, i) => {
      const version = tasks[k]!.versions[v];
      if (version === undefined) return 0;
      const cells = (version.serviceMs * multiplier[i]!) / stepMs;
      const whole = bound === 'feasible' ? Math.ceil(cells - ROUNDING) : Math.floor(cells + ROUNDING);
      return Math.min(whole, 2 ** 30);
    }),
  );
}

/** Follows the best choices from an idle server on, and counts. */
function replay(
  { arrivalMs, task: taskOf, multiplier }: OracleWorkload,
  tasks: readonly OracleTask[],
  solved: { bound: OracleBound; stepMs: number; cells: number; choices: Int8Array; work: Int32Array[] },
): OracleResult {
  const { bound, stepMs, cells, choices, work } = solved;
  const count = arrivalMs.length;
  const choice = new Int8Array(count);
  const totals = tasks.map((): TaskTotal => ({ offered: 0, dropped: 0, accuracy: 0 }));
  let backlog = 0;
  let usedMs = 0;
  for (let i = 0; i < count; i++) {
    if (i > 0) backlog = Math.max(0, backlog - shiftOf(arrivalMs[i - 1]!, arrivalMs[i]!, stepMs));
    const k = taskOf[i]!;
    const version = choices[i * cells + backlog]!;
    choice[i] = version;
    totals[k]!.offered++;
    if (version < 0) {
      totals[k]!.dropped++;
      continue;
    }
    const { accuracy, serviceMs } = tasks[k]!.versions[version]!;
    totals[k]!.accuracy += accuracy;
    usedMs += serviceMs * multiplier[i]!;
    backlog += work[version]![i]!;
  }
  return {
    bound,
    ...outcomeOf(totals, usedMs, arrivalMs.at(-1)),
    choice,
  };
}

export function check(
  { arrivalMs, task, multiplier }: OracleWorkload,
  tasks: readonly OracleTask[],
  stepMs: number,
) {
  if (!(stepMs > 0)) throw new InvalidArgumentError(`The oracle's grid needs a step > 0 ms, got ${stepMs}.`);
  if (task.length !== arrivalMs.length || multiplier.length !== arrivalMs.length) {
    throw new InvalidArgumentError(
      `A workload needs one task and one multiplier per arrival, got ${arrivalMs.length} arrivals, ` +
        `${task.length} tasks and ${multiplier.length} multipliers.`,
    );
  }
  for (const [k, { versions }] of tasks.entries()) {
    if (versions.length === 0 || versions.length > MAX_VERSIONS) {
      throw new InvalidArgumentError(
        `Task ${k} has ${versions.length} versions; the oracle takes 1 to ${MAX_VERSIONS}.`,
      );
    }
  }
  for (let i = 0; i < task.length; i++) {
    if (tasks[task[i]!] === undefined) {
      throw new InvalidArgumentError(
        `Request ${i} is of task ${task[i]}, but there are ${tasks.length} tasks.`,
      );
    }
  }
}
