import { check, drain, limitsOf, type OracleTask, type OracleWorkload, shiftOf, workOf } from './oracle.ts';
import { type OracleOutcome, outcomeOf, type TaskTotal } from './outcome.ts';

export interface SingleVersionOptions {
  /**
   * What may be served with: each names a version of every task, as index into the task's versions. With one task these
   * are its versions; with several their combinations are too many, and an allocation chain stands for them.
   */
  readonly allocations: readonly (readonly number[])[];
  /** Time that changing from one allocation to another keeps the server from its requests, in ms; 0 if absent. */
  readonly switchMs?: (from: readonly number[], to: readonly number[]) => number;
  /** Grid of the backlog. */
  readonly stepMs?: number;
}

export const singleVersionDefaults = {
  stepMs: 1,
  /** Versions change on whole seconds only, as those of the thesis' policy do. */
  periodMs: 1_000,
  /** Price of a dropped request in units of accuracy × weight: the fewest drops there can be. */
  dropPrice: 1e6,
} as const;

export interface SingleVersionResult extends OracleOutcome {
  /** Second by second, the index of the allocation that served. */
  readonly allocation: Uint16Array;
}

/**
 * The best that could have been done with one version per task at a time, which may change every second: what the action
 * space of the thesis' policy could give to somebody who knows every arrival. Dynamic programming over backlog and
 * allocation, backwards over the requests; a request that cannot be in time is dropped, all others are served in
 * order of arrival. Times are rounded so that it can be carried out (see `oracle`).
 *
 * Takes requests × allocations × D/δ steps, and seconds × allocations² × D/δ where changes take time.
 */
export function singleVersionOracle(
  workload: OracleWorkload,
  tasks: readonly OracleTask[],
  options: SingleVersionOptions,
): SingleVersionResult {
  const { stepMs, periodMs, dropPrice } = { ...singleVersionDefaults, ...options };
  check(workload, tasks, stepMs);
  const { arrivalMs, task: taskOf } = workload;
  const { allocations } = options;
  const limits = limitsOf(tasks, stepMs, 'feasible');
  const work = workOf(workload, tasks, stepMs, 'feasible');
  const changes = changeCells(options, stepMs);
  // A load may keep the server busy for longer than any deadline.
  const longest = Math.max(0, ...changes.flat());
  const cells = Math.max(0, ...limits) + longest + 1;
  const seconds = Math.floor((arrivalMs.at(-1) ?? 0) / periodMs) + 1;
  /** By second, allocation until then and cell of backlog: the allocation from then on. */
  const chosen = new Uint16Array(seconds * allocations.length * cells);
  let values = allocations.map(() => new Float64Array(cells));
  const after = new Float64Array(cells);
  let i = arrivalMs.length - 1;
  let laterMs = arrivalMs.at(-1) ?? 0;
  for (let second = seconds - 1; second >= 0; second--) {
    const startMs = second * periodMs;
    for (; i >= 0 && arrivalMs[i]! >= startMs; i--) {
      const k = taskOf[i]!;
      const { weight, versions } = tasks[k]!;
      const shift = shiftOf(arrivalMs[i]!, laterMs, stepMs);
      laterMs = arrivalMs[i]!;
      for (const [a, allocation] of allocations.entries()) {
        const v = allocation[k]!;
        const value = values[a]!;
        drain(value, after, shift);
        const served = work[v]![i]!;
        const last = Math.min(cells - 1, limits[k]! - served);
        for (let b = 0; b <= last; b++) value[b] = after[b + served]! + weight * versions[v]!.accuracy;
        for (let b = Math.max(0, last + 1); b < cells; b++) value[b] = after[b]! - dropPrice * weight;
      }
    }
    const shift = shiftOf(startMs, laterMs, stepMs);
    laterMs = startMs;
    for (const value of values) {
      drain(value, after, shift);
      value.set(after);
    }
    const row = chosen.subarray(
      second * allocations.length * cells,
      (second + 1) * allocations.length * cells,
    );
    values = change(values, changes, row);
  }
  return replay(workload, tasks, { allocations, changes, cells, chosen, limits, work, stepMs, periodMs });
}

/** By allocation before and after, the cells that the change takes. */
function changeCells({ allocations, switchMs }: SingleVersionOptions, stepMs: number): number[][] {
  return allocations.map((from, a) =>
    allocations.map((to, b) =>
      a === b || switchMs === undefined ? 0 : Math.ceil(switchMs(from, to) / stepMs),
    ),
  );
}

/** The values before a change that is free to choose, and what is chosen. */
function change(
  values: readonly Float64Array[],
  changes: readonly (readonly number[])[],
  chosen: Uint16Array,
): Float64Array<ArrayBuffer>[] {
  const cells = values[0]!.length;
  return values.map((own, from) => {
    const best = own.slice();
    const row = chosen.subarray(from * cells, (from + 1) * cells).fill(from);
    for (const [to, value] of values.entries()) {
      const taken = changes[from]![to]!;
      for (let b = 0; b + taken < cells; b++) {
        if (value[b + taken]! <= best[b]!) continue;
        best[b] = value[b + taken]!;
        row[b] = to;
      }
    }
    return best;
  });
}

/** Follows the best choices from an idle server with the last allocation (the smallest) on, and counts. */
function replay(
  { arrivalMs, task: taskOf, multiplier }: OracleWorkload,
  tasks: readonly OracleTask[],
  solved: {
    readonly allocations: readonly (readonly number[])[];
    readonly changes: readonly (readonly number[])[];
    readonly cells: number;
    readonly chosen: Uint16Array;
    readonly limits: readonly number[];
    readonly work: readonly Int32Array[];
    readonly stepMs: number;
    readonly periodMs: number;
  },
): SingleVersionResult {
  const { allocations, changes, cells, chosen, limits, work, stepMs, periodMs } = solved;
  const count = arrivalMs.length;
  const seconds = chosen.length / (allocations.length * cells);
  const allocation = new Uint16Array(seconds);
  const totals = tasks.map((): TaskTotal => ({ offered: 0, dropped: 0, accuracy: 0 }));
  let current = allocations.length - 1;
  let backlog = 0;
  let usedMs = 0;
  let i = 0;
  let nowMs = 0;
  const pass = (untilMs: number) => {
    backlog = Math.max(0, backlog - shiftOf(nowMs, untilMs, stepMs));
    nowMs = untilMs;
  };
  for (let second = 0; second < seconds; second++) {
    pass(second * periodMs);
    const next = chosen[(second * allocations.length + current) * cells + backlog]!;
    backlog += changes[current]![next]!;
    current = next;
    allocation[second] = current;
    for (; i < count && arrivalMs[i]! < (second + 1) * periodMs; i++) {
      pass(arrivalMs[i]!);
      const k = taskOf[i]!;
      const v = allocations[current]![k]!;
      const served = work[v]![i]!;
      const total = totals[k]!;
      total.offered++;
      if (backlog + served > limits[k]!) {
        total.dropped++;
        continue;
      }
      const { accuracy, serviceMs } = tasks[k]!.versions[v]!;
      total.accuracy += accuracy;
      usedMs += serviceMs * multiplier[i]!;
      backlog += served;
    }
  }
  return {
    ...outcomeOf(totals, usedMs, arrivalMs.at(-1)),
    allocation,
  };
}
