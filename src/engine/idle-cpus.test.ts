import { cpus } from 'node:os';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { idleCpus } from './idle-cpus.ts';

it('counts no CPU twice, and misses those that a busy thread takes', async () => {
  const all = cpus().length;
  expect(await idleCpus()).toBeLessThanOrEqual(all);
  const busy = Array.from({ length: all }, () => new Worker('for (;;);', { eval: true }));
  try {
    expect(await idleCpus(1000)).toBeLessThan(all - 0.5);
  } finally {
    await Promise.all(busy.map((worker) => worker.terminate()));
  }
});
