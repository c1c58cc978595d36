import { expect, test } from 'vitest';
import {
  onTimeRatio,
  valueAt,
  type WorkProblem,
  WorkSolver,
  type WorkTask,
  type WorkVersion,
} from './value-function.ts';

const EXACT = { rounds: 100, tolerance: 1e-13 };

function problem(figures: {
  cells: number;
  arrivalsPerMs: number;
  tasks: readonly { share: number; limitMs: number; versions: readonly [reward: number, meanMs: number][] }[];
}): WorkProblem {
  return {
    stepMs: 10,
    cells: figures.cells,
    arrivalsPerMs: figures.arrivalsPerMs,
    tasks: figures.tasks.map(
      ({ share, limitMs, versions }): WorkTask => ({
        share,
        shedReward: -1.5,
        limitMs,
        versions: versions.map(([reward, meanMs]): WorkVersion => ({ reward, meanMs, deviationMs: 0 })),
      }),
    ),
  };
}

const TINY: readonly WorkProblem[] = [
  problem({
    cells: 5,
    arrivalsPerMs: 0.03,
    tasks: [
      {
        share: 1,
        limitMs: 40,
        versions: [
          [1, 30],
          [0.6, 10],
        ],
      },
    ],
  }),
  problem({
    cells: 6,
    arrivalsPerMs: 0.08,
    tasks: [
      {
        share: 1,
        limitMs: 50,
        versions: [
          [1, 40],
          [0.85, 20],
        ],
      },
    ],
  }),
  // Two tasks, one with a tighter limit.
  problem({
    cells: 4,
    arrivalsPerMs: 0.05,
    tasks: [
      {
        share: 0.3,
        limitMs: 30,
        versions: [
          [1, 30],
          [0.7, 10],
        ],
      },
      {
        share: 0.7,
        limitMs: 20,
        versions: [
          [0.9, 20],
          [0.5, 10],
        ],
      },
    ],
  }),
];

test.each(TINY)(
  'the gain is that of the best of all stationary policies, each evaluated by its chain ($cells cells)',
  (tiny) => {
    const { gain, values } = new WorkSolver().solve(tiny, EXACT);
    // The chain integrates numerically, to about 2e-7.
    expect(gain).toBeCloseTo(bestGain(tiny), 6);
    expect(values[0]).toBe(0);
  },
);

test('a warm start ends where a cold one does, in fewer rounds', () => {
  const solver = new WorkSolver();
  const [tiny] = TINY;
  const cold = solver.solve(tiny!, EXACT);
  const moved = { ...tiny!, arrivalsPerMs: 0.031 };
  const warm = solver.solve(moved, EXACT, cold.values);
  const fresh = solver.solve(moved, EXACT);
  expect(warm.rounds).toBeLessThan(fresh.rounds);
  expect(warm.gain).toBeCloseTo(fresh.gain, 9);
  warm.values.forEach((value, i) => {
    expect(value).toBeCloseTo(fresh.values[i]!, 9);
  });
});

test('work never gains value: h falls, and dearer demand makes it fall faster', () => {
  const solver = new WorkSolver();
  const solved = [0.02, 0.05, 0.1].map((arrivalsPerMs) =>
    solver.solve({ ...TINY[0]!, arrivalsPerMs }, EXACT),
  );
  for (const { values } of solved) {
    for (let i = 1; i < values.length; i++) expect(values[i]!).toBeLessThanOrEqual(values[i - 1]! + 1e-12);
  }
  const prices = solved.map(({ values }) => -values[1]!);
  expect(prices[0]!).toBeLessThan(prices[1]!);
  const gains = solved.map(({ gain }) => gain);
  expect(gains).toEqual(gains.toSorted((a, b) => b - a));
});

test('without arrivals nothing has a price', () => {
  const { values, gain } = new WorkSolver().solve({ ...TINY[0]!, arrivalsPerMs: 0 }, EXACT);
  expect(Array.from(values)).toEqual([0, 0, 0, 0, 0]);
  expect(gain).toBe(0);
});

test('the distribution of work under one version is that of an M/D/1 queue', () => {
  // ρ = 0.5, s = 40 ms: Pollaczek and Khinchine give a mean wait of ρ s / (2 (1 − ρ)) = 20 ms. A limit far off sheds nothing.
  const queue = problem({
    cells: 401,
    arrivalsPerMs: 0.0125,
    tasks: [{ share: 1, limitMs: 1e6, versions: [[1, 40]] }],
  });
  const solver = new WorkSolver();
  const fine = { ...queue, stepMs: 2 };
  const { values } = solver.solve(fine, { rounds: 10, tolerance: 1e-9 });
  const distribution = solver.distribution(fine, values, { sweeps: 400, tolerance: 0 });
  const sum = distribution.reduce((total, mass) => total + mass, 0);
  const meanMs = distribution.reduce((total, mass, i) => total + mass * i * fine.stepMs, 0);
  expect(sum).toBeCloseTo(1, 9);
  // P(no wait) = 1 − ρ; work of less than a cell counts in part as none.
  expect(distribution[0]!).toBeGreaterThan(0.5);
  expect(distribution[0]!).toBeLessThan(0.52);
  expect(meanMs / 20).toBeGreaterThan(0.97);
  expect(meanMs / 20).toBeLessThan(1.03);
});

