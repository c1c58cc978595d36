import { expect, test } from 'vitest';
import { MAX_WANTED_REPLICAS, wantedReplicas } from './wanted-replicas.ts';

const task = (demandRps: number) => ({
  task: 'mnist',
  weight: 1,
  demandRps,
  replicas: 1,
  versions: [
    { version: 1, normalisedAccuracy: 1, cpuSeconds: 0.1, cpuSecondsOn: {}, memoryBytes: 1 },
    { version: 2, normalisedAccuracy: 0.9, cpuSeconds: 0.02, cpuSecondsOn: {}, memoryBytes: 1 },
  ],
});

test('are the cores that demand takes, less what others carry, in servers of the pool', () => {
  // 70/s × 0.02 s / 0.7 = 2 cores; × 0.1 s / 0.7 = 10 cores.
  expect(wantedReplicas([task(70)], 0, 2, 0.7)).toEqual({ forDemand: 1, forAccuracy: 5 });
  expect(wantedReplicas([task(70), task(70)], 0, 2, 0.7)).toEqual({ forDemand: 2, forAccuracy: 10 });
  expect(wantedReplicas([task(70)], 4, 2, 0.7)).toEqual({ forDemand: 1, forAccuracy: 3 });
});

test('are at least one, and not more than can be meant', () => {
  expect(wantedReplicas([], 0, 1, 0.7)).toEqual({ forDemand: 1, forAccuracy: 1 });
  expect(wantedReplicas([task(1e9)], 0, 1, 0.7)).toEqual({
    forDemand: MAX_WANTED_REPLICAS,
    forAccuracy: MAX_WANTED_REPLICAS,
  });
});
