import { expect, it } from 'vitest';
import { cpuMsOfThread, ownCpuMs } from './thread-cpu.ts';

// Other systems do not tell the CPU time of a thread.
it.runIf(process.platform === 'linux')(
  'tells what a thread has computed, however short, and not what it has slept',
  () => {
    const cell = new Int32Array(new SharedArrayBuffer(4));
    for (let i = 0; i < 200; i++) {
      const beforeMs = ownCpuMs()!;
      const startMs = performance.now();
      while (performance.now() - startMs < 0.5);
      Atomics.wait(cell, 0, 0, 2);
      const spentMs = ownCpuMs()! - beforeMs;
      expect(spentMs).toBeGreaterThan(0.1); // Others may have the CPU for a while.
    }
    const beforeMs = ownCpuMs()!;
    Atomics.wait(cell, 0, 0, 100);
    expect(ownCpuMs()! - beforeMs).toBeLessThan(50);
  },
);

it('does not know threads that are not there', () => {
  expect(cpuMsOfThread(undefined)).toBeUndefined();
  expect(cpuMsOfThread(-1)).toBeUndefined();
});
