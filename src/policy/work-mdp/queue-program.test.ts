import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  accepts,
  batchServiceMs,
  type DispatchState,
  type QueuedRequest,
  type ResidentVersion,
} from '../dispatch.ts';
import { bonsaiDispatch } from './bonsai.ts';
import type { WorkPlan } from './plan.ts';
import { QueueProgram } from './queue-program.ts';

const LATE_COST = 1.5;
const STEP_MS = 10;
const CELLS = 51;
const NOW_MS = 5_000;

/** A falling, concave price of work: value(w) = −scale · (w / 500 ms)². */
function planOf(scale: number, tasks: readonly string[] = ['a', 'b'], deviation = 0, ratio = 1): WorkPlan {
  return {
    kind: 'work-mdp',
    stepMs: STEP_MS,
    values: Array.from({ length: CELLS }, (_, i) => -scale * (i / (CELLS - 1)) ** 2),
    lateCost: LATE_COST,
    varianceMs: 0,
    gain: 0.8,
    arrivalsPerMs: 0.02,
    surges: [],
    tasks: tasks.map((task) => ({ task, demandRps: 10, ratio, deviation, versions: [] })),
  };
}

function request(figures: Partial<QueuedRequest> & { task: number; slackMs: number }): QueuedRequest {
  const { slackMs, ...rest } = figures;
  return { arrivalMs: NOW_MS - 50, deadlineMs: NOW_MS + slackMs, weight: 1, priority: 'realtime', ...rest };
}

function stateOf(figures: {
  queue: readonly QueuedRequest[];
  families: readonly (readonly ResidentVersion[])[];
  plan: WorkPlan;
  guardMs?: number;
}): DispatchState {
  const { queue, families, plan, guardMs = 0 } = figures;
  const tasks = families.map((versions, k) => ({ task: 'ab'[k]!, versions, sloMs: 400, weight: 1 }));
  return { nowMs: NOW_MS, slot: 0, queue, tasks, guardMs, plan };
}

/** Service times are whole cells, so that nothing lies between them. */
function family(...pairs: readonly (readonly [accuracy: number, serviceMs: number])[]): ResidentVersion[] {
  return pairs.map(([accuracy, serviceMs], i) => ({ version: i + 1, accuracy, serviceMs, dispatched: 0 }));
}

const FAMILIES = [family([1, 120], [0.85, 60], [0.6, 20]), family([1, 90], [0.7, 30])];

const queues = fc
  .array(
    fc.record({
      task: fc.integer({ min: 0, max: 1 }),
      slackMs: fc.integer({ min: -2, max: 30 }).map((cells) => cells * STEP_MS),
      weight: fc.constantFrom(1, 1, 2),
      minAccuracy: fc.constantFrom(undefined, undefined, 0.65, 0.9),
    }),
    { minLength: 1, maxLength: 5 },
  )
  .map((requests) => requests.toSorted((a, b) => a.slackMs - b.slackMs).map(request));
const scales = fc.constantFrom(0, 0.3, 2, 8);

/** The best value of the queue from request i on, w ms committed, over every choice of versions and sheddings. */
function exhaustive(state: DispatchState, plan: WorkPlan, i: number, workMs: number): number {
  const next = state.queue[i];
  if (next === undefined) return plan.values[workMs / STEP_MS]!;
  let best = exhaustive(state, plan, i + 1, workMs) - LATE_COST * next.weight;
  for (const version of state.tasks[next.task]!.versions) {
    if (!accepts(next, version) || NOW_MS + workMs + version.serviceMs > next.deadlineMs) continue;
    best = Math.max(
      best,
      next.weight * version.accuracy + exhaustive(state, plan, i + 1, workMs + version.serviceMs),
    );
  }
  return best;
}

/** The same if the first request is given the version, or shed (undefined). */
function worthOf(state: DispatchState, plan: WorkPlan, version: ResidentVersion | undefined): number {
  const first = state.queue[0]!;
  if (version === undefined) return exhaustive(state, plan, 1, 0) - LATE_COST * first.weight;
  const isLate = NOW_MS + version.serviceMs > first.deadlineMs;
  return (
    first.weight * (isLate ? -LATE_COST : version.accuracy) + exhaustive(state, plan, 1, version.serviceMs)
  );
}

