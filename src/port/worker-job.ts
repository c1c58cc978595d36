import { Worker } from 'node:worker_threads';
import { BonsaiError, type ErrorCode, messageOf } from '../base/errors.ts';

/** What a worker of a job posts: any number of events, then one end. */
export type JobMessage<Event, Result> =
  | { readonly kind: 'event'; readonly event: Event }
  | { readonly kind: 'done'; readonly result: Result }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string };

export interface JobOptions<Event> {
  readonly onEvent?: (event: Event) => void;
  /** Asks the worker to stop by its flag (`isStopRequested`); the job then ends with `aborted`. */
  readonly signal?: AbortSignal;
}

/**
 * Runs one job in a worker thread of its own, so that a long computation never blocks the caller's thread.
 * @param input structured-cloneable; the worker finds it as `workerData.input`
 * @throws BonsaiError what the worker threw, `aborted`, or `worker_lost` where the worker ended without a word
 */
export async function runJob<Input, Event, Result>(
  url: URL,
  input: Input,
  options: JobOptions<Event> = {},
): Promise<Result> {
  if (options.signal?.aborted) throw abortError(options.signal);
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(url, { workerData: { input, stop } });
  const onAbort = () => Atomics.store(stop, 0, 1);
  options.signal?.addEventListener('abort', onAbort);
  try {
    return await new Promise<Result>((resolve, reject) => {
      // Thrown by the caller's handler: the job is of no use any more. Its thread ends by its flag all the same, for ended in
      // the midst of an inference it takes the process with it (ONNX Runtime's binding throws where nothing runs any more).
      let failure: { readonly thrown: unknown } | undefined;
      worker.on('message', (message: JobMessage<Event, Result>) => {
        if (message.kind === 'event') {
          if (failure !== undefined) return;
          try {
            options.onEvent?.(message.event);
          } catch (thrown) {
            failure = { thrown };
            onAbort();
          }
        } else if (failure !== undefined) reject(failure.thrown);
        else if (message.kind === 'done') resolve(message.result);
        else if (message.code === 'aborted' && options.signal?.aborted) reject(abortError(options.signal));
        else reject(new BonsaiError(message.code, message.message));
      });
      worker.on('error', (cause) => {
        reject(
          new BonsaiError('worker_lost', `The worker ${nameOf(url)} failed: ${messageOf(cause)}`, { cause }),
        );
      });
      worker.on('exit', (code) => {
        reject(
          new BonsaiError(
            'worker_lost',
            `The worker ${nameOf(url)} ended with code ${code} before its job was done.`,
          ),
        );
      });
    });
  } finally {
    options.signal?.removeEventListener('abort', onAbort);
    await worker.terminate();
  }
}

/** The worker's side: what it was given, read once from `workerData`. */
export interface JobContext<Input, Event> {
  readonly input: Input;
  /** Cheap enough to ask in every step. */
  isStopRequested(): boolean;
  emit(event: Event): void;
}

/** Runs the worker's function and reports its end. A worker file consists of one call of this. */
export async function serveJob<Input, Event, Result>(
  port: { postMessage(message: unknown): void } | null,
  data: { readonly input: Input; readonly stop: Int32Array },
  work: (context: JobContext<Input, Event>) => Promise<Result>,
): Promise<void> {
  const post = (message: JobMessage<Event, Result>) => port?.postMessage(message);
  try {
    const result = await work({
      input: data.input,
      isStopRequested: () => Atomics.load(data.stop, 0) !== 0,
      emit: (event) => post({ kind: 'event', event }),
    });
    post({ kind: 'done', result });
  } catch (thrown) {
    const code = thrown instanceof BonsaiError ? thrown.code : 'engine_failure';
    post({ kind: 'failed', code, message: messageOf(thrown) });
  }
}

function abortError(signal: AbortSignal): BonsaiError {
  const { reason } = signal;
  if (reason instanceof BonsaiError) return reason;
  return new BonsaiError('aborted', 'Stopped on request.', { cause: reason });
}

function nameOf(url: URL): string {
  return url.pathname.split('/').at(-1) ?? url.href;
}
