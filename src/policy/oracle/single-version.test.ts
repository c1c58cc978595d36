import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { OracleTask, OracleWorkload } from './oracle.ts';
import { singleVersionDefaults, singleVersionOracle } from './single-version.ts';

const versions = [
  { accuracy: 1, serviceMs: 300 },
  { accuracy: 0.8, serviceMs: 120 },
  { accuracy: 0.5, serviceMs: 40 },
];
const task: OracleTask = { sloMs: 400, weight: 1, versions };
const allocations = versions.map((_, version) => [version]);
const LOAD_MS = 250;
const switchMs = () => LOAD_MS;

const workloads = fc
  .array(fc.integer({ min: 0, max: 700 }), { minLength: 1, maxLength: 9 })
  .map((gapsMs): OracleWorkload => {
    let nowMs = 0;
    const arrivalMs = Float64Array.from(gapsMs, (gapMs) => {
      nowMs += gapMs + 0.4;
      return nowMs;
    });
    return {
      arrivalMs,
      task: new Uint16Array(gapsMs.length),
      multiplier: new Float64Array(gapsMs.length).fill(1),
    };
  });

/** Drops and accuracy of a plan, second by second, in exact times: what cannot be in time is dropped. */
function carriedOut(plan: readonly number[], { arrivalMs }: OracleWorkload, loadMs: number, guardMs = 0) {
  let freeMs = 0;
  let current = versions.length - 1;
  let [dropped, accuracy, second] = [0, 0, -1];
  for (const timeMs of arrivalMs) {
    while (second < Math.floor(timeMs / singleVersionDefaults.periodMs)) {
      second++;
      if (plan[second] === current) continue;
      freeMs = Math.max(freeMs, second * singleVersionDefaults.periodMs) + loadMs;
      current = plan[second]!;
    }
    const endMs = Math.max(freeMs, timeMs) + versions[current]!.serviceMs;
    if (endMs > timeMs + task.sloMs - guardMs) {
      dropped++;
      continue;
    }
    freeMs = endMs;
    accuracy += versions[current]!.accuracy;
  }
  return { dropped, accuracy, value: accuracy - singleVersionDefaults.dropPrice * dropped };
}

/** The best value over every plan. */
function bruteForce(workload: OracleWorkload, loadMs: number, guardMs: number): number {
  const seconds = Math.floor(workload.arrivalMs.at(-1)! / singleVersionDefaults.periodMs) + 1;
  let best = Number.NEGATIVE_INFINITY;
  for (let code = 0; code < versions.length ** seconds; code++) {
    const plan = Array.from(
      { length: seconds },
      (_, s) => Math.floor(code / versions.length ** s) % versions.length,
    );
    best = Math.max(best, carriedOut(plan, workload, loadMs, guardMs).value);
  }
  return best;
}

test.each([
  ['free', 0],
  ['taking a load', LOAD_MS],
])('comes out at the optimum of exhaustive search, changes being %s', (_name, loadMs) => {
  const stepMs = 0.1;
  fc.assert(
    fc.property(workloads, (workload) => {
      const found = singleVersionOracle(workload, [task], {
        allocations,
        stepMs,
        ...(loadMs > 0 && { switchMs }),
      });
      const value = found.effectiveAccuracy * found.offered - singleVersionDefaults.dropPrice * found.dropped;
      expect(value).toBeLessThanOrEqual(bruteForce(workload, loadMs, 0) + 1e-6);
      // The grid keeps a cell before each deadline; what has two more than that to spare is found.
      expect(value).toBeGreaterThanOrEqual(bruteForce(workload, loadMs, 3 * stepMs) - 1e-6);
    }),
    { seed: 4, numRuns: 60 },
  );
});

test('changes on whole seconds, and only where that pays', () => {
  // Two slow seconds, then one with a crowd of five within 200 ms (5 × 40 = 200 fits, 120 does not), then calm.
  const arrivalMs = Float64Array.of(100, 1100, 2000, 2050, 2100, 2150, 2200, 3500);
  const workload = {
    arrivalMs,
    task: new Uint16Array(arrivalMs.length),
    multiplier: new Float64Array(arrivalMs.length).fill(1),
  };
  const free = singleVersionOracle(workload, [task], { allocations });
  expect(Array.from(free.allocation)).toEqual([0, 0, 2, 0]);
  expect(free).toMatchObject({ offered: 8, dropped: 0, effectiveAccuracy: (3 + 5 * 0.5) / 8 });
  // 600 ms for each load: the first of a second would be late.
  const slow = singleVersionOracle(workload, [task], { allocations, switchMs: () => 600 });
  expect(slow.dropped).toBe(0);
  expect(slow.effectiveAccuracy).toBeLessThan(free.effectiveAccuracy);
});
