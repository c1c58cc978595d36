import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type OracleTask, type OracleWorkload, oracle } from './oracle.ts';

const small = fc
  .record({
    gapsMs: fc.array(fc.integer({ min: 0, max: 120 }), { minLength: 1, maxLength: 5 }),
    tasks: fc.array(fc.integer({ min: 0, max: 1 }), { minLength: 5, maxLength: 5 }),
    multipliers: fc.array(fc.constantFrom(0.73, 1, 1.31), { minLength: 5, maxLength: 5 }),
    dropPrice: fc.constantFrom(0.2, 1.5, 1e6),
    weight: fc.constantFrom(1, 3),
    sloMs: fc.constantFrom(100, 163),
  })
  .map(({ gapsMs, tasks, multipliers, dropPrice, weight, sloMs }) => {
    let nowMs = 0;
    const arrivalMs = Float64Array.from(gapsMs, (gapMs) => {
      nowMs += gapMs + 0.37;
      return nowMs;
    });
    const workload: OracleWorkload = {
      arrivalMs,
      task: Uint16Array.from(gapsMs, (_, i) => tasks[i]!),
      multiplier: Float64Array.from(gapsMs, (_, i) => multipliers[i]!),
    };
    const families: OracleTask[] = [
      {
        sloMs,
        weight: 1,
        versions: [
          { accuracy: 1, serviceMs: 81 },
          { accuracy: 0.8, serviceMs: 44 },
          { accuracy: 0.5, serviceMs: 17 },
        ],
      },
      {
        sloMs,
        weight,
        versions: [
          { accuracy: 1, serviceMs: 66 },
          { accuracy: 0.6, serviceMs: 23 },
        ],
      },
    ];
    return { workload, families, dropPrice };
  });

/** The optimum over every assignment of versions and drops, in exact times, first come first served. */
function bruteForce(
  { arrivalMs, task, multiplier }: OracleWorkload,
  tasks: readonly OracleTask[],
  dropPrice: number,
): number {
  const best = (i: number, freeMs: number): number => {
    if (i === arrivalMs.length) return 0;
    const { versions, weight, sloMs } = tasks[task[i]!]!;
    let value = best(i + 1, freeMs) - dropPrice * weight;
    for (const { accuracy, serviceMs } of versions) {
      const endMs = Math.max(freeMs, arrivalMs[i]!) + serviceMs * multiplier[i]!;
      if (endMs <= arrivalMs[i]! + sloMs) value = Math.max(value, weight * accuracy + best(i + 1, endMs));
    }
    return value;
  };
  return best(0, 0);
}

/** The value of the oracle's choices, carried out in exact times; late ones are not allowed. */
function carriedOut(
  choice: Int8Array,
  { arrivalMs, task, multiplier }: OracleWorkload,
  tasks: readonly OracleTask[],
  dropPrice: number,
  slackMs: number,
) {
  let freeMs = 0;
  let value = 0;
  for (let i = 0; i < choice.length; i++) {
    const { versions, weight, sloMs } = tasks[task[i]!]!;
    if (choice[i]! < 0) {
      value -= dropPrice * weight;
      continue;
    }
    const { accuracy, serviceMs } = versions[choice[i]!]!;
    freeMs = Math.max(freeMs, arrivalMs[i]!) + serviceMs * multiplier[i]!;
    expect(freeMs).toBeLessThanOrEqual(arrivalMs[i]! + sloMs + slackMs + 1e-9);
    value += weight * accuracy;
  }
  return value;
}

test('both bounds enclose the optimum of exhaustive search, and the feasible choices can be carried out', () => {
  fc.assert(
    fc.property(small, fc.constantFrom(0.25, 1, 5), ({ workload, families, dropPrice }, stepMs) => {
      const optimum = bruteForce(workload, families, dropPrice);
      const feasible = oracle(workload, families, { bound: 'feasible', stepMs, dropPrice });
      const relaxed = oracle(workload, families, { bound: 'relaxed', stepMs, dropPrice });
      const tolerance = 1e-9 * Math.max(1, dropPrice);
      const low = carriedOut(feasible.choice, workload, families, dropPrice, 0);
      expect(low).toBeLessThanOrEqual(optimum + tolerance);
      // Each request takes at most one cell less than in truth, and arrivals are rounded by one.
      const high = carriedOut(
        relaxed.choice,
        workload,
        families,
        dropPrice,
        stepMs * (workload.task.length + 2),
      );
      expect(high).toBeGreaterThanOrEqual(optimum - tolerance);
    }),
    { seed: 11, numRuns: 400 },
  );
});

test('the bounds meet at the optimum as the grid gets finer', () => {
  fc.assert(
    fc.property(small, ({ workload, families }) => {
      const optimum = bruteForce(workload, families, 1.5);
      const values = (['feasible', 'relaxed'] as const).map((bound) => {
        const { choice } = oracle(workload, families, { bound, stepMs: 0.005, dropPrice: 1.5 });
        return carriedOut(choice, workload, families, 1.5, 0.05);
      });
      expect(values[0]).toBeCloseTo(optimum, 9);
      expect(values[1]).toBeCloseTo(optimum, 9);
    }),
    { seed: 12, numRuns: 60 },
  );
});

test('counts what it chose', () => {
  // 100 ms for the first alone; the second comes while it runs, so both fit only with the fast version.
  const workload = {
    arrivalMs: Float64Array.of(0, 1),
    task: Uint16Array.of(0, 0),
    multiplier: Float64Array.of(1, 1),
  };
  const tasks = [
    {
      sloMs: 110,
      weight: 1,
      versions: [
        { accuracy: 1, serviceMs: 100 },
        { accuracy: 0.5, serviceMs: 50 },
      ],
    },
  ];
  const strict = oracle(workload, tasks, { bound: 'feasible' });
  expect(Array.from(strict.choice)).toEqual([1, 1]);
  expect(strict).toMatchObject({ offered: 2, dropped: 0, meanAccuracy: 0.5, effectiveAccuracy: 0.5 });
  expect(strict.utilization).toBe(100);
  // At a price of 0 one accurate answer (1) equals two others (0.5 + 0.5); below it is better.
  const careless = oracle(workload, tasks, { bound: 'feasible', dropPrice: -0.1 });
  expect(careless).toMatchObject({ dropped: 1, meanAccuracy: 1, effectiveAccuracy: 0.5 });
});

test('what cannot be solved is refused by name', () => {
  const one = { arrivalMs: Float64Array.of(0), task: Uint16Array.of(0), multiplier: Float64Array.of(1) };
  const task = { sloMs: 400, weight: 1, versions: [{ accuracy: 1, serviceMs: 1 }] };
  expect(() => oracle(one, [{ ...task, versions: [] }], { bound: 'feasible' })).toThrow(/0 versions/);
  expect(() => oracle(one, [], { bound: 'feasible' })).toThrow(/0 tasks/);
  expect(() => oracle(one, [task], { bound: 'feasible', stepMs: 0 })).toThrow(/step > 0/);
  expect(() => oracle(one, [task], { bound: 'feasible', stepMs: 1e-8 })).toThrow(/larger step/);
});
