import { InvalidArgumentError } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';
import type { DemandProfile } from '../load/arrivals.ts';
import { gammaOfMeanOne, type Workload } from './workload.ts';

/** Recorded arrivals are counted by the second where a profile of their demand is asked for. */
const SECOND_MS = 1_000;

/**
 * Requests that came in truth, as a workload: what a live run met can be simulated, and given to the oracle.
 * @param dueMs arrivals by task, each ascending, in ms from the start
 * @throws InvalidArgumentError for times that do not ascend or lie outside the run
 */
export function recordedWorkload(
  dueMs: readonly ArrayLike<number>[],
  options: {
    readonly durationMs: number;
    /** Coefficient of variation of service times; 0: as the profile says. */
    readonly serviceCv: number;
    readonly seed: number;
  },
): Workload {
  const { durationMs, serviceCv, seed } = options;
  const arrivals: { atMs: number; task: number }[] = [];
  for (const [task, times] of dueMs.entries()) {
    let before = 0;
    for (let i = 0; i < times.length; i++) {
      const atMs = times[i]!;
      if (!(atMs >= before && atMs <= durationMs)) {
        throw new InvalidArgumentError(
          `Request ${i} of task ${task} came at ${atMs} ms; expected a time from ${before} to ${durationMs} ms.`,
        );
      }
      before = atMs;
      arrivals.push({ atMs, task });
    }
  }
  arrivals.sort((a, b) => a.atMs - b.atMs || a.task - b.task);
  const random = seededRandom(seed).fork('service');
  return {
    durationMs,
    arrivalMs: Float64Array.from(arrivals, ({ atMs }) => atMs),
    task: Uint16Array.from(arrivals, ({ task }) => task),
    multiplier: Float64Array.from(arrivals, () => gammaOfMeanOne(random, serviceCv)),
    demand: dueMs.map((times) => countedDemand(times, durationMs)),
  };
}

function countedDemand(times: ArrayLike<number>, durationMs: number): DemandProfile {
  const counts = new Array<number>(Math.max(1, Math.ceil(durationMs / SECOND_MS))).fill(0);
  for (let i = 0; i < times.length; i++) {
    const second = Math.min(counts.length - 1, Math.floor(times[i]! / SECOND_MS));
    counts[second] = counts[second]! + 1;
  }
  return {
    kind: 'steps',
    points: counts.map((rps, second) => ({ atMs: second * SECOND_MS, rps })),
    durationMs: Math.max(durationMs, SECOND_MS),
  };
}
