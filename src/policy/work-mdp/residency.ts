import type { ResidencyAction } from '../policy.ts';
import { meanSince } from './forecast.ts';
import type { BelievedTask, IndicesOf } from './slow-loop.ts';
import { type WorkProblem, type WorkSolver, worths } from './value-function.ts';

export const residencyDefaults = {
  /** A task's set rests so long after a swap. */
  dwellMs: 4_000,
  /** A set must be better by this, in normalised accuracy of a request. */
  minGain: 0.0025,
  /** A swap has so long to earn what its load costs. */
  horizonMs: 30_000,
  /** CPU time of a load where the profile has none. */
  loadMs: 600,
  /** A set of one must carry the peak of the last minutes at this utilization. */
  peakUtilization: 0.85,
  /** Past demands are looked at while so few tasks make it cheap; with more the present one speaks alone. */
  maxScenarioTasks: 8,
  /** Tasks whose exchanges are judged in one decision, in turn. */
  judgedTasks: 4,
  /** Sweeps for a scenario, and to confirm the choice. */
  sweeps: 12,
  tolerance: 1e-4,
} as const;

/**
 * A load takes seconds and a set lives for many, so sets are judged by the demand of now and by that of the last
 * minute or so alike: bursts that came will come again.
 */
export const SCENARIOS: readonly { readonly agoMs: number; readonly share: number }[] = [
  { agoMs: 0, share: 0.7 },
  { agoMs: 15_000, share: 0.1 },
  { agoMs: 35_000, share: 0.1 },
  { agoMs: 70_000, share: 0.1 },
];
/** A past demand is a mean over so long. */
const SCENARIO_WINDOW_MS = 5_000;

/** Plain data. */
export interface ResidencyMemory {
  /** When each task's set last changed. */
  readonly swappedMs: Readonly<Record<string, number>>;
  /** Of each scenario, values and distribution to start from. */
  /** The task whose turn is next. */
  readonly turn: number;
  readonly scenarios: readonly {
    readonly values: readonly number[];
    readonly distribution: readonly number[];
  }[];
}

