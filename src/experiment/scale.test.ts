import { expect, it } from 'vitest';
import { SCALES, spread } from './scale.ts';

it.each(Object.values(SCALES))(
  '$name runs last whole seconds, for which recorded demand has its counts',
  (scale) => {
    for (const ms of [scale.singleMs, scale.coallocationMs, scale.distributedMs, scale.warmUpMs])
      expect(ms % 1_000).toBe(0);
  },
);

it('spreads evenly, with both ends', () => {
  expect(spread([1, 2, 3, 4, 5, 6, 7], 3)).toEqual([1, 4, 7]);
  expect(spread([1, 2], 3)).toEqual([1, 2]);
  expect(spread([1, 2], 1)).toEqual([1]);
});
