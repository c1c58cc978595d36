import { expect, test } from 'vitest';
import { InvalidArgumentError } from '../base/errors.ts';
import { describeTarget, FINGERPRINT_DIGITS, fingerprintOf } from './target.ts';

test('the same machine and budget have the same fingerprint, another budget another', () => {
  const one = describeTarget({ cpus: 1 });
  expect(describeTarget({ cpus: 1 })).toEqual(one);
  expect(one.fingerprint).toMatch(new RegExp(`^[0-9a-f]{${FINGERPRINT_DIGITS}}$`));
  expect(describeTarget({ cpus: 2 }).fingerprint).not.toBe(one.fingerprint);
});

test('every field counts for the fingerprint', () => {
  const { fingerprint, ...fields } = describeTarget({ cpus: 1 });
  expect(fingerprintOf(fields)).toBe(fingerprint);
  for (const key of ['cpuModel', 'architecture', 'runtime', 'runtimeVersion'] as const) {
    expect(fingerprintOf({ ...fields, [key]: 'other' })).not.toBe(fingerprint);
  }
});

test('a budget that is not positive is refused', () => {
  for (const cpus of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => describeTarget({ cpus })).toThrow(InvalidArgumentError);
  }
});
