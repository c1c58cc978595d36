/**
 * The value of committed work. With one deadline queue per slot the state of a server is one number, the work w (ms)
 * that it is committed to; choosing a version buys accuracy with future work. For Poisson arrivals of rate Λ this is an
 * average-reward Markov decision process in one dimension (the work of an M/G/1 queue whose service time is chosen,
 * compare George and Harrison, "Dynamic control of a queue with adjustable service rate", 2001):
 *
 *     u(w) = Σₖ λₖ/Λ · max( −Pₖ + h(w), maxᵥ rₖᵥ(w) + h(w + sₖᵥ) )     a request of task k arrives: shed it, or version v
 *     h(w) = E u(max(0, w − τ)) − g,   τ ~ Exp(Λ)                      until the next one comes, work drains
 *
 * with r the accuracy times the chance of being in time, less the price of being late times the chance of that.
 */
export interface WorkProblem {
  readonly stepMs: number;
  /** Cells of the grid; cell i stands for i · stepMs of work. */
  readonly cells: number;
  /** Λ. */
  readonly arrivalsPerMs: number;
  readonly tasks: readonly WorkTask[];
  /** Variance of the work itself: how uncertain w is that is believed to be w, in ms² per ms; 0 if absent. */
  readonly varianceMs?: number;
}

export interface WorkTask {
  /** λₖ/Λ. */
  readonly share: number;
  /** Reward of shedding, −Pₖ. */
  readonly shedReward: number;
  /** Time from arrival by which the answer must be there, less the guard. */
  readonly limitMs: number;
  readonly versions: readonly WorkVersion[];
}

export interface WorkVersion {
  /** Weight × normalised accuracy. */
  readonly reward: number;
  readonly meanMs: number;
  /** Standard deviation of the service time. */
  readonly deviationMs: number;
}

/** The relative value h by cells with h(0) = 0, and the gain g: the expected reward of a request. */
export interface WorkValue {
  readonly values: Float64Array;
  readonly gain: number;
  readonly sweeps: number;
}

export interface SweepLimits {
  readonly sweeps: number;
  /** Sweeping ends when no value changes by more than this. */
  readonly tolerance: number;
}

/** Buffers that are used again from call to call; two solvers never share one. */
export class WorkSolver {
  #u = new Float64Array(0);
  #best = new Float64Array(0);
  #h = new Float64Array(0);
  #next = new Float64Array(0);
  #chosen = new Uint16Array(0);
  /** What the last choices earn, by cell. */
  #earned = new Float64Array(0);
  /** Shares of requests that they lead from each cell to each other, a row for each cell. */
  #shares = new Float64Array(0);
  /** The same without zeros, row by row: shares, cells that they lead to, and where the rows end. */
  #leads = new Float64Array(0);
  #leadsTo = new Uint16Array(0);
  #leadsEnd = new Uint32Array(0);
  /** The versions of the problem that was last looked at, on its grid. */
  #actions: { readonly problem: WorkProblem; readonly byTask: readonly (readonly Action[])[] } | undefined;
  /** By version: problems that differ in their demand alone, or in which versions they may use, share them. */
  readonly #known = new WeakMap<WorkVersion, KnownAction>();

  /**
   * Value iteration from `initial` (the values of the problem before: demand moves little in a second, so a few sweeps
   * do). A problem without arrivals has the value 0 everywhere.
   */
  solve(problem: WorkProblem, limits: SweepLimits, initial?: ArrayLike<number>): WorkValue {
    const { cells } = problem;
    this.#reserve(cells);
    const h = this.#h;
    const u = this.#u;
    for (let i = 0; i < cells; i++) h[i] = initial?.[i] ?? 0;
    let gain = 0;
    let sweeps = 0;
    if (problem.arrivalsPerMs > 0) {
      const idle = idleWeights(problem);
      const actions = this.#actionsOf(problem);
      const choices = actions.reduce((sum, { length }) => sum + length, 0);
      const period = choices > cells ? FOLLOWED_SWEEPS : 1;
      while (sweeps < limits.sweeps) {
        const isChosen = sweeps % period === 0;
        if (period === 1) this.#decide(problem, actions);
        else {
          if (isChosen) this.#choose(problem, h);
          this.#follow();
        }
        sweeps++;
        gain = u[0]!;
        let changed = 0;
        let value = 0;
        for (let i = 0; i < cells; i++) {
          value =
            i === 0 ? 0 : idle.stay * value + idle.here * (u[i]! - gain) + idle.below * (u[i - 1]! - gain);
          const difference = value - h[i]!;
          if (difference > changed) changed = difference;
          else if (-difference > changed) changed = -difference;
          this.#next[i] = value;
        }
        h.set(this.#next);
        if (isChosen && changed <= limits.tolerance) break;
      }
    }
    return { values: h.slice(0, cells), gain, sweeps };
  }

  /** u from h. */
  #decide(problem: WorkProblem, actions: readonly (readonly Action[])[]): void {
    const { cells, tasks } = problem;
    const h = this.#h;
    const u = this.#u;
    const best = this.#best;
    u.fill(0);
    for (let k = 0; k < tasks.length; k++) {
      const { share, shedReward } = tasks[k]!;
      for (let i = 0; i < cells; i++) best[i] = shedReward + h[i]!;
      for (const action of actions[k]!) improve(best, h, action);
      for (let i = 0; i < cells; i++) u[i] = u[i]! + share * best[i]!;
    }
  }

