import { expect, it } from 'vitest';
import { formatSeconds } from './duration.ts';

it.each([
  [-3, '0 s'],
  [59.6, '1 min 0 s'],
  [95, '1 min 35 s'],
  [3599.9, '1 h 0 min'],
  [7500, '2 h 5 min'],
  [3 * 3600 - 10, '3 h 0 min'],
])('%d s is said as %s', (seconds, text) => {
  expect(formatSeconds(seconds)).toBe(text);
});
