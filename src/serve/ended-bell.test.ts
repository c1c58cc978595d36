import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { systemClock } from '../base/clock.ts';
import { countOf, endedBell, ring, sleepUntilRung } from './ended-bell.ts';

const LONG_MS = 5_000;

it('does not sleep through a ring that came before, and wakes at one that comes', async () => {
  const since = countOf(endedBell);
  ring(endedBell);
  const startMs = systemClock.nowMs();
  sleepUntilRung(endedBell, since, LONG_MS);

  const ringer = new Worker(
    `const { workerData } = require('node:worker_threads');
     Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
     Atomics.add(workerData, 0, 1);
     Atomics.notify(workerData, 0);`,
    { eval: true, workerData: endedBell },
  );
  const ended = new Promise((resolve) => ringer.once('exit', resolve));
  await new Promise((resolve) => ringer.once('online', resolve));
  sleepUntilRung(endedBell, countOf(endedBell), LONG_MS);
  expect(systemClock.nowMs() - startMs).toBeLessThan(LONG_MS);
  await ended;
});

it('sleeps no longer than told', () => {
  const startMs = systemClock.nowMs();
  sleepUntilRung(endedBell, countOf(endedBell), 20);
  expect(systemClock.nowMs() - startMs).toBeGreaterThan(15);
});
