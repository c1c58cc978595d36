import { describe, expect, it, test } from 'vitest';
import { ratioAt, ratiosBetween, SCHEDULES } from './schedule.ts';

describe('the ratio after an iteration', () => {
  it.each(SCHEDULES)('is 0 before the first and the whole after the last (%s)', (schedule) => {
    expect(ratioAt(schedule, 0.6, 0, 5)).toBe(0);
    expect(ratioAt(schedule, 0.6, 5, 5)).toBe(0.6);
  });

  it('follows each schedule', () => {
    const halfway = (schedule: (typeof SCHEDULES)[number]) => ratioAt(schedule, 0.8, 1, 2);
    expect(halfway('one-shot')).toBe(0.8);
    expect(halfway('linear')).toBeCloseTo(0.4, 12);
    // 1 − (1/2)³ = 7/8.
    expect(halfway('agp')).toBeCloseTo(0.7, 12);
  });

  it('refuses counts that are none and schedules that do not exist', () => {
    expect(() => ratioAt('agp', 0.5, 1, 0)).toThrow(/iterations are 0/);
    expect(() => ratioAt('agp', 0.5, 3, 2)).toThrow(/from 0 to 2/);
    expect(() => ratioAt('lottery' as 'agp', 0.5, 1, 2)).toThrow(/one-shot, linear, agp/);
  });
});

test('rounds go on from the share that is gone already and end exactly at the ratio', () => {
  expect(ratiosBetween(0.2, 0.6, { schedule: 'one-shot', iterations: 4 })).toEqual([0.6]);
  expect(ratiosBetween(0.2, 0.6, { schedule: 'linear', iterations: 2 })).toEqual([
    expect.closeTo(0.4, 12),
    0.6,
  ]);
  const agp = ratiosBetween(0, 0.8, { schedule: 'agp', iterations: 4 });
  expect(agp).toEqual(agp.toSorted((a, b) => a - b));
  expect(agp.at(-1)).toBe(0.8);
});
