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
  /** How many times choices were evaluated. */
  readonly rounds: number;
}

export interface SolveLimits {
  /** Choices are evaluated at most so many times. */
  readonly rounds: number;
  /** It ends when no value changes by more than this. */
  readonly tolerance: number;
}

export interface SweepLimits {
  readonly sweeps: number;
  /** Sweeping ends when no share changes by more than this. */
  readonly tolerance: number;
}

/** Buffers that are used again from call to call; two solvers never share one. */
export class WorkSolver {
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
  /** Of the values of choices and their gain. */
  #equations = new Float64Array(0);
  /** By column, the row that it is solved by. */
  #order = new Uint16Array(0);
  /** The versions of the problem that was last looked at, on its grid. */
  #actions: { readonly problem: WorkProblem; readonly byTask: readonly (readonly Action[])[] } | undefined;
  /** By version: problems that differ in their demand alone, or in which versions they may use, share them. */
  readonly #known = new WeakMap<WorkVersion, KnownAction>();

  /**
   * The best choices and their value by policy iteration (Howard 1960), from `initial` (the values of the problem before) on:
   * choices are evaluated exactly, since a sweep of value iteration looks one arrival ahead, and a queue of short
   * inferences is many hundred arrivals long. A problem without arrivals has the value 0 everywhere.
   */
  solve(problem: WorkProblem, { rounds, tolerance }: SolveLimits, initial?: ArrayLike<number>): WorkValue {
    const { cells } = problem;
    this.#reserve(cells);
    const h = this.#h;
    for (let i = 0; i < cells; i++) h[i] = initial?.[i] ?? 0;
    let gain = 0;
    let done = 0;
    while (problem.arrivalsPerMs > 0 && done < rounds) {
      this.#choose(problem, h);
      gain = this.#evaluate(problem);
      done++;
      let changed = 0;
      for (let i = 0; i < cells; i++) changed = Math.max(changed, Math.abs(this.#next[i]! - h[i]!));
      h.set(this.#next);
      if (changed <= tolerance) break;
    }
    return { values: h.slice(), gain, rounds: done };
  }

  /**
   * What the last choices are worth, into `#next`. With u = earned + leads · h, the recursion of h is one linear equation for each
   * cell but the first, whose value is 0, and u₀ = g is one more:
   *
   *     hᵢ − stay · hᵢ₋₁ − here · (leads · h)ᵢ − below · (leads · h)ᵢ₋₁ + (here + below) · g  =  here · earnedᵢ + below · earnedᵢ₋₁
   *     g − (leads · h)₀  =  earned₀
   *
   * Requests lead to no less work, so that the only coefficient left of the diagonal is that of hᵢ₋₁: Gaussian elimination
   * has three rows to choose its pivot from (the one before, the next, the last equation) and two to free of it. It has to
   * choose: in overload a chain comes back to no work once in e^(Λ·SLO) arrivals.
   * @returns g
   */
  #evaluate(problem: WorkProblem): number {
    const { cells } = problem;
    const { stay, here, below } = idleWeights(problem);
    const m = this.#equations.fill(0);
    // Columns: h₁ …, g, the right-hand side.
    const width = cells + 1;
    const border = cells - 1;
    const leadFrom = (cell: number, row: number, factor: number) => {
      for (let at = cell === 0 ? 0 : this.#leadsEnd[cell - 1]!; at < this.#leadsEnd[cell]!; at++) {
        const to = this.#leadsTo[at]!;
        if (to > 0) m[row + to - 1] = m[row + to - 1]! - factor * this.#leads[at]!;
      }
    };
    for (let i = 1; i < cells; i++) {
      const row = (i - 1) * width;
      leadFrom(i, row, here);
      leadFrom(i - 1, row, below);
      m[row + i - 1] = m[row + i - 1]! + 1;
      if (i > 1) m[row + i - 2] = m[row + i - 2]! - stay;
      m[row + border] = here + below;
      m[row + cells] = here * this.#earned[i]! + below * this.#earned[i - 1]!;
    }
    leadFrom(0, border * width, 1);
    m[border * width + border] = 1;
    m[border * width + cells] = this.#earned[0]!;

    const order = this.#order;
    const free = (row: number, pivot: number, column: number) => {
      const factor = m[row * width + column]! / m[pivot * width + column]!;
      if (factor === 0) return;
      for (let at = column; at < width; at++)
        m[row * width + at] = m[row * width + at]! - factor * m[pivot * width + at]!;
    };
    // The two that the columns before have left, and with each column the next one.
    let rows = [0, border];
    for (let column = 0; column < border; column++) {
      if (column + 1 < border) rows.push(column + 1);
      let pivot = rows[0]!;
      for (const row of rows) {
        if (Math.abs(m[row * width + column]!) > Math.abs(m[pivot * width + column]!)) pivot = row;
      }
      rows = rows.filter((row) => row !== pivot);
      for (const row of rows) free(row, pivot, column);
      order[column] = pivot;
    }
    const last = rows[0]! * width;
    const gain = m[last + cells]! / m[last + border]!;
    const h = this.#next;
    h[0] = 0;
    for (let column = border - 1; column >= 0; column--) {
      const row = order[column]! * width;
      let value = m[row + cells]! - m[row + border]! * gain;
      for (let at = column + 1; at < border; at++) value -= m[row + at]! * h[at + 1]!;
      h[column + 1] = value / m[row + column]!;
    }
    return gain;
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
    this.#best = new Float64Array(cells);
    this.#h = new Float64Array(cells);
    this.#next = new Float64Array(cells);
    this.#chosen = new Uint16Array(cells);
    this.#earned = new Float64Array(cells);
    this.#shares = new Float64Array(cells * cells);
    this.#leads = new Float64Array(cells * cells);
    this.#leadsTo = new Uint16Array(cells * cells);
    this.#leadsEnd = new Uint32Array(cells);
    this.#equations = new Float64Array(cells * (cells + 1));
    this.#order = new Uint16Array(cells);
  }
}

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
