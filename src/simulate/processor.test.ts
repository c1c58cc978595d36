import { expect, test } from 'vitest';
import { seededRandom } from '../base/random.ts';
import { type Job, Processor } from './processor.ts';
import { gammaOfMeanOne } from './workload.ts';

function makeJob(remainingMs: number, weight = 1, done: (nowMs: number) => void = () => {}): Job {
  return { weight, remainingMs, rate: 0, done };
}

test('jobs share one CPU by weight, and what one leaves the others take', () => {
  const processor = new Processor(1);
  const ends: [string, number][] = [];
  processor.add(
    makeJob(30, 3, (nowMs) => ends.push(['heavy', nowMs])),
    0,
  );
  processor.add(
    makeJob(30, 1, (nowMs) => ends.push(['light', nowMs])),
    0,
  );
  // 3/4 of the CPU: 30 / 0.75 = 40 ms. The light one has 10 ms done by then, and 20 ms to go alone.
  expect(processor.nextMs).toBe(40);
  processor.complete(40);
  expect(processor.nextMs).toBe(60);
  processor.complete(60);
  expect(ends).toEqual([
    ['heavy', 40],
    ['light', 60],
  ]);
  expect(processor.usedMs).toBeCloseTo(60, 9);
  expect(processor.nextMs).toBe(Number.POSITIVE_INFINITY);
});

test('a job uses one CPU at most: a light one beside it gets all of the second', () => {
  const processor = new Processor(2);
  const [heavy, light] = [makeJob(100, 1), makeJob(100, 0.01)];
  processor.add(heavy, 0);
  processor.add(light, 0);
  expect(heavy.rate).toBe(1);
  expect(light.rate).toBeCloseTo(1, 12);
  const third = makeJob(100, 1);
  processor.add(third, 10);
  // 2 CPUs for weights 1, 1 and 0.01: 2 / 2.01 each, and 0.02 / 2.01.
  expect([heavy.rate, third.rate]).toEqual([2 / 2.01, 2 / 2.01]);
  expect(light.rate).toBeCloseTo(0.02 / 2.01, 12);
  expect(processor.usedMs).toBeCloseTo(20, 6);
});

test('a job that is taken away leaves its share', () => {
  const processor = new Processor(1);
  const gone = makeJob(50);
  const kept = makeJob(50);
  processor.add(gone, 0);
  processor.add(kept, 0);
  processor.remove(gone, 20);
  expect(kept.rate).toBe(1);
  expect(processor.nextMs).toBe(60);
});

// M/G/1 with processor sharing: the mean time in system is E[S] / (1 − ρ) whatever the distribution of S
// (Kleinrock, Queueing Systems II, section 4.4).
test.each([0, 0.5, 1, 1.5])('M/G/1-PS at load 0.6: service times of CV %d take 10 / 0.4 = 25 ms', (cv) => {
  const random = seededRandom(5);
  const processor = new Processor(1);
  const [count, meanMs, load] = [150_000, 10, 0.6];
  let sojournMs = 0;
  let arrivalMs = 0;
  for (let i = 0; i < count; i++) {
    arrivalMs += random.exponential(load / meanMs);
    while (processor.nextMs <= arrivalMs) processor.complete(processor.nextMs);
    const startMs = arrivalMs;
    processor.add(
      makeJob(meanMs * gammaOfMeanOne(random, cv), 1, (nowMs) => {
        sojournMs += nowMs - startMs;
      }),
      arrivalMs,
    );
  }
  while (processor.nextMs < Number.POSITIVE_INFINITY) processor.complete(processor.nextMs);
  expect(sojournMs / count / 25).toBeGreaterThan(0.96);
  expect(sojournMs / count / 25).toBeLessThan(1.04);
});
