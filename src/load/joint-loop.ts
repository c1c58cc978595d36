import { openConnections } from './infer-client.ts';
import { type OpenLoopOptions, runOpenLoop } from './open-loop.ts';
import type { RequestRecord } from './records.ts';

/** What one task is sent. */
export interface TaskLoad extends Pick<OpenLoopOptions, 'model' | 'inputs' | 'dueTimesMs' | 'version'> {
  /** Of `bonsai stress`: orders the inputs. */
  readonly seed: number;
}

export interface JointLoopOptions
  extends Omit<OpenLoopOptions, keyof TaskLoad | 'startMs' | 'onProgress' | 'connections'> {
  readonly tasks: readonly TaskLoad[];
  /** Sockets of all tasks together. */
  readonly connections?: number;
  /** Requests are made ready within this time, before the first is sent; less will do for few inputs. */
  readonly startDelayMs?: number;
  /** Called at the common start. */
  readonly onStart?: () => void;
}

/**
 * Fewer than Bonsai's server accepts by default (512). What is under way beyond that waits in the client, where a server
 * cannot refuse it: give more, here and to the server, where more requests than this come in a latency objective.
 */
export const JOINT_CONNECTIONS = 480;

/** Thousands of images take most of it. */
export const JOINT_START_DELAY_MS = 2_000;

/**
 * Sends the requests of several tasks by one clock, each when it is due, whatever has come back.
 * @returns records by task, in the order of `tasks`; times from the common start
 */
export async function runJointLoop({
  tasks,
  onStart,
  startDelayMs = JOINT_START_DELAY_MS,
  ...options
}: JointLoopOptions): Promise<RequestRecord[][]> {
  const connections = openConnections(options.url, options.connections ?? JOINT_CONNECTIONS);
  const startMs = options.clock.nowMs() + startDelayMs;
  const timer = setTimeout(() => onStart?.(), startDelayMs);
  try {
    return await Promise.all(tasks.map((task) => runOpenLoop({ ...options, ...task, connections, startMs })));
  } finally {
    clearTimeout(timer);
    await connections.destroy();
  }
}