test('the gain is the reward that arrivals meet under the distribution', () => {
  const solver = new WorkSolver();
  for (const tiny of TINY) {
    const { gain, values } = solver.solve(tiny, EXACT);
    const distribution = solver.distribution(tiny, values, { sweeps: 2_000, tolerance: 0 });
    const choices = tiny.tasks.map((task) => bestChoices(task, tiny, values));
    let reward = 0;
    for (let i = 0; i < tiny.cells; i++) {
      for (const [k, task] of tiny.tasks.entries()) {
        reward += distribution[i]! * task.share * rewardOfChoice(task, choices[k]![i]!);
      }
    }
    expect(reward).toBeCloseTo(gain, 8);
  }
});

test('the chance of being in time is that of a normal distribution', () => {
  expect(onTimeRatio(0, 10)).toBeCloseTo(0.5, 9);
  // Φ(1) = 0.8413, Φ(−2) = 0.0228
  expect(onTimeRatio(10, 10)).toBeCloseTo(0.8413, 2);
  expect(onTimeRatio(-20, 10)).toBeCloseTo(0.0228, 2);
  expect(onTimeRatio(30, 10)).toBe(1);
  expect(onTimeRatio(-30, 10)).toBe(0);
  expect([onTimeRatio(0, 0), onTimeRatio(1, 0), onTimeRatio(-1, 0)]).toEqual([1, 1, 0]);
  expect(onTimeRatio(Number.POSITIVE_INFINITY, 5)).toBe(1);
});

test('values between cells lie on the line between them, beyond the end on its level', () => {
  expect([0, 5, 10, 17, 99].map((workMs) => valueAt([0, -2, -6], 10, workMs))).toEqual([0, -1, -2, -4.8, -6]);
});

/** Of every task and cell a choice: −1 sheds, else a version that is in time. */
function bestGain(tiny: WorkProblem): number {
  const options = tiny.tasks.flatMap((task) =>
    Array.from({ length: tiny.cells }, (_, i) => [
      -1,
      ...task.versions.flatMap(({ meanMs }, v) =>
        i * tiny.stepMs + meanMs <= task.limitMs && i + meanMs / tiny.stepMs < tiny.cells ? [v] : [],
      ),
    ]),
  );
  const drains = drainMatrix(tiny);
  let best = Number.NEGATIVE_INFINITY;
  for (const choices of combinations(options)) best = Math.max(best, gainOf(tiny, choices, drains));
  return best;
}

function* combinations(options: readonly (readonly number[])[]): Generator<number[]> {
  if (options.length === 0) {
    yield [];
    return;
  }
  for (const rest of combinations(options.slice(1))) for (const first of options[0]!) yield [first, ...rest];
}

/** Long-run reward per arrival of fixed choices: the chain's stationary distribution by repeated squaring of its matrix. */
function gainOf(tiny: WorkProblem, choices: readonly number[], drains: readonly number[][]): number {
  const { cells, tasks, stepMs } = tiny;
  const reward = new Array<number>(cells).fill(0);
  let step = Array.from({ length: cells }, () => new Array<number>(cells).fill(0));
  for (let i = 0; i < cells; i++) {
    for (const [k, task] of tasks.entries()) {
      const choice = choices[k * cells + i]!;
      reward[i]! += task.share * rewardOfChoice(task, choice);
      const after = choice < 0 ? i : i + task.versions[choice]!.meanMs / stepMs;
      for (let j = 0; j < cells; j++) step[i]![j]! += task.share * drains[after]![j]!;
    }
  }
  for (let doubling = 0; doubling < 14; doubling++) step = product(step, step);
  return step[0]!.reduce((sum, mass, j) => sum + mass * reward[j]!, 0);
}

function product(a: readonly number[][], b: readonly number[][]): number[][] {
  return a.map((row) => b[0]!.map((_, j) => row.reduce((sum, value, i) => sum + value * b[i]![j]!, 0)));
}

