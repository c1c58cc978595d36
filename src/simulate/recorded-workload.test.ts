import { expect, test } from 'vitest';
import { recordedWorkload } from './recorded-workload.ts';

const OPTIONS = { durationMs: 3_000, serviceCv: 0, seed: 1 };

test('requests of several tasks come in the order of their times, as recorded', () => {
  const workload = recordedWorkload(
    [
      [5, 1_500, 1_600],
      [2, 2_999],
    ],
    OPTIONS,
  );
  expect([...workload.arrivalMs]).toEqual([2, 5, 1_500, 1_600, 2_999]);
  expect([...workload.task]).toEqual([1, 0, 0, 0, 1]);
  expect([...workload.multiplier]).toEqual([1, 1, 1, 1, 1]);
  expect(workload.demand[0]).toMatchObject({ points: [{ rps: 1 }, { rps: 2 }, { rps: 0 }] });
});

test('times that do not ascend, or lie behind the end, are refused', () => {
  expect(() => recordedWorkload([[5, 4]], OPTIONS)).toThrow(/Request 1 of task 0 came at 4 ms/);
  expect(() => recordedWorkload([[3_001]], OPTIONS)).toThrow(/to 3000 ms/);
});
