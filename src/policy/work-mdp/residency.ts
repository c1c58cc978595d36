import type { ResidencyAction } from '../policy.ts';
import { type BelievedTask, type IndicesOf, residentIndices } from './believed-task.ts';
import { demandLevels } from './demand-levels.ts';
import { forecastDefaults } from './forecast.ts';
import type { WorkProblem, WorkSolver } from './value-function.ts';

export const residencyDefaults = {
  /** A task's set rests so long after a swap. */
  dwellMs: 4_000,
  /** A set must be better by this, in normalised accuracy of a request. */
  minGain: 0.001,
  /** A swap has so long to earn what its load costs. */
  horizonMs: 30_000,
  /** CPU time of a load where the profile has none. */
  loadMs: 600,
  /** A set of one must carry the peak of the last minutes at this utilization. */
  peakUtilization: 0.85,
  /** Past demands are looked at while so few tasks make it cheap; with more the present one speaks alone. */
  maxScenarioTasks: 8,
  /** Weight of the present demand against that of the past: a load takes seconds, and what is present may be over by then. */
  presentShare: 0.1,
  /** The past in so many levels. */
  levels: 7,
  /** Tasks whose sets are judged in one decision, in turn: one leaves wrong sets at the start for minutes, three take 2 ms. */
  judgedTasks: 2,
  /** Where a task has more sets than this, those that differ in one version from the present one are judged alone. */
  maxSets: 250,
  /** Evaluations of choices for a scenario, which starts from its values of the second before, and to confirm a set. */
  rounds: 10,
  tolerance: 1e-4,
  confirmingTolerance: 1e-5,
  /** Of the distribution of work, from that of the second before. */
  sweeps: 12,
  /** Of the shares of arrivals that meet each cell of work: the sets' gains err by less than a hundredth of `minGain`. */
  distributionTolerance: 1e-5,
} as const;

/** Plain data. */
export interface ResidencyMemory {
  /** When each task's set last changed. */
  readonly swappedMs: Readonly<Record<string, number>>;
  /** The task whose turn is next. */
  readonly turn: number;
  /** Of each scenario, values and distribution to start from. */
  readonly scenarios: readonly {
    readonly values: readonly number[];
    readonly distribution: readonly number[];
  }[];
}

export interface ResidencyInput {
  readonly nowMs: number;
  readonly tasks: readonly BelievedTask[];
  readonly problem: WorkProblem;
  /** Of this problem. */
  readonly values: readonly number[];
  readonly solver: WorkSolver;
  readonly memory: ResidencyMemory | undefined;
  readonly isTroubled: boolean;
  readonly slots: number;
  /** The problem at these demands (of one slot, by task) and with these versions; by default the resident ones. */
  readonly problemOf: (rps: readonly number[], indicesOf?: IndicesOf) => WorkProblem;
}

export interface ResidencyChoice {
  readonly actions: readonly ResidencyAction[];
  readonly memory: ResidencyMemory;
  readonly reason: string;
}

/**
 * Chooses which versions are in memory where not all fit: the smallest of each task stays (the floor that any burst
 * falls back on), and one version at a time is exchanged for another if requests gain enough by it.
 *
 * Every set is judged by what it loses against having every version in memory: what the best choice within the set is
 * worth less at each cell of work, weighted by how often that work is met. By the policy difference identity
 * g − g' = Σ_w π'(w) (Th − T'h)(w), where g, h and T are those with every version and g', π' and T' those with the set;
 * with π for π' it costs a few thousand steps a set instead of a solved problem. No term is negative, what one task's set
 * loses does not depend on the others', and nothing depends on what happens to be resident: judged by the values of the
 * resident set, larger versions than its own look too good, for more work will be met with them. The best set is then
 * confirmed by solving it and the resident one. Sets that differ in several versions are reached by one exchange
 * after the other: to look at single exchanges alone would stop at sets that none of them improves.
 */
