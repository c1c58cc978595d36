import type { Clock } from '../../base/clock.ts';
import { runJointLoop } from '../../load/joint-loop.ts';
import type { LabelledInputs } from '../../load/labelled-inputs.ts';
import type { RequestRecord } from '../../load/records.ts';
import { processTreeCpu } from '../../orchestrate/adapters/process-cpu.ts';

/** A process whose CPU time is watched, with its children. */
export interface WatchedProcess {
  readonly name: string;
  readonly pid: number;
  /** CPUs that it was given. */
  readonly cpuBudget: number;
}

export interface CpuSample {
  readonly atMs: number;
  /** Over the budget, since the sample before. */
  readonly utilization: number;
}

/** What came of real requests to real servers. */
export interface RawRun {
  /** By task, in the order asked for. */
  readonly records: readonly (readonly RequestRecord[])[];
  /** By watched process; empty where its CPU cannot be read. */
  readonly cpu: readonly (readonly CpuSample[])[];
}

export interface LiveOptions {
  readonly url: string;
  readonly tasks: readonly {
    readonly task: string;
    readonly inputs: LabelledInputs;
    readonly dueTimesMs: ArrayLike<number>;
    readonly seed: number;
    readonly version?: string;
  }[];
  readonly watched: readonly WatchedProcess[];
  readonly sloMs: number;
  readonly timeoutMs?: number;
  readonly connections?: number;
  readonly samplePeriodMs?: number;
  readonly startDelayMs?: number;
  /** Called at the common start, from which the records' times count. */
  readonly onStart?: () => void;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** A thousand requests a second that wait for most of the objective: what the server has not accepted it cannot refuse. */
export const LIVE_CONNECTIONS = 1_200;

/** Requests under way at once, at most. */
const MAX_OUTSTANDING = 16_384;

/** As often as the thesis' plots show the CPU. */
const CPU_PERIOD_MS = 1_000;

/** Requests are given up after so many objectives. */
const TIMEOUT_SLOS = 10;

/** Sends each task's requests when they are due, and looks at the CPU meanwhile. @throws BonsaiError `aborted` */
export async function runLive(options: LiveOptions): Promise<RawRun> {
  const { url, tasks, watched, sloMs, clock, signal } = options;
  const watch = watchCpu(watched, clock, options.samplePeriodMs ?? CPU_PERIOD_MS);
  let records: RequestRecord[][];
  try {
    records = await runJointLoop({
      url,
      tasks: tasks.map(({ task, ...load }) => ({ ...load, model: task })),
      connections: options.connections ?? LIVE_CONNECTIONS,
      maxOutstanding: MAX_OUTSTANDING,
      ...(options.startDelayMs !== undefined && { startDelayMs: options.startDelayMs }),
      timeoutMs: options.timeoutMs ?? TIMEOUT_SLOS * sloMs,
      sloMs,
      clock,
      signal,
      onStart: () => {
        options.onStart?.();
        watch.start();
      },
    });
  } finally {
    watch.stop();
  }
  signal.throwIfAborted();
  return { records, cpu: watch.samples };
}

function watchCpu(watched: readonly WatchedProcess[], clock: Clock, periodMs: number) {
  const readers = watched.map(({ pid }) => processTreeCpu(pid));
  const samples: CpuSample[][] = watched.map(() => []);
  const before: (readonly [atMs: number, seconds: number] | undefined)[] = watched.map(() => undefined);
  let timer: NodeJS.Timeout | undefined;
  let startMs = 0;
  const look = async () => {
    await Promise.all(
      readers.map(async (reader, i) => {
        // A process that is gone, or a system without procfs, has no CPU to tell of.
        const seconds = await reader.cpuSeconds().catch(() => undefined);
        if (seconds === undefined) return;
        const atMs = clock.nowMs() - startMs;
        const last = before[i];
        if (last !== undefined && atMs > last[0]) {
          const used = (1000 * (seconds - last[1])) / (atMs - last[0]);
          samples[i]!.push({ atMs, utilization: Math.max(0, used) / watched[i]!.cpuBudget });
        }
        before[i] = [atMs, seconds];
      }),
    );
  };
  return {
    samples: samples as readonly (readonly CpuSample[])[],
    start() {
      startMs = clock.nowMs();
      void look();
      timer = setInterval(() => void look(), periodMs);
    },
    stop: () => clearInterval(timer),
  };
}
