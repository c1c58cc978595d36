import { expect, test } from 'vitest';
import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { EMPTY_WINDOW_FACTORS, repeatUntilStable, untilAnswered } from './throughput.ts';

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

test('a window without an answer is tried again, longer each time', async () => {
  const tried: number[] = [];
  const measured = await untilAnswered('version 2', async (factor) => {
    tried.push(factor);
    if (factor < 4) throw new BonsaiError('server_unreachable', 'silence.');
    return 7;
  });
  expect(measured).toBe(7);
  expect(tried).toEqual([1, 2, 4]);
});

test('a server that never answers is a typed error after a bounded number of windows', async () => {
  let tried = 0;
  const silence = async () => {
    tried++;
    throw new BonsaiError('server_unreachable', 'silence.');
  };
  await expect(untilAnswered('version 2', silence)).rejects.toMatchObject({
    code: 'server_unreachable',
    message: expect.stringMatching(/throughput of version 2 could not be measured: 3 windows.*silence\./),
  });
  expect(tried).toBe(EMPTY_WINDOW_FACTORS.length);
});

test('other failures and an abort are not tried again', async () => {
  let tried = 0;
  const fail = (code: 'aborted' | 'server_unreachable') => async () => {
    tried++;
    throw new BonsaiError(code, 'no.');
  };
  await expect(untilAnswered('version 2', fail('aborted'))).rejects.toMatchObject({ code: 'aborted' });
  await expect(
    untilAnswered('version 2', fail('server_unreachable'), AbortSignal.abort()),
  ).rejects.toMatchObject({ message: 'no.' });
  expect(tried).toBe(2);
});