export function chooseResidents(input: ResidencyInput): ResidencyChoice {
  const { tasks, memory, isTroubled, nowMs } = input;
  const managed = tasks.filter(({ state }) => state.resident !== undefined);
  const swappedMs = memory?.swappedMs ?? {};
  const turn = memory?.turn ?? 0;
  const still = { swappedMs, turn, scenarios: [] };
  const missing = fillings(managed);
  const strays = straysOf(managed);
  if (missing.length + strays.length > 0) {
    const told = [
      missing.length > 0
        ? `${missing.length === 1 ? 'A version is missing: it loads' : `${missing.length} versions are missing: they load`}. `
        : '',
      strays.length > 0 ? `${strays.length} versions that others beat are let go. ` : '',
    ];
    return { actions: [...missing, ...strays], memory: still, reason: told.join('') };
  }
  const limited = managed.filter(({ state, versions }) => (state.residencyLimit ?? 1) < versions.length);
  if (limited.length === 0) return { actions: [], memory: still, reason: '' };

  if (isTroubled || managed.some(({ state }) => (state.loading?.length ?? 0) > 0)) {
    const reason = isTroubled ? 'Nothing loads until the trouble is over. ' : 'A version is loading. ';
    return { actions: [], memory: { ...still, scenarios: memory?.scenarios ?? [] }, reason };
  }
  const scenarios = solveScenarios(input);
  const kept: ResidencyMemory = {
    swappedMs,
    turn: (turn + residencyDefaults.judgedTasks) % tasks.length,
    scenarios: scenarios.map(({ values, distribution }) => ({
      values,
      distribution: Array.from(distribution),
    })),
  };
  const stay = (reason: string): ResidencyChoice => ({ actions: [], memory: kept, reason });
  const isTurn = (k: number) => (k - turn + tasks.length) % tasks.length < residencyDefaults.judgedTasks;
  const isRested = (task: string) => nowMs - (swappedMs[task] ?? -1e12) >= residencyDefaults.dwellMs;
  const candidates = bestSets(input, scenarios, (task, k) => isTurn(k) && isRested(task));
  if (candidates.length === 0) return stay('');
  const { best, isGood, gain, needed } = confirmed(input, scenarios, candidates);
  const { state, versions } = tasks[best.task]!;
  const aim = `versions ${best.set.map((i) => versions[i]!.version).join(', ')} of ${state.task}`;
  if (!isGood) {
    return stay(
      `The best set (${aim}) would bring ${points(gain)}, below the ${points(needed)} that it takes. `,
    );
  }
  const { add, remove } = firstExchange(best);
  const added = versions[add]!.version;
  const removed = remove === undefined ? undefined : versions[remove]!.version;
  const actions: ResidencyAction[] = [{ kind: 'load', task: state.task, version: added }];
  if (removed !== undefined) actions.push({ kind: 'unload', task: state.task, version: removed });
  return {
    actions,
    memory: { ...kept, swappedMs: { ...swappedMs, [state.task]: nowMs } },
    reason: `Loads version ${added} towards ${aim}: ${points(gain)} more. `,
  };
}

/** What must be loaded whatever the demand: the floors, and everything where everything fits. */
function fillings(managed: readonly BelievedTask[]): ResidencyAction[] {
  return managed.flatMap(({ state, versions }): ResidencyAction[] => {
    const limit = state.residencyLimit ?? 1;
    const isThere = (version: number) =>
      state.resident!.includes(version) || state.loading?.includes(version);
    // The smallest of a set of one is its own choice; before anything is resident it comes by a switch.
    const wanted = limit >= versions.length ? versions : limit >= 2 ? versions.slice(-1) : [];
    if (state.resident!.length === 0) return [];
    return wanted
      .filter(({ version }) => !isThere(version))
      .map(({ version }) => ({ kind: 'load', task: state.task, version }));
  });
}

/**
 * Versions in memory that are not on the frontier, as that a server started with: another one is no slower and no less
 * accurate, or it is too inaccurate for the task. They stay while nothing else answers.
 */