  /**
   * How often each cell of work is met by arrivals, under the choices that are best by `values`: the stationary
   * distribution, by iteration from `initial`. Sums to 1.
   */
  distribution(
    problem: WorkProblem,
    values: ArrayLike<number>,
    limits: SweepLimits,
    initial?: ArrayLike<number>,
  ): Float64Array {
    const { cells } = problem;
    const idle = idleWeights(problem);
    this.#reserve(cells);
    this.#choose(problem, values);
    const here = new Float64Array(cells);
    const next = new Float64Array(cells);
    const before = new Float64Array(cells);
    if (initial?.length === cells) here.set(initial);
    else here[0] = 1;
    for (let sweep = 0; sweep < limits.sweeps; sweep++) {
      before.set(here);
      // After the arrival: the work of the chosen version comes on top.
      next.fill(0);
      for (let i = 0, at = 0; i < cells; i++) {
        const mass = here[i]!;
        for (; at < this.#leadsEnd[i]!; at++) {
          const to = this.#leadsTo[at]!;
          next[to] = next[to]! + mass * this.#leads[at]!;
        }
      }
      // Until the next one it drains: the transpose of the recursion of h.
      here.fill(0);
      let carried = 0;
      for (let i = cells - 1; i > 0; i--) {
        carried = next[i]! + idle.stay * carried;
        here[i] = here[i]! + idle.here * carried;
        here[i - 1] = here[i - 1]! + idle.below * carried;
      }
      here[0] = here[0]! + next[0]! + idle.stay * carried;
      let changed = 0;
      for (let i = 0; i < cells; i++) changed = Math.max(changed, Math.abs(here[i]! - before[i]!));
      if (changed <= limits.tolerance) break;
    }
    return here;
  }

  /**
   * The worth of a version of a task by cell of work, −Infinity where shedding is better: its reward and the value of
   * what comes after.
   * @param worth where it is written, from `at` on
   */
  worth(
    version: WorkVersion,
    task: WorkTask,
    problem: WorkProblem,
    values: ArrayLike<number>,
    worth: Float64Array,
    at: number,
  ): void {
    const { rewards, whole, part } = this.#actionOf(version, task, problem);
    const last = problem.cells - 1;
    worth.fill(Number.NEGATIVE_INFINITY, at + rewards.length, at + problem.cells);
    for (let i = 0; i < rewards.length; i++) {
      const to = i + whole;
      const after = to >= last ? values[last]! : (1 - part) * values[to]! + part * values[to + 1]!;
      worth[at + i] = rewards[i]! + after;
    }
  }

