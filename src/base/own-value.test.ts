import { expect, test } from 'vitest';
import { ownValue } from './own-value.ts';

test('a name finds what a record holds itself, never what every object inherits', () => {
  const record: Record<string, number> = { image: 1 };
  expect(ownValue(record, 'image')).toBe(1);
  for (const name of ['constructor', 'toString', '__proto__']) {
    expect(ownValue(record, name)).toBeUndefined();
    expect(ownValue({ ...record, [name]: 2 }, name)).toBe(2);
  }
  expect(ownValue(undefined, 'image')).toBeUndefined();
});
