import { expect, test } from 'vitest';
import { ascending } from './feed.ts';

const at = (...times: number[]) => times.map((atMs, seq) => ({ seq, atMs }));

test('frames of a time that came once more replace those of the first time', () => {
  expect(ascending(at(1, 2, 3, 4))).toEqual(at(1, 2, 3, 4));
  // The clock was set back by 2 after the fourth look.
  expect(ascending(at(1, 2, 3, 4, 3, 4, 5)).map(({ seq }) => seq)).toEqual([0, 1, 4, 5, 6]);
  expect(ascending(at(7, 8, 1)).map(({ seq }) => seq)).toEqual([2]);
});
