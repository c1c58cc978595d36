import { expect, it } from 'vitest';
import { allotCpus, checkCpuQuota, checkCpus, existingCpus, usableCpus } from './cpus.ts';

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

it('gives workers CPUs of their own, those that are named first, and evenly what is left', () => {
  expect(existingCpus()).toEqual(expect.arrayContaining(usableCpus()));
  expect(allotCpus([2], 2, [0, 1, 2, 3, 4, 5])).toEqual([
    { server: [2], client: [1, 3] },
    { server: [0], client: [4, 5] },
  ]);
  // A pod's CPUs have other numbers; three of them leave one for the requests.
  expect(allotCpus([0, 1], 1, [4, 6, 7])).toEqual([{ server: [4, 6], client: [7] }]);
  expect(allotCpus([0], 2, [0, 1, 2])).toEqual([{ server: [0] }, { server: [1] }]);
});

it('lets no two servers share a CPU, and says how many workers there can be', () => {
  expect(() => allotCpus([0, 1], 3, [0, 1, 2, 3, 8])).toThrow(
    '3 servers of 2 CPUs need 6; this process may use 5 (0-3,8). On shared CPUs, other figures would be measured: --workers 2 at most',
  );
});