  /** The choices that are best by `values`, of all tasks together: into `#earned` and `#shares`. */
  #choose(problem: WorkProblem, values: ArrayLike<number>): void {
    const { cells, tasks } = problem;
    const last = cells - 1;
    const best = this.#best;
    const chosen = this.#chosen;
    const earned = this.#earned.fill(0);
    const shares = this.#shares.fill(0);
    const actions = this.#actionsOf(problem);
    for (let k = 0; k < tasks.length; k++) {
      const { share, shedReward } = tasks[k]!;
      const own = actions[k]!;
      for (let i = 0; i < cells; i++) best[i] = shedReward + values[i]!;
      chosen.fill(SHED);
      for (let a = 0; a < own.length; a++) {
        const { rewards, whole, part } = own[a]!;
        const rest = 1 - part;
        const inside = Math.max(0, Math.min(rewards.length, last - whole));
        for (let i = 0; i < inside; i++) {
          const worth = rewards[i]! + rest * values[i + whole]! + part * values[i + whole + 1]!;
          if (worth <= best[i]!) continue;
          best[i] = worth;
          chosen[i] = a;
        }
        for (let i = inside; i < rewards.length; i++) {
          const worth = rewards[i]! + values[last]!;
          if (worth <= best[i]!) continue;
          best[i] = worth;
          chosen[i] = a;
        }
      }
      for (let i = 0; i < cells; i++) {
        const row = i * cells;
        if (chosen[i] === SHED) {
          earned[i] = earned[i]! + share * shedReward;
          shares[row + i] = shares[row + i]! + share;
          continue;
        }
        const { rewards, whole, part } = own[chosen[i]!]!;
        const to = Math.min(last, i + whole);
        const beyond = Math.min(last, to + 1);
        earned[i] = earned[i]! + share * rewards[i]!;
        shares[row + to] = shares[row + to]! + share * (1 - part);
        shares[row + beyond] = shares[row + beyond]! + share * part;
      }
    }
    this.#compress(cells);
  }

  /** What is not 0 of `#shares`. */
  #compress(cells: number): void {
    const shares = this.#shares;
    let count = 0;
    for (let i = 0; i < cells; i++) {
      // Work never becomes less by a request.
      for (let to = i, at = i * cells + i; to < cells; to++, at++) {
        if (shares[at] === 0) continue;
        this.#leads[count] = shares[at]!;
        this.#leadsTo[count++] = to;
      }
      this.#leadsEnd[i] = count;
    }
  }

  /** u from h by the last choices. */
  #follow(): void {
    const h = this.#h;
    const { length } = h;
    const leads = this.#leads;
    for (let i = 0, at = 0; i < length; i++) {
      let sum = this.#earned[i]!;
      for (; at < this.#leadsEnd[i]!; at++) sum += leads[at]! * h[this.#leadsTo[at]!]!;
      this.#u[i] = sum;
    }
  }

  #actionsOf(problem: WorkProblem): readonly (readonly Action[])[] {
    if (this.#actions?.problem !== problem) {
      const byTask = problem.tasks.map((task) =>
        task.versions.map((version) => this.#actionOf(version, task, problem)),
      );
      this.#actions = { problem, byTask };
    }
    return this.#actions.byTask;
  }

  #actionOf(version: WorkVersion, task: WorkTask, problem: WorkProblem): Action {
    const known = this.#known.get(version);
    if (known !== undefined && isOnSameGrid(known, task, problem)) return known.action;
    const { limitMs, shedReward } = task;
    const { stepMs, cells, varianceMs } = problem;
    const action = actionOf(version, task, problem);
    this.#known.set(version, { action, limitMs, shedReward, stepMs, cells, varianceMs });
    return action;
  }

  #reserve(cells: number): void {
    if (this.#h.length === cells) return;
    this.#u = new Float64Array(cells);
    this.#best = new Float64Array(cells);
    this.#h = new Float64Array(cells);
    this.#next = new Float64Array(cells);
    this.#chosen = new Uint16Array(cells);
    this.#earned = new Float64Array(cells);
    this.#shares = new Float64Array(cells * cells);
    this.#leads = new Float64Array(cells * cells);
    this.#leadsTo = new Uint16Array(cells * cells);
    this.#leadsEnd = new Uint32Array(cells);
  }
}

/**
 * Where there are more versions than cells, to choose among them costs more than to follow what was chosen: that is done
 * so many times before it is chosen anew (modified policy iteration, Puterman and Shin 1978).
 */
const FOLLOWED_SWEEPS = 5;

/** In place of the index of a version. */
const SHED = 0xffff;

/** An action and all that it follows from, beside its version. */
interface KnownAction
  extends Pick<WorkTask, 'limitMs' | 'shedReward'>,
    Pick<WorkProblem, 'stepMs' | 'cells' | 'varianceMs'> {
  readonly action: Action;
}

function isOnSameGrid(known: KnownAction, task: WorkTask, problem: WorkProblem): boolean {
  return (
    known.limitMs === task.limitMs &&
    known.shedReward === task.shedReward &&
    known.stepMs === problem.stepMs &&
    known.cells === problem.cells &&
    known.varianceMs === problem.varianceMs
  );
}

/** One version on the grid. */
interface Action {
  /** Reward by cell, as far as it beats shedding. */
  readonly rewards: Float64Array;
  /** w + s lies between the cells i + whole and i + whole + 1. */
  readonly whole: number;
  readonly part: number;
}

function improve(best: Float64Array, h: Float64Array, { rewards, whole, part }: Action): void {
  const last = h.length - 1;
  const inside = Math.min(rewards.length, last - whole);
  const rest = 1 - part;
  for (let i = 0; i < inside; i++) {
    const value = rewards[i]! + rest * h[i + whole]! + part * h[i + whole + 1]!;
    if (value > best[i]!) best[i] = value;
  }
  // Beyond the grid work is as bad as at its end.
  for (let i = Math.max(0, inside); i < rewards.length; i++) {
    const value = rewards[i]! + h[last]!;
    if (value > best[i]!) best[i] = value;
  }
}

