import { expect, it } from 'vitest';
import { checkCpuQuota, checkCpus, existingCpus } from './cpus.ts';

it('takes CPUs that exist and names those that do when others are asked for', () => {
  const existing = existingCpus();
  expect(existing.length).toBeGreaterThan(0);
  expect(() => checkCpus(existing)).not.toThrow();
  expect(() => checkCpus([0, 55], [0, 1, 2, 4])).toThrow(
    '--cpus names CPU 55, which this machine does not have; it has 0-2,4.',
  );
  expect(() => checkCpus([7, 8, 10], [0])).toThrow(/CPUs 7-8,10, .* it has 0\./);
});

it('takes a quota of as many CPUs as there are, and refuses more', () => {
  expect(() => checkCpuQuota(2, [0, 3])).not.toThrow();
  expect(() => checkCpuQuota(0.5, undefined, 1)).not.toThrow();
  expect(() => checkCpuQuota(2.5, [0, 3], 8)).toThrow(
    '--cpu-quota 2.5 is more than the 2 CPUs that --cpus names',
  );
  expect(() => checkCpuQuota(1.5, undefined, 1)).toThrow('the 1 CPU that this process may use');
});
