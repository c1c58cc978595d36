import { fork } from 'node:child_process';
import { BonsaiError, type ErrorCode, InvalidArgumentError } from '../../base/errors.ts';
import { summarize } from '../../base/statistics.ts';
import { workerUrl } from '../../base/worker-url.ts';
import type { Measurement } from '../../repository/types.ts';

/**
 * Peak growth of resident memory by loading a network and running it, in bytes: a fresh process does what an inference
 * worker of the server does (reads the file, opens a session on the bytes, infers at batch 1). What the engine takes
 * once, whatever it runs, is there before and does not count. A process of its own, because in one that has run other
 * networks the allocator reuses what they left and growth shows too small.
 * @param path of an ONNX file
 * @returns over `repeats` processes
 * @throws BonsaiError `load_failed`, `engine_failure`, `invalid_argument` as `profileLatency`, `aborted`; `worker_lost`
 *   if the process ends without an answer (the system may have killed it for its memory)
 */
export async function profileMemory(path: string, options: MemoryOptions = {}): Promise<Measurement> {
  const { repeats, runs, seed, signal } = { ...memoryDefaults, ...options };
  if (!(Number.isInteger(repeats) && repeats >= 1 && Number.isInteger(runs) && runs >= 1)) {
    throw new InvalidArgumentError(
      `Cannot measure memory ${repeats} times over ${runs} runs; both are counts, at least 1.`,
    );
  }
  const peaks: number[] = [];
  while (peaks.length < repeats) peaks.push(await measureOnce({ path, runs, seed }, signal));
  return summarize(peaks);
}

export interface MemoryOptions {
  readonly repeats?: number;
  /** Inferences before the peak is read. */
  readonly runs?: number;
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

export const memoryDefaults = {
  /** Repeats differ by pages of the allocator; the median of three is not moved by one. */
  repeats: 3,
  /** The arena grows in the first runs only. */
  runs: 20,
  seed: 1,
} as const satisfies MemoryOptions;

/** What the process is asked for. */
export interface MemoryOrder {
  readonly path: string;
  readonly runs: number;
  readonly seed: number;
}

/** What it answers with. */
export type MemoryAnswer =
  | { readonly kind: 'done'; readonly peakBytes: number }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string };

function measureOnce(order: MemoryOrder, signal?: AbortSignal): Promise<number> {
  if (signal?.aborted)
    return Promise.reject(new BonsaiError('aborted', 'Measuring memory was stopped on request.'));
  const child = fork(workerUrl(import.meta.url, 'memory-process'), {
    execArgv: ['--expose-gc'],
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  });
  const kill = () => child.kill('SIGKILL');
  signal?.addEventListener('abort', kill, { once: true });
  return new Promise<number>((resolve, reject) => {
    child.once('message', (answer: MemoryAnswer) => {
      if (answer.kind === 'done') resolve(answer.peakBytes);
      else reject(new BonsaiError(answer.code, answer.message));
    });
    child.once('error', (cause) =>
      reject(new BonsaiError('worker_lost', `Memory cannot be measured: ${cause.message}`, { cause })),
    );
    child.once('exit', (code, by) => {
      reject(
        signal?.aborted
          ? new BonsaiError('aborted', 'Measuring memory was stopped on request.')
          : new BonsaiError(
              'worker_lost',
              `The process that measures the memory of ${order.path} ended with ${by ?? `code ${code}`} before it answered. Is there enough memory?`,
            ),
      );
    });
    child.send(order);
  }).finally(() => {
    signal?.removeEventListener('abort', kill);
    kill();
  });
}