/** Chance of each cell at the next arrival, by cell of work before: the exponential law, integrated numerically, shared between neighbouring cells. */
function drainMatrix({ cells, stepMs, arrivalsPerMs }: WorkProblem): number[][] {
  const pieces = 4_000;
  return Array.from({ length: cells }, (_, from) => {
    const row = new Array<number>(cells).fill(0);
    const workMs = from * stepMs;
    for (let piece = 0; piece < pieces; piece++) {
      const idleMs = (workMs * (piece + 0.5)) / pieces;
      const mass = arrivalsPerMs * Math.exp(-arrivalsPerMs * idleMs) * (workMs / pieces);
      const place = (workMs - idleMs) / stepMs;
      const cell = Math.floor(place);
      row[cell]! += mass * (1 - (place - cell));
      if (cell + 1 < cells) row[cell + 1]! += mass * (place - cell);
    }
    row[0]! += 1 - row.reduce((sum, mass) => sum + mass, 0);
    return row;
  });
}

function bestChoices(task: WorkTask, { cells, stepMs }: WorkProblem, values: ArrayLike<number>): number[] {
  return Array.from({ length: cells }, (_, i) => {
    let best = -1;
    let value = task.shedReward + values[i]!;
    for (const [v, { reward, meanMs }] of task.versions.entries()) {
      if (i * stepMs + meanMs > task.limitMs) continue;
      const worth = reward + valueAt(values, stepMs, i * stepMs + meanMs);
      if (worth > value) [best, value] = [v, worth];
    }
    return best;
  });
}

function rewardOfChoice(task: WorkTask, choice: number): number {
  return choice < 0 ? task.shedReward : task.versions[choice]!.reward;
}

test('tasks that are alike are the same problem as one, on small grids and large ones', () => {
  const versions: [reward: number, meanMs: number][] = [
    [1, 30],
    [0.85, 20],
    [0.6, 10],
  ];
  const crowded = (count: number, cells: number) =>
    problem({
      cells,
      arrivalsPerMs: 0.06,
      tasks: Array.from({ length: count }, () => ({ share: 1 / count, limitMs: 45, versions })),
    });
  const solver = new WorkSolver();
  const alone = solver.solve(crowded(1, 6), EXACT);
  for (const cells of [6, 400]) {
    const together = solver.solve(crowded(5, cells), EXACT);
    expect(together.gain).toBeCloseTo(alone.gain, 9);
    for (const [i, value] of alone.values.entries()) expect(together.values[i]).toBeCloseTo(value, 9);
  }
});

test('a queue of many short inferences has its price at once, whatever it was before', () => {
  const versions: [reward: number, meanMs: number][] = [
    [1, 0.8],
    [0.92, 0.5],
  ];
  const short = problem({ cells: 41, arrivalsPerMs: 1.7, tasks: [{ share: 1, limitMs: 380, versions }] });
  const solver = new WorkSolver();
  const calm = solver.solve({ ...short, arrivalsPerMs: 0.9 }, { rounds: 10, tolerance: 1e-4 });
  const { values, gain } = solver.solve(short, { rounds: 10, tolerance: 1e-4 }, calm.values);
  // Demand needs 1.36 of the slot by the first version and 0.85 by the second: both, so that their worth is the same.
  const fluidPrice = (1 - 0.92) / (0.8 - 0.5);
  const price = (values[10]! - values[20]!) / (10 * short.stepMs);
  expect(price / fluidPrice).toBeGreaterThan(1);
  expect(price / fluidPrice).toBeLessThan(1.5);
  // A share p of the first, by which p · 0.8 + (1 − p) · 0.5 = 1 / 1.7.
  const share = (1 / 1.7 - 0.5) / 0.3;
  expect(gain).toBeCloseTo(share + (1 - share) * 0.92, 2);
});

test.each([0.2, 2, 20, 200])(
  'overload of %d arrivals a ms, from which no chain comes back to no work, has finite values',
  (arrivalsPerMs) => {
    const versions: [reward: number, meanMs: number][] = [
      [1, 40],
      [0.9, 1],
      [0.8, 0.5],
    ];
    const busy = problem({ cells: 50, arrivalsPerMs, tasks: [{ share: 1, limitMs: 380, versions }] });
    const { values, gain, rounds } = new WorkSolver().solve(busy, { rounds: 30, tolerance: 1e-6 });
    expect(rounds).toBeLessThan(30);
    // At most 1 / 0.5 ms are answered, with 0.8 each; the others are shed.
    const answered = Math.min(1, 2 / arrivalsPerMs);
    expect(gain).toBeLessThanOrEqual(1);
    expect(gain).toBeGreaterThan(0.9 * answered * 0.8 - (1 - answered) * 1.6);
    for (let i = 1; i < values.length; i++) expect(values[i]!).toBeLessThanOrEqual(values[i - 1]! + 1e-9);
  },
);
