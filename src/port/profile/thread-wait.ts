import { readFileSync } from 'node:fs';

/**
 * How long this thread has waited for a CPU so far, in ms, though it was ready to run: what others on the machine took
 * from it. Where the system does not tell (anything but Linux), always 0.
 * Source: Linux, Documentation/scheduler/sched-stats: the second figure of a thread's schedstat, in ns.
 */
export function threadWaitMs(): number {
  if (process.platform !== 'linux') return 0;
  try {
    return Number(readFileSync('/proc/thread-self/schedstat', 'latin1').split(' ')[1]) / NS_PER_MS || 0;
  } catch {
    return 0; // A kernel without these figures, or a container that hides them.
  }
}

const NS_PER_MS = 1e6;
