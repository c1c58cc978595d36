import { expect, it } from 'vitest';
import { checkCpus, existingCpus } from './cpus.ts';

it('takes CPUs that exist and names those that do when others are asked for', () => {
  const existing = existingCpus();
  expect(existing.length).toBeGreaterThan(0);
  expect(() => checkCpus(existing)).not.toThrow();
  expect(() => checkCpus([0, 55], [0, 1, 2, 4])).toThrow(
    '--cpus names CPU 55, which this machine does not have; it has 0-2,4.',
  );
  expect(() => checkCpus([7, 8, 10], [0])).toThrow(/CPUs 7-8,10, .* it has 0\./);
});
