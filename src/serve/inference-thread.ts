import { readlinkSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import type { FromWorker } from './worker-messages.ts';

/*
 * The entry of an inference thread. It gives way to others first, since what it starts with takes some 50 ms of CPU,
 * which requests would wait for.
 */

/** The kernel's id of this thread (a worker's `threadId` is Node's own numbering); undefined outside Linux. */
function linuxThreadId(): number | undefined {
  try {
    return Number(readlinkSync('/proc/thread-self').split('/').at(-1));
  } catch {
    return undefined;
  }
}

/** @returns false where a priority belongs to the whole process, or the system does not allow it */
function lowerPriority(threadId: number | undefined): boolean {
  if (threadId === undefined) return false;
  try {
    setPriority(threadId, constants.priority.PRIORITY_LOW);
    return true;
  } catch {
    return false;
  }
}

if (parentPort !== null) {
  const threadId = linuxThreadId();
  const isLowPriority = workerData.lowPriority === true && lowerPriority(threadId);
  parentPort.postMessage({ kind: 'started', threadId, isLowPriority } satisfies FromWorker);
  const { answerRequests } = await import('./inference-worker.ts');
  await answerRequests(parentPort, workerData.endedBell);
}
