import { bytesOn, costOn, type Model, presentIndex } from './model.ts';

/** A task on a server with its part of the demand; the knapsack takes one of its choices. */
export interface Cell {
  readonly k: number;
  readonly rps: number;
}

interface Choice {
  /** Index into the task's versions. */
  readonly i: number;
  readonly cpu: number;
  readonly bytes: number;
  readonly gain: number;
}

/** The exact knapsack is for this many tasks on a server; with more, the greedy order errs by less than one step in so many. */
const MAX_EXACT_CELLS = 16;
/**
 * Grid of the CPU in the exact knapsack. Costs are rounded up, so that what it finds fits; of n tasks it finds the best
 * for a CPU that is smaller by n cells of the grid.
 */
export const CPU_GRID = 512;

/**
 * The versions of the tasks on one server: the most normalised accuracy for its requests that its CPU and memory carry
 * (a multiple-choice knapsack). What serves stays as long as it fits the limit and the new choice is not clearly better, or
 * while the server has switched only just now. Of a server that chooses itself, what it can be expected to come to.
 * @returns by cell, an index into the task's versions
 */
export function chooseVersions(model: Model, s: number, cells: readonly Cell[]): number[] {
  const { state, options, capacity } = model;
  const choices = cells.map((cell) => choicesOf(model, s, cell));
  const memory = model.memory[s]!;
  const best = knapsack(choices, capacity[s]!, memory);
  const chosen = best.map((c, j) => choices[j]![c]!);
  const server = state.servers[s]!;
  const presents = cells.map(({ k }, j) => {
    const index = presentIndex(model, s, k);
    return choices[j]!.find(({ i }) => i === index);
  });
  if (server.choosesVersions || presents.every((choice) => choice === undefined))
    return chosen.map(({ i }) => i);

  const limit = (capacity[s]! / options.utilization) * options.utilizationLimit;
  const kept = presents.map((choice, j) => choice ?? chosen[j]!);
  const keptLean = presents.map((choice, j) => choice ?? choices[j]![0]!);
  const stay = [kept, keptLean].find((list) => fits(list, limit, memory));
  if (stay === undefined) return chosen.map(({ i }) => i);
  const importance = cells.reduce((sum, { k, rps }) => sum + state.tasks[k]!.weight * rps, 0);
  const gain = (sumOf(chosen, 'gain') - sumOf(stay, 'gain')) / importance;
  const isFresh = cells.some(({ k }) => {
    const since = server.present[state.tasks[k]!.task]?.sinceMs;
    return since !== undefined && state.nowMs - since < options.dwellMs;
  });
  return (gain >= options.minGain && !isFresh ? chosen : stay).map(({ i }) => i);
}

/** Cheapest first; what costs more and gains no more is left out, unless it serves. */
function choicesOf(model: Model, s: number, { k, rps }: Cell): Choice[] {
  const task = model.state.tasks[k]!;
  const present = presentIndex(model, s, k);
  const all = model.choices[s]![k]!.map((i) => ({
    i,
    cpu: rps * costOn(model, s, k, i),
    bytes: bytesOn(model, s, k, i),
    gain: task.weight * rps * task.versions[i]!.normalisedAccuracy,
  })).sort((a, b) => a.cpu - b.cpu || b.gain - a.gain);
  return all.filter(
    (choice, index) =>
      choice.i === present ||
      !all.slice(0, index).some(({ gain, bytes }) => gain >= choice.gain && bytes <= choice.bytes),
  );
}

/**
 * Room for one more of the largest is kept, so that any of them can be switched beside what serves; where not even the
 * leanest versions leave that, the plain sum counts.
 */
function fits(choices: readonly Choice[], cpu: number, memory: number): boolean {
  const slack = 1 + 1e-9;
  return sumOf(choices, 'cpu') <= cpu * slack && needOf(choices) <= memory * slack;
}

function needOf(choices: readonly Choice[]): number {
  return sumOf(choices, 'bytes') + choices.reduce((most, { bytes }) => Math.max(most, bytes), 0);
}

function sumOf(choices: readonly Choice[], key: 'cpu' | 'bytes' | 'gain'): number {
  return choices.reduce((sum, choice) => sum + choice[key], 0);
}