test('the first request gets the version of the best plan among all plans of the queue', () => {
  fc.assert(
    fc.property(queues, scales, (queue, scale) => {
      const plan = planOf(scale);
      const state = stateOf({ queue, families: FAMILIES, plan });
      const decision = new QueueProgram().pick(state, plan);
      if (decision.kind !== 'run') return;
      const versions = FAMILIES[queue[0]!.task]!.filter((version) => accepts(queue[0]!, version));
      const best = Math.max(...versions.map((version) => worthOf(state, plan, version)));
      const chosen = versions.find(({ version }) => version === decision.version)!;
      expect(worthOf(state, plan, chosen)).toBeCloseTo(best, 9);
    }),
    { seed: 21, numRuns: 400 },
  );
});

test('requests beyond those that are planned one by one still count as work', () => {
  const crowd = Array.from({ length: 14 }, () => request({ task: 0, slackMs: 300 }));
  const pick = (count: number) => {
    const plan = planOf(0.3);
    const state = stateOf({ queue: crowd.slice(0, count), families: FAMILIES, plan });
    const decision = new QueueProgram({ look: 4 }).pick(state, plan);
    return decision.kind === 'run'
      ? FAMILIES[0]!.find(({ version }) => version === decision.version)!.serviceMs
      : 0;
  };
  // 14 × 20 ms fill 300 ms but for one cell: no room for the middle version's 40 ms more.
  expect([pick(1), pick(14)]).toEqual([120, 20]);
});

test('of versions that are worth the same the faster answers, wherever it stands', () => {
  const slow = { version: 1, accuracy: 1, serviceMs: 30, dispatched: 0 };
  const fast = { version: 2, accuracy: 1, serviceMs: 10, dispatched: 0 };
  // Work costs nothing, so both are worth their accuracy.
  const plan = planOf(0);
  for (const versions of [
    [slow, fast],
    [fast, slow],
  ]) {
    const state = stateOf({ queue: [request({ task: 0, slackMs: 300 })], families: [versions], plan });
    expect(new QueueProgram().pick(state, plan)).toMatchObject({ kind: 'run', version: 2 });
  }
});

describe('laws', () => {
  test('only resident versions, never below what the client accepts; the input is untouched; same state, same decision', () => {
    fc.assert(
      fc.property(
        queues,
        scales,
        fc.constantFrom(0, 15),
        fc.subarray([0, 1, 2]),
        (queue, scale, guardMs, resident) => {
          const plan = planOf(scale, ['a', 'b'], 0.1, 1.2);
          const families = [FAMILIES[0]!.filter((_, i) => resident.includes(i)), FAMILIES[1]!];
          const state = stateOf({ queue, families, plan, guardMs });
          const copy = structuredClone(state);
          const dispatch = bonsaiDispatch();
          const decision = dispatch.pick(state);
          expect(dispatch.pick(state)).toEqual(decision);
          expect(state).toEqual(copy);
          if (decision.kind !== 'run') return;
          const chosen = queue[decision.index]!;
          const version = families[chosen.task]!.find((candidate) => candidate.version === decision.version);
          expect(version).toBeDefined();
          expect(accepts(chosen, version!)).toBe(true);
        },
      ),
      { seed: 22, numRuns: 500 },
    );
  });

  test('sheds only what cannot be in time, or where not all can even with the smallest versions', () => {
    let sheds = 0;
    fc.assert(
      fc.property(queues, scales, (queue, scale) => {
        const plan = planOf(scale);
        const state = stateOf({ queue, families: FAMILIES, plan });
        const decision = new QueueProgram().pick(state, plan);
        if (decision.kind !== 'shed') return;
        sheds++;
        const fastest = (member: QueuedRequest) =>
          Math.min(
            ...FAMILIES[member.task]!.filter((version) => accepts(member, version)).map(
              ({ serviceMs }) => serviceMs,
            ),
          );
        if (decision.reason === 'deadline') {
          expect(NOW_MS + fastest(queue[decision.index]!)).toBeGreaterThan(queue[decision.index]!.deadlineMs);
        } else {
          expect(decision.reason).toBe('overload');
          let workMs = 0;
          const fits = queue.every((member) => {
            workMs += fastest(member);
            return NOW_MS + workMs <= member.deadlineMs;
          });
          expect(fits).toBe(false);
        }
      }),
      { seed: 23, numRuns: 500 },
    );
    expect(sheds).toBeGreaterThan(50);
  });

  test('more time never means less accuracy', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 20, max: 400 }),
        fc.integer({ min: 0, max: 200 }),
        scales,
        (slackMs, moreMs, scale) => {
          const plan = planOf(scale);
          const accuracyAt = (atMs: number) => {
            const state = stateOf({ queue: [request({ task: 0, slackMs: atMs })], families: FAMILIES, plan });
            const decision = new QueueProgram().pick(state, plan);
            return decision.kind === 'run' ? FAMILIES[0]![decision.version - 1]!.accuracy : 0;
          };
          expect(accuracyAt(slackMs + moreMs)).toBeGreaterThanOrEqual(accuracyAt(slackMs));
        },
      ),
      { seed: 24, numRuns: 300 },
    );
  });

  test('dearer work never means more accuracy for a request alone', () => {
    const accuracies = [0, 0.3, 2, 8, 40].map((scale) => {
      const plan = planOf(scale);
      const state = stateOf({ queue: [request({ task: 0, slackMs: 400 })], families: FAMILIES, plan });
      const decision = new QueueProgram().pick(state, plan);
      return decision.kind === 'run' ? FAMILIES[0]![decision.version - 1]!.accuracy : 0;
    });
    expect(accuracies).toEqual(accuracies.toSorted((a, b) => b - a));
    expect(new Set(accuracies).size).toBeGreaterThan(1);
  });
});