export interface ResidencyInput {
  readonly nowMs: number;
  readonly tasks: readonly BelievedTask[];
  /** Of the present problem. */
  readonly values: readonly number[];
  readonly gain: number;
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
 * Each exchange is judged to first order: the change of the best choice's worth at each cell of work, weighted by how
 * often that work is met. By the policy improvement identity g' − g = Σ_w π'(w) (T'h − Th)(w), which is exact with the
 * distribution π' of the new set; with π it costs a few thousand steps an exchange instead of a solved problem. The
 * best one is then solved exactly.
 */
export function chooseResidents(input: ResidencyInput): ResidencyChoice {
  const { tasks, memory, isTroubled, nowMs } = input;
  const managed = tasks.filter(({ state }) => state.resident !== undefined);
  const swappedMs = memory?.swappedMs ?? {};
  const turn = memory?.turn ?? 0;
  const still = { swappedMs, turn, scenarios: [] };
  const missing = fillings(managed);
  if (missing.length > 0) {
    return { actions: missing, memory: still, reason: `${missing.length} versions are missing: they load. ` };
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
  const best = bestExchange(input, scenarios, (task, k) => isTurn(k) && isRested(task));
  if (best === undefined) return stay('');
  const needed = neededGain(input, best);
  // First-order gains err by less than half: what is far below needs no solving.
  const gain = best.gain < needed / 2 ? best.gain : confirmedGain(input, scenarios, best);
  const { state, versions } = tasks[best.task]!;
  const added = versions[best.add]!.version;
  const removed = best.remove === undefined ? undefined : versions[best.remove]!.version;
  const swap = `version ${added} of ${state.task}${removed === undefined ? '' : ` for version ${removed}`}`;
  if (gain < needed) {
    return stay(
      `The best exchange (${swap}) would bring ${points(gain)}, below the ${points(needed)} that it takes. `,
    );
  }
  const actions: ResidencyAction[] = [{ kind: 'load', task: state.task, version: added }];
  if (removed !== undefined) actions.push({ kind: 'unload', task: state.task, version: removed });
  return {
    actions,
    memory: { ...kept, swappedMs: { ...swappedMs, [state.task]: nowMs } },
    reason: `Loads ${swap}: ${points(gain)} more. `,
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

interface Scenario {
  readonly weight: number;
  readonly problem: WorkProblem;
  readonly rps: readonly number[];
  readonly values: readonly number[];
  readonly gain: number;
  readonly distribution: Float64Array;
}

function solveScenarios({
  tasks,
  nowMs,
  values,
  gain,
  solver,
  memory,
  problemOf,
  slots,
}: ResidencyInput): Scenario[] {
  const { sweeps, tolerance } = residencyDefaults;
  const considered = tasks.length <= residencyDefaults.maxScenarioTasks ? SCENARIOS : SCENARIOS.slice(0, 1);
  return considered.map(({ agoMs, share }, index): Scenario => {
    const rps = tasks.map(({ state, demandRps }) => {
      if (agoMs === 0) return demandRps;
      const untilMs = nowMs - agoMs;
      const past = state.demand.filter(({ atMs }) => atMs <= untilMs && atMs > untilMs - SCENARIO_WINDOW_MS);
      return past.length > 0 ? Math.max(0.05, meanSince(past, 0) / slots) : demandRps;
    });
    const problem = problemOf(rps);
    const known = memory?.scenarios[index];
    const start = known?.values.length === problem.cells ? known.values : values;
    // The present one is solved already.
    const solved = agoMs === 0 ? { values, gain } : solver.solve(problem, { sweeps, tolerance }, start);
    return {
      weight: share * problem.arrivalsPerMs,
      problem,
      rps,
      values: Array.from(solved.values),
      gain: solved.gain,
      distribution: solver.distribution(problem, solved.values, sweeps, known?.distribution),
    };
  });
}

interface Exchange {
  readonly task: number;
  readonly add: number;
  readonly remove?: number;
  /** Weighted over the scenarios, per request. */
  readonly gain: number;
}

function bestExchange(
  { tasks }: ResidencyInput,
  scenarios: readonly Scenario[],
  isOpen: (task: string, k: number) => boolean,
): Exchange | undefined {
  const totalWeight = scenarios.reduce((sum, { weight }) => sum + weight, 0);
  let best: Exchange | undefined;
  for (const [k, task] of tasks.entries()) {
    const { state, versions } = task;
    const limit = state.residencyLimit ?? 1;
    if (state.resident === undefined || limit >= versions.length || !isOpen(state.task, k)) continue;
    const resident = versions.flatMap(({ version }, i) => (state.resident!.includes(version) ? [i] : []));
    if (resident.length === 0) continue;
    const floor = limit >= 2 ? versions.length - 1 : -1;
    const removals = resident.length < limit ? [undefined] : resident.filter((i) => i !== floor);
    const worth = scenarios.map(({ problem, values }) =>
      worths(problem.tasks[k]!, versions, problem, values),
    );
    for (const remove of removals) {
      const gains = exchangeGains(k, worth, scenarios, resident, remove);
      for (let add = 0; add < versions.length; add++) {
        if (resident.includes(add)) continue;
        if (limit === 1 && !carriesPeak(task, add)) continue;
        const gain = gains[add]! / totalWeight;
        if (gain > (best?.gain ?? 0)) best = { task: k, add, remove, gain };
      }
    }
  }
  return best;
}

/** By version that could come in, what requests gain if `remove` goes; weighted sums over the scenarios. */
function exchangeGains(
  k: number,
  worth: readonly ReturnType<typeof worths>[],
  scenarios: readonly Scenario[],
  resident: readonly number[],
  remove: number | undefined,
): Float64Array {
  const count = worth[0]!.versions.length;
  const gains = new Float64Array(count);
  for (const [s, { problem, weight, distribution }] of scenarios.entries()) {
    const { shed, versions } = worth[s]!;
    const { share } = problem.tasks[k]!;
    const rest = shed.slice();
    const now = shed.slice();
    for (const i of resident) {
      for (let w = 0; w < rest.length; w++) {
        if (i !== remove && versions[i]![w]! > rest[w]!) rest[w] = versions[i]![w]!;
        if (versions[i]![w]! > now[w]!) now[w] = versions[i]![w]!;
      }
    }
    for (let add = 0; add < count; add++) {
      let gain = 0;
      for (let w = 0; w < rest.length; w++) {
        gain += distribution[w]! * (Math.max(rest[w]!, versions[add]![w]!) - now[w]!);
      }
      gains[add] = gains[add]! + weight * share * gain;
    }
  }
  return gains;
}

/** The gain of an exchange with every scenario solved for the new set. */
function confirmedGain(
  { problemOf, solver, tasks }: ResidencyInput,
  scenarios: readonly Scenario[],
  { task, add, remove }: Exchange,
): number {
  const { sweeps, tolerance } = residencyDefaults;
  const indicesOf: IndicesOf = ({ state, versions }, k) => {
    const resident = versions.flatMap(({ version }, i) => (state.resident?.includes(version) ? [i] : []));
    if (k === task) return [...resident.filter((i) => i !== remove), add].sort((a, b) => a - b);
    return resident.length > 0 || versions.length === 0 ? resident : [versions.length - 1];
  };
  let gain = 0;
  let total = 0;
  for (const scenario of scenarios) {
    const problem = problemOf(scenario.rps, indicesOf);
    const solved = solver.solve(problem, { sweeps, tolerance }, scenario.values);
    gain += scenario.weight * (solved.gain - scenario.gain);
    total += scenario.weight;
  }
  return total > 0 && tasks.length > 0 ? gain / total : 0;
}

/** A swap must pay its load: gain · horizon · rate > load · price of the slot's time. */
function neededGain({ tasks, values, problemOf, slots }: ResidencyInput, { task, add }: Exchange): number {
  const { minGain, horizonMs, loadMs } = residencyDefaults;
  const { stepMs, arrivalsPerMs } = problemOf(tasks.map(({ demandRps }) => demandRps));
  const version = tasks[task]!.versions[add]!;
  const reach = Math.min(values.length - 1, Math.max(1, Math.round(version.meanMs / stepMs)));
  const pricePerMs = Math.max(0, (values[0]! - values[reach]!) / (reach * stepMs));
  return Math.max(minGain, ((version.loadMs ?? loadMs) * pricePerMs) / (horizonMs * arrivalsPerMs * slots));
}

function carriesPeak({ peakRps, demandRps, versions }: BelievedTask, index: number): boolean {
  const load = (Math.max(peakRps, demandRps) * versions[index]!.meanMs) / 1000;
  return load <= residencyDefaults.peakUtilization;
}

function points(gain: number): string {
  return `${(100 * gain).toFixed(2)} points`;
}