function straysOf(managed: readonly BelievedTask[]): ResidencyAction[] {
  return managed.flatMap(({ state, versions }): ResidencyAction[] => {
    const isKnown = (number: number) => versions.some(({ version }) => version === number);
    const resident = state.resident!;
    if ((state.loading?.length ?? 0) > 0 || !resident.some(isKnown)) return [];
    return resident
      .filter((version) => !isKnown(version))
      .map((version) => ({ kind: 'unload', task: state.task, version }));
  });
}

interface Scenario {
  readonly weight: number;
  readonly problem: WorkProblem;
  readonly rps: readonly number[];
  readonly values: readonly number[];
  readonly distribution: Float64Array;
}

/** What demand is and has been, solved with every version in memory. */
function solveScenarios({
  tasks,
  nowMs,
  values,
  solver,
  memory,
  problemOf,
  slots,
}: ResidencyInput): Scenario[] {
  const { rounds, tolerance, sweeps, distributionTolerance, maxScenarioTasks, presentShare, levels } =
    residencyDefaults;
  const presentRps = tasks.map(({ demandRps }) => demandRps);
  const past =
    tasks.length > maxScenarioTasks
      ? []
      : demandLevels(
          tasks.map(({ state }) => state.demand),
          { nowMs, count: levels },
        );
  const considered = [
    { rps: presentRps, share: past.length === 0 ? 1 : presentShare },
    ...past.map(({ rps, timeRatio }) => ({
      rps: rps.map((each) => Math.max(forecastDefaults.minRps, each / slots)),
      share: (1 - presentShare) * timeRatio,
    })),
  ];
  return considered.map(({ rps, share }, index): Scenario => {
    const problem = problemOf(rps, everyIndex);
    const known = memory?.scenarios[index];
    const start = known?.values.length === problem.cells ? known.values : values;
    const solved = solver.solve(problem, { rounds, tolerance }, start);
    return {
      weight: share * problem.arrivalsPerMs,
      problem,
      rps,
      values: Array.from(solved.values),
      distribution: solver.distribution(
        problem,
        solved.values,
        { sweeps, tolerance: distributionTolerance },
        known?.distribution,
      ),
    };
  });
}

const everyIndex: IndicesOf = ({ versions }) => versions.map((_version, i) => i);

/** A set of versions for one task: indices into its versions, ascending. */
interface TaskSet {
  readonly task: number;
  readonly set: readonly number[];
  readonly resident: readonly number[];
  readonly limit: number;
  /** Weighted over the scenarios, per request. */
  readonly gain: number;
  readonly judge: SetJudge;
}

/** The best set of each task that is open, as judged, if it is not the resident one; the best of them first. */
function bestSets(
  { tasks, solver }: ResidencyInput,
  scenarios: readonly Scenario[],
  isOpen: (task: string, k: number) => boolean,
): TaskSet[] {
  const found: TaskSet[] = [];
  for (const [task, believed] of tasks.entries()) {
    const { state, versions } = believed;
    const limit = state.residencyLimit ?? 1;
    if (state.resident === undefined || limit >= versions.length || !isOpen(state.task, task)) continue;
    const resident = versions.flatMap(({ version }, i) => (state.resident!.includes(version) ? [i] : []));
    if (resident.length === 0) continue;
    const judge = new SetJudge(task, believed, scenarios, solver);
    const present = judge.worthOf(resident);
    let best: TaskSet | undefined;
    for (const set of setsOf(versions.length, limit, resident)) {
      if (limit === 1 && !carriesPeak(believed, set[0]!)) continue;
      const gain = judge.worthOf(set) - present;
      if (gain > (best?.gain ?? 0)) best = { task, set, resident, limit, gain, judge };
    }
    if (best !== undefined) found.push(best);
  }
  return found.sort((a, b) => b.gain - a.gain);
}

interface Confirmed {
  readonly best: TaskSet;
  readonly isGood: boolean;
  readonly gain: number;
  readonly needed: number;
}