test('the guard, the spread and slower versions than told all make the choice more careful', () => {
  const choose = (guardMs: number, deviation: number, ratio: number) => {
    const plan = planOf(0, ['a', 'b'], deviation, ratio);
    const state = stateOf({ queue: [request({ task: 0, slackMs: 125 })], families: FAMILIES, plan, guardMs });
    const decision = new QueueProgram().pick(state, plan);
    return decision.kind === 'run' ? decision.version : 0;
  };
  expect(choose(0, 0, 1)).toBe(1); // 120 of 125 ms
  expect(choose(10, 0, 1)).toBe(2);
  expect(choose(0, 0.1, 1)).toBe(2); // 5 ms margin is 0.4 σ: late with 34 %
  expect(choose(0, 0, 1.1)).toBe(2); // 132 ms
});

test('a request whose task has nothing resident waits for it, others pass, and it ends when its time is over', () => {
  const plan = planOf(1);
  const families = [[], FAMILIES[1]!];
  const program = new QueueProgram();
  const early = request({ task: 0, slackMs: 50 });
  const late = request({ task: 1, slackMs: 300 });
  expect(program.pick(stateOf({ queue: [early, late], families, plan }), plan)).toMatchObject({
    kind: 'run',
    index: 1,
  });
  expect(program.pick(stateOf({ queue: [early], families, plan }), plan)).toEqual({ kind: 'wait' });
  const dead = request({ task: 0, slackMs: -1 });
  expect(program.pick(stateOf({ queue: [dead, late], families, plan }), plan)).toEqual({
    kind: 'shed',
    index: 0,
    reason: 'unavailable',
  });
});

test('a floor that nothing resident reaches is refused as such', () => {
  const plan = planOf(1);
  const picky = request({ task: 1, slackMs: 300, minAccuracy: 0.9 });
  const state = stateOf({ queue: [picky], families: [FAMILIES[0]!, FAMILIES[1]!.slice(1)], plan });
  expect(new QueueProgram().pick(state, plan)).toEqual({ kind: 'shed', index: 0, reason: 'accuracy' });
});

describe('demand beyond what was planned for', () => {
  /** Work is free at the demand that was planned for, and dear at twice as much. */
  const plan: WorkPlan = {
    ...planOf(0, ['a']),
    arrivalsPerMs: 0.2,
    surges: [
      { arrivalsPerMs: 0.4, values: planOf(8).values },
      { arrivalsPerMs: 0.8, values: planOf(100).values },
    ],
  };
  const versions = family([1, 4], [0.9, 2], [0.5, 1]);
  /** So many wait, the first of them for so long. */
  const pickOf = (count: number, forMs: number, withPlan = plan) => {
    const queue = Array.from({ length: count }, (_, i) => {
      const arrivalMs = NOW_MS - forMs + (i * forMs) / count;
      return { ...request({ task: 0, slackMs: 0 }), arrivalMs, deadlineMs: arrivalMs + 400 };
    });
    const state = stateOf({ queue, families: [versions], plan: withPlan });
    const decision = new QueueProgram().pick(state, withPlan);
    return decision.kind === 'run' ? decision.version : decision.kind;
  };

  test('counts as soon as the queue tells of it', () => {
    // 100 ms at 0.2 requests/ms bring 20 ± 4.5.
    expect(pickOf(20, 100)).toBe(1);
    expect(pickOf(72, 100)).toBe(2);
    expect(pickOf(72, 100, { ...plan, surges: [] })).toBe(1);
  });

  test('is not read from a short queue, nor from what chance brings', () => {
    const rare = { ...plan, arrivalsPerMs: 0.02 };
    // Four times what was planned for, but done within an eighth of the objective.
    expect(pickOf(45, 100, rare)).toBe(1);
    // Just as long a queue, of requests that came as planned.
    expect(pickOf(72, 360)).toBe(1);
  });

  test('is read from requests with an objective alone', () => {
    const waiting = Array.from({ length: 10 }, () => request({ task: 0, slackMs: 300 }));
    const idle = Array.from({ length: 90 }, () =>
      request({ task: 0, slackMs: Number.POSITIVE_INFINITY, priority: 'batch' }),
    );
    const state = stateOf({ queue: [...waiting, ...idle], families: [versions], plan });
    expect(new QueueProgram().pick(state, plan)).toMatchObject({ kind: 'run', version: 1 });
  });
});