function actionOf(
  version: WorkVersion,
  task: WorkTask,
  { stepMs, cells, varianceMs = 0 }: WorkProblem,
): Action {
  const { reward, meanMs, deviationMs } = version;
  const marginMs = task.limitMs - meanMs;
  // The spread grows with work, so what is certain with the spread at the limit is certain before.
  const widestMs = CERTAIN * Math.sqrt(deviationMs ** 2 + varianceMs * Math.max(0, marginMs));
  const certain = Math.min(cells, Math.max(0, Math.floor((marginMs - widestMs) / stepMs) + 1));
  const rewards = new Float64Array(cells).fill(reward, 0, certain);
  let end = certain;
  for (; end < cells; end++) {
    const workMs = end * stepMs;
    const spreadMs = Math.sqrt(deviationMs ** 2 + varianceMs * workMs);
    const earned = rewardOf(version, spreadMs, task.shedReward, task.limitMs - workMs);
    if (earned <= task.shedReward) break;
    rewards[end] = earned;
  }
  const whole = Math.floor(version.meanMs / stepMs);
  return { rewards: rewards.subarray(0, end), whole, part: version.meanMs / stepMs - whole };
}

/** What a version is worth to a request that has `slackMs` left: accuracy if in time, the price of shedding if not. */
export function rewardOf(
  { reward, meanMs }: Pick<WorkVersion, 'reward' | 'meanMs'>,
  deviationMs: number,
  shedReward: number,
  slackMs: number,
): number {
  const onTime = onTimeRatio(slackMs - meanMs, deviationMs);
  return onTime === 1 ? reward : onTime * reward + (1 - onTime) * shedReward;
}

/** Beyond so many standard deviations a time is certain. */
const CERTAIN = 3;

/** Chance that a service time exceeds its mean by no more than `marginMs`: normal distribution, cut off at 3 σ. */
export function onTimeRatio(marginMs: number, deviationMs: number): number {
  if (marginMs < 0 && marginMs <= -CERTAIN * deviationMs) return 0;
  if (marginMs >= CERTAIN * deviationMs) return 1;
  const place = (marginMs / deviationMs + CERTAIN) * (NORMAL_CELLS / (2 * CERTAIN));
  const cell = Math.floor(place);
  return NORMAL[cell]! + (place - cell) * (NORMAL[cell + 1]! - NORMAL[cell]!);
}

const NORMAL_CELLS = 120;
/** The normal distribution from −3 σ to 3 σ, by integrating its density; scaled to 0 and 1 at the ends. */
const NORMAL = normalTable();

function normalTable(): Float64Array {
  const table = new Float64Array(NORMAL_CELLS + 2);
  const width = (2 * CERTAIN) / NORMAL_CELLS;
  for (let i = 1; i <= NORMAL_CELLS; i++) {
    const middle = -CERTAIN + (i - 0.5) * width;
    table[i] = table[i - 1]! + Math.exp((-middle * middle) / 2);
  }
  const total = table[NORMAL_CELLS]!;
  for (let i = 0; i <= NORMAL_CELLS; i++) table[i] = table[i]! / total;
  table[NORMAL_CELLS + 1] = 1;
  return table;
}

/**
 * Weights by which h follows from u cell by cell: hᵢ = stay · hᵢ₋₁ + here · uᵢ + below · uᵢ₋₁. Exact where u is linear
 * between cells: stay = e^(−Λδ), below = ∫₀^δ Λ e^(−Λτ) τ/δ dτ.
 */
function idleWeights({ stepMs, arrivalsPerMs }: Pick<WorkProblem, 'stepMs' | 'arrivalsPerMs'>): {
  stay: number;
  here: number;
  below: number;
} {
  const x = arrivalsPerMs * stepMs;
  const stay = Math.exp(-x);
  // The difference of two numbers near 1 loses all digits where hardly anything arrives.
  const below = x < 1e-4 ? x / 2 : (1 - stay * (1 + x)) / x;
  return { stay, here: 1 - stay - below, below };
}

/** h between the cells; beyond the last one its value there. */
export function valueAt(values: ArrayLike<number>, stepMs: number, workMs: number): number {
  const place = workMs / stepMs;
  const last = values.length - 1;
  if (place >= last) return values[last]!;
  const cell = Math.floor(place);
  return values[cell]! + (place - cell) * (values[cell + 1]! - values[cell]!);
}