/** The first candidate that gains what it takes when it is solved; else what became of the first. */
function confirmed(
  input: ResidencyInput,
  scenarios: readonly Scenario[],
  candidates: readonly TaskSet[],
): Confirmed {
  let first: Confirmed | undefined;
  let residentGain: number | undefined;
  for (const best of candidates) {
    const needed = neededGain(input, best);
    let { gain } = best;
    // Judged gains err by less than half: what is far below needs no solving.
    if (gain >= needed / 2) {
      residentGain ??= solvedGain(input, scenarios);
      gain = solvedGain(input, scenarios, best) - residentGain;
    }
    const result = { best, isGood: gain >= needed, gain, needed };
    if (result.isGood) return result;
    first ??= result;
  }
  return first!; // There is a candidate.
}

/**
 * The sets of `limit` versions that hold the smallest (a set of one is free), all of them if they are few, else those
 * that differ in one version from the resident ones.
 */
export function setsOf(count: number, limit: number, resident: readonly number[]): number[][] {
  const floor = count - 1;
  if (limit === 1) return Array.from({ length: count }, (_, i) => [i]);
  if (binomial(count - 1, limit - 1) <= residencyDefaults.maxSets) {
    return combinations(count - 1, limit - 1).map((free) => [...free, floor]);
  }
  const rests =
    resident.length < limit
      ? [resident]
      : resident.filter((i) => i !== floor).map((gone) => resident.filter((i) => i !== gone));
  return rests.flatMap((rest) =>
    Array.from({ length: count }, (_, i) => i)
      .filter((i) => !resident.includes(i))
      .map((i) => [...rest, i].sort((a, b) => a - b)),
  );
}

/** The ascending choices of `size` out of `first` … count − 1, in lexicographic order. */
function combinations(count: number, size: number, first = 0): number[][] {
  if (size === 0) return [[]];
  const found: number[][] = [];
  for (let i = first; i <= count - size; i++) {
    for (const rest of combinations(count, size - 1, i + 1)) found.push([i, ...rest]);
  }
  return found;
}

function binomial(n: number, k: number): number {
  let value = 1;
  for (let i = 1; i <= k; i++) value = (value * (n - k + i)) / i;
  return value;
}

/** Cells of work that so small a share of arrivals meets are left out when sets are compared. */
const NEGLIGIBLE_SHARE = 1e-9;

/**
 * What sets of versions of one task are worth to a request, to first order: over all cells of work of all scenarios the
 * worth of the best choice, weighted by how often the cell is met. Sets that end alike and begin like the one before
 * share its work: a list in lexicographic order costs little more than one pass over the cells for each set.
 */
class SetJudge {
  /** Of each cell that counts, over all scenarios. */
  readonly #weights: Float64Array;
  readonly #shedWorth: Float64Array;
  /** By version. */
  readonly #worths: readonly Float64Array[];
  /** The last version of the set before, then its others but for the last of these. */
  readonly #chain: number[] = [];
  /** Worth of the best choice among shedding and the first 1, 2, … versions of the chain. */
  readonly #chainWorths: Float64Array[] = [];

