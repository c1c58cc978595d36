import { expect, test } from 'vitest';
import { InvalidArgumentError } from '../../base/errors.ts';
import { repeatUntilStable } from './throughput.ts';

function series(...figures: number[]): { measure: () => Promise<number>; taken: () => number } {
  let index = 0;
  return { measure: async () => figures[index++]!, taken: () => index };
}

test('steady figures need no more repeats than asked for', async () => {
  const { measure, taken } = series(100, 101, 102, 103);
  expect(await repeatUntilStable(measure)).toMatchObject({
    stable: true,
    count: 3,
    median: 101,
    min: 100,
    max: 102,
  });
  expect(taken()).toBe(3);
});

test('a disturbed beginning drops out of the statistics', async () => {
  const { measure } = series(50, 100, 104, 110);
  // 104/50 is beyond 1.15, 110/100 = 1.1 is within.
  expect(await repeatUntilStable(measure)).toMatchObject({ stable: true, min: 100, median: 104, max: 110 });
});

test('figures that never settle give the best window and say so', async () => {
  const { measure, taken } = series(10, 20, 40, 50, 60, 10);
  // Windows of 2: 2, 2, 1.25, 1.2, 6.
  expect(await repeatUntilStable(measure, { repeats: 2, maxRepeats: 6 })).toMatchObject({
    stable: false,
    min: 50,
    max: 60,
  });
  expect(taken()).toBe(6);
});

test('a spread of exactly the limit is steady', async () => {
  const { measure } = series(100, 115);
  expect(await repeatUntilStable(measure, { repeats: 2 })).toMatchObject({ stable: true });
});

test('a failure of the measurement is the failure of the whole, and nonsense is refused', async () => {
  await expect(repeatUntilStable(() => Promise.reject(new Error('server gone')))).rejects.toThrow(
    'server gone',
  );
  await expect(repeatUntilStable(async () => 1, { repeats: 4, maxRepeats: 3 })).rejects.toThrow(
    InvalidArgumentError,
  );
  await expect(repeatUntilStable(async () => 1, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'aborted',
  });
});