describe('requests without deadline', () => {
  const idle = request({ task: 0, slackMs: Number.POSITIVE_INFINITY, priority: 'batch' });

  test('fill an idle slot with a version that blocks it for a quarter of an SLO at most', () => {
    const plan = planOf(0.1);
    const state = stateOf({ queue: [idle], families: FAMILIES, plan });
    // 120 ms are more than 400 / 4.
    expect(new QueueProgram().pick(state, plan)).toEqual({ kind: 'run', index: 0, version: 2 });
  });

  test('wait while time is dearer than their accuracy, and behind every request with a deadline', () => {
    const dear = { ...planOf(0), values: Array.from({ length: CELLS }, (_, i) => -i) };
    expect(new QueueProgram().pick(stateOf({ queue: [idle], families: FAMILIES, plan: dear }), dear)).toEqual(
      { kind: 'wait' },
    );
    const plan = planOf(0.1);
    const state = stateOf({ queue: [request({ task: 1, slackMs: 100 }), idle], families: FAMILIES, plan });
    expect(new QueueProgram().pick(state, plan)).toMatchObject({ kind: 'run', index: 0 });
  });
});

describe('batches', () => {
  const batching = (batchSharedRatio: number, maxBatch = 8) => [
    FAMILIES[0]!.map((version) => ({ ...version, batchSharedRatio, maxBatch })),
    FAMILIES[1]!,
  ];
  const queue = [0, 1, 0, 0, 0].map((task) => request({ task, slackMs: 300 }));

  test('take requests of one task together where that saves time', () => {
    const plan = planOf(2);
    const families = batching(0.9);
    const decision = new QueueProgram().pick(stateOf({ queue, families, plan }), plan);
    expect(decision).toMatchObject({ kind: 'run', index: 0, batch: 4 });
    if (decision.kind !== 'run') return;
    const version = families[0]!.find((candidate) => candidate.version === decision.version)!;
    expect(batchServiceMs(version, 4)).toBeLessThanOrEqual(300);
  });

  test('save a little as well: what does not pay the server does not offer', () => {
    const plan = planOf(2);
    const pick = (families: readonly (readonly ResidentVersion[])[]) =>
      new QueueProgram().pick(stateOf({ queue, families, plan }), plan);
    expect(pick(batching(0.05))).toMatchObject({ batch: 4 });
    expect(pick(batching(0.05, 1))).not.toHaveProperty('batch');
  });

  test('stay away where they save nothing, or a member would be late', () => {
    const plan = planOf(2);
    expect(new QueueProgram().pick(stateOf({ queue, families: batching(0), plan }), plan)).not.toHaveProperty(
      'batch',
    );
    const pressed = [20, 20, 20, 20].map((slackMs) => request({ task: 0, slackMs }));
    const decision = new QueueProgram().pick(
      stateOf({ queue: pressed, families: batching(0.5), plan }),
      plan,
    );
    expect(decision).not.toHaveProperty('batch');
  });
});

test('in overload the heavier request is kept for the lighter one', () => {
  const plan = planOf(0.1);
  const light = request({ task: 0, slackMs: 20 });
  const heavy = request({ task: 0, slackMs: 30, weight: 5 });
  const state = stateOf({ queue: [light, heavy], families: FAMILIES, plan });
  expect(new QueueProgram().pick(state, plan)).toEqual({ kind: 'shed', index: 0, reason: 'overload' });
});
