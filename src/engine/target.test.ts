import { expect, test } from 'vitest';
import { InvalidArgumentError } from '../base/errors.ts';
import {
  describeForeignTarget,
  describeTarget,
  FINGERPRINT_DIGITS,
  fingerprintOf,
  parseTarget,
} from './target.ts';

test('the same machine and budget have the same fingerprint, another budget another', () => {
  const one = describeTarget({ cpus: 1 });
  expect(describeTarget({ cpus: 1 })).toEqual(one);
  expect(one.fingerprint).toMatch(new RegExp(`^[0-9a-f]{${FINGERPRINT_DIGITS}}$`));
  expect(describeTarget({ cpus: 2 }).fingerprint).not.toBe(one.fingerprint);
});

test('every field counts for the fingerprint', () => {
  const { fingerprint, ...fields } = describeTarget({ cpus: 1 });
  expect(fingerprintOf(fields)).toBe(fingerprint);
  for (const key of ['cpuModel', 'architecture', 'runtime', 'runtimeVersion', 'host', 'name'] as const) {
    expect(fingerprintOf({ ...fields, [key]: 'other' })).not.toBe(fingerprint);
  }
});

test('a fingerprint stays what it was before targets had rarer fields: profiles in repositories name it', () => {
  const fields = {
    cpuModel: 'AMD EPYC',
    architecture: 'x64',
    cpus: 1,
    runtime: 'onnxruntime',
    runtimeVersion: '1.30.0',
  };
  // SHA-256 of ["AMD EPYC","x64",1,"onnxruntime","1.30.0"].
  expect(fingerprintOf(fields)).toBe('b7cfdf57b7c6');
});

test('a server that is not bound to its CPUs is another target', () => {
  const pinned = describeTarget({ cpus: 1 });
  expect(describeTarget({ cpus: 1, isPinned: true })).toEqual(pinned);
  expect(describeTarget({ cpus: 1, isPinned: false }).fingerprint).not.toBe(pinned.fingerprint);
});

test('servers that describe no machine are told apart by host, name, budget and runtime', () => {
  const triton = { host: 'edge1', cpus: 1, runtime: 'triton', runtimeVersion: '2.73.0' };
  const targets = [
    triton,
    { ...triton, host: 'edge2' },
    { ...triton, name: 'at night' },
    { ...triton, cpus: 2 },
    { ...triton, runtimeVersion: '2.74.0' },
  ].map(describeForeignTarget);
  expect(new Set(targets.map(({ fingerprint }) => fingerprint)).size).toBe(targets.length);
  expect(targets[2]).toMatchObject({ host: 'edge1', name: 'at night', runtime: 'triton' });
});

test('a target that a server sends is read back as it is, whatever fingerprint it claims', () => {
  for (const target of [describeTarget({ cpus: 2 }), describeTarget({ cpus: 1, isPinned: false })]) {
    expect(parseTarget(JSON.parse(JSON.stringify({ ...target, fingerprint: '0' })))).toEqual(target);
  }
  const { cpuModel: _, ...partial } = describeTarget({ cpus: 1 });
  for (const nonsense of [undefined, null, 'x', {}, partial, { ...describeTarget({ cpus: 1 }), cpus: '1' }]) {
    expect(parseTarget(nonsense)).toBeUndefined();
  }
});

test('a budget that is not positive is refused', () => {
  for (const cpus of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(() => describeTarget({ cpus })).toThrow(InvalidArgumentError);
  }
});