  constructor(k: number, { versions }: BelievedTask, scenarios: readonly Scenario[], solver: WorkSolver) {
    const totalWeight = scenarios.reduce((sum, { weight }) => sum + weight, 0);
    const size = scenarios.reduce((sum, { problem }) => sum + problem.cells, 0);
    const places = new Uint32Array(size);
    const weights = new Float64Array(size);
    const shedWorth = new Float64Array(size);
    let count = 0;
    let start = 0;
    for (const { problem, values, weight, distribution } of scenarios) {
      const { share, shedReward } = problem.tasks[k]!;
      for (let cell = 0; cell < problem.cells; cell++) {
        if (distribution[cell]! <= NEGLIGIBLE_SHARE) continue;
        places[count] = start + cell;
        weights[count] = ((weight * share) / totalWeight) * distribution[cell]!;
        shedWorth[count++] = shedReward + values[cell]!;
      }
      start += problem.cells;
    }
    this.#weights = weights.subarray(0, count);
    this.#shedWorth = shedWorth.subarray(0, count);
    const everywhere = new Float64Array(size);
    this.#worths = versions.map((version) => {
      let at = 0;
      for (const { problem, values } of scenarios) {
        solver.worth(version, problem.tasks[k]!, problem, values, everywhere, at);
        at += problem.cells;
      }
      const worth = new Float64Array(count);
      for (let i = 0; i < count; i++) worth[i] = everywhere[places[i]!]!;
      return worth;
    });
  }

  worthOf(set: readonly number[]): number {
    const last = set.length - 1;
    let under = this.#shedWorth;
    for (let depth = 0; depth < last; depth++) {
      under = this.#best(depth, depth === 0 ? set[last]! : set[depth - 1]!, under);
    }
    const worth = this.#worths[last === 0 ? set[0]! : set[last - 1]!]!;
    const weights = this.#weights;
    let sum = 0;
    for (let i = 0; i < weights.length; i++) {
      sum += weights[i]! * Math.max(worth[i]!, under[i]!);
    }
    return sum;
  }

  #best(depth: number, version: number, under: Float64Array): Float64Array {
    this.#chainWorths[depth] ??= new Float64Array(under.length);
    const best = this.#chainWorths[depth];
    if (this.#chain[depth] === version) return best;
    this.#chain.length = depth;
    this.#chain.push(version);
    const worth = this.#worths[version]!;
    for (let i = 0; i < best.length; i++) best[i] = Math.max(worth[i]!, under[i]!);
    return best;
  }
}

/** Of the exchanges that lead to a set, the one that is best by itself. */
function firstExchange({ set, resident, limit, judge }: TaskSet): { add: number; remove?: number } {
  const adds = set.filter((i) => !resident.includes(i));
  const removes = resident.length < limit ? [undefined] : resident.filter((i) => !set.includes(i));
  let best: { add: number; remove?: number; worth: number } | undefined;
  for (const add of adds) {
    for (const remove of removes) {
      const next = [...resident.filter((i) => i !== remove), add].sort((a, b) => a - b);
      const worth = judge.worthOf(next);
      if (best === undefined || worth > best.worth) best = { add, remove, worth };
    }
  }
  return best!; // A set that gains differs from the resident one.
}

/** The gain g of a request over all scenarios, each solved with what is resident but for one task's set. */
function solvedGain(
  { problemOf, solver }: ResidencyInput,
  scenarios: readonly Scenario[],
  set?: TaskSet,
): number {
  const { rounds, confirmingTolerance: tolerance } = residencyDefaults;
  const indicesOf: IndicesOf = (task, k) => (k === set?.task ? set.set : residentIndices(task, k));
  let gain = 0;
  let total = 0;
  for (const { rps, values, weight } of scenarios) {
    gain += weight * solver.solve(problemOf(rps, indicesOf), { rounds, tolerance }, values).gain;
    total += weight;
  }
  return total > 0 ? gain / total : 0;
}

/** A set must pay its loads: gain · horizon · rate > loads · price of the slot's time. */
function neededGain(
  { tasks, values, problem, slots }: ResidencyInput,
  { task, set, resident }: TaskSet,
): number {
  const { minGain, horizonMs, loadMs } = residencyDefaults;
  const { stepMs, arrivalsPerMs } = problem;
  let price = 0;
  for (const i of set) {
    if (resident.includes(i)) continue;
    const version = tasks[task]!.versions[i]!;
    const reach = Math.min(values.length - 1, Math.max(1, Math.round(version.meanMs / stepMs)));
    const pricePerMs = Math.max(0, (values[0]! - values[reach]!) / (reach * stepMs));
    price += (version.loadMs ?? loadMs) * pricePerMs;
  }
  return Math.max(minGain, price / (horizonMs * arrivalsPerMs * slots));
}

function carriesPeak({ peakRps, demandRps, versions }: BelievedTask, index: number): boolean {
  const load = (Math.max(peakRps, demandRps) * versions[index]!.meanMs) / 1000;
  return load <= residencyDefaults.peakUtilization;
}

function points(gain: number): string {
  return `${(100 * gain).toFixed(2)} points`;
}
