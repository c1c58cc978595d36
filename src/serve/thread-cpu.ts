import { readFileSync } from 'node:fs';

/** CPU time that a thread of this process has had; undefined where the system does not tell. */
export function cpuMsOfThread(threadId: number | undefined): number | undefined {
  return threadId === undefined ? undefined : readCpuMs(`/proc/self/task/${threadId}/schedstat`);
}

const NOBODY_RINGS = new Int32Array(new SharedArrayBuffer(4));

const GIVE_AWAY_MS = 0.1;
const MAX_TRIES = 5;

/**
 * CPU time that the calling thread has had, to some 50 µs; undefined where the system does not tell. It sleeps for a moment:
 * the system counts a thread's time when it gives the CPU away, else only every some ms.
 */
export function ownCpuMs(): number | undefined {
  const told = readOwnCpuMs();
  for (let i = 0; told !== undefined && i < MAX_TRIES; i++) {
    Atomics.wait(NOBODY_RINGS, 0, 0, GIVE_AWAY_MS);
    const now = readOwnCpuMs();
    if (now !== told) return now;
  }
  return told;
}

function readOwnCpuMs(): number | undefined {
  return readCpuMs('/proc/thread-self/schedstat');
}

function readCpuMs(path: string): number | undefined {
  try {
    return Number(readFileSync(path, 'utf8').split(' ')[0]) / 1e6;
  } catch {
    return undefined;
  }
}