/** @returns by cell an index into its choices; where nothing fits, the leanest or cheapest */
function knapsack(choices: readonly (readonly Choice[])[], cpu: number, memory: number): number[] {
  const greedy = greedyKnapsack(choices, cpu, memory);
  // Of a single task, the greedy order ends at the best that fits.
  if (choices.length < 2 || choices.length > MAX_EXACT_CELLS) return greedy;
  const exact = exactKnapsack(choices, cpu);
  if (exact === undefined) return greedy;
  const gainOf = (indices: readonly number[]) =>
    sumOf(
      indices.map((c, j) => choices[j]![c]!),
      'gain',
    );
  const isWithin = fits(
    exact.map((c, j) => choices[j]![c]!),
    cpu,
    memory,
  );
  return isWithin && gainOf(exact) > gainOf(greedy) ? exact : greedy;
}

/** By CPU alone, on a grid; undefined where not even the cheapest fit. */
function exactKnapsack(choices: readonly (readonly Choice[])[], cpu: number): number[] | undefined {
  let value = new Float64Array(CPU_GRID + 1); // With nothing chosen, any budget holds nothing.
  const taken: Int16Array[] = [];
  for (const list of choices) {
    const next = new Float64Array(CPU_GRID + 1).fill(Number.NEGATIVE_INFINITY);
    const from = new Int16Array(CPU_GRID + 1).fill(-1);
    for (const [c, choice] of list.entries()) {
      const cost = cpu > 0 ? Math.ceil((CPU_GRID * choice.cpu) / cpu - 1e-9) : Number.POSITIVE_INFINITY;
      for (let b = cost; b <= CPU_GRID; b++) {
        const sum = value[b - cost]! + choice.gain;
        if (sum > next[b]!) {
          next[b] = sum;
          from[b] = c;
        }
      }
    }
    taken.push(from);
    value = next;
  }
  if (value[CPU_GRID] === Number.NEGATIVE_INFINITY) return undefined;
  const indices: number[] = [];
  let budget = CPU_GRID;
  for (let j = choices.length - 1; j >= 0; j--) {
    const c = taken[j]![budget]!;
    indices[j] = c;
    budget -= Math.ceil((CPU_GRID * choices[j]![c]!.cpu) / cpu - 1e-9);
  }
  return indices;
}

/**
 * From the leanest or cheapest up: always the step that gains the most for its share of CPU and memory, of all later
 * versions of all cells, as long as one fits.
 */
function greedyKnapsack(choices: readonly (readonly Choice[])[], cpu: number, memory: number): number[] {
  const indices = choices.map(() => 0);
  const at = () => indices.map((c, j) => choices[j]![c]!);
  // The cheapest by CPU may be more than memory holds: then the leanest come first.
  if (sumOf(at(), 'bytes') > memory)
    for (const [j, list] of choices.entries())
      indices[j] = list.reduce((best, { bytes }, c) => (bytes < list[best]!.bytes ? c : best), 0);
  for (;;) {
    const now = at();
    const cpuUsed = sumOf(now, 'cpu');
    let best: { readonly j: number; readonly c: number; readonly ratio: number } | undefined;
    for (const [j, list] of choices.entries()) {
      for (let c = 0; c < list.length; c++) {
        const here = now[j]!;
        const there = list[c]!;
        if (there.gain <= here.gain || cpuUsed - here.cpu + there.cpu > cpu) continue;
        if (memory < Number.POSITIVE_INFINITY) {
          if (needOf(now.map((choice, other) => (other === j ? there : choice))) > memory) continue;
        }
        const price =
          Math.max(0, there.cpu - here.cpu) / (cpu || 1) +
          (memory < Number.POSITIVE_INFINITY ? Math.max(0, there.bytes - here.bytes) / memory : 0);
        const ratio = (there.gain - here.gain) / Math.max(price, Number.EPSILON);
        if (best === undefined || ratio > best.ratio) best = { j, c, ratio };
      }
    }
    if (best === undefined) return indices;
    indices[best.j] = best.c;
  }
}
