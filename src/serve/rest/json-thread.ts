import { Worker } from 'node:worker_threads';
import { BonsaiError } from '../../base/errors.ts';
import { workerUrl } from '../../base/worker-url.ts';
import { InvalidRequestError } from '../errors.ts';
import type { JsonReply, JsonResults, JsonTask } from './json-messages.ts';

/**
 * JSON up to here is read on the thread that has the sockets: it takes some 5 ms, and handing it over would cost small
 * requests more than it saves the others.
 */
export const INLINE_JSON_BYTES = 128 * 1024;

/** Elements of outputs that are written as JSON on the thread that has the sockets: some 5 ms as well. */
export const INLINE_JSON_ELEMENTS = 16 * 1024;

/**
 * Heap of the thread. 32 MiB of numbers take some 300 MB; text that is made to take more, such as millions of empty
 * arrays, ends the thread and not the server.
 */
export const MAX_HEAP_MB = 512;

/** A thread that had nothing to do for so long is ended; its memory goes with it. */
export const IDLE_MS = 30_000;

interface Job {
  readonly task: JsonTask;
  readonly resolve: (result: JsonResults[JsonTask['kind']]) => void;
  readonly reject: (error: Error) => void;
}

/**
 * A thread that reads and writes large JSON, one piece at a time, so that the sockets are served meanwhile. Started when
 * first needed, ended when idle, replaced when it runs out of memory.
 */
export class JsonThread {
  readonly #jobs: Job[] = [];
  #worker: Worker | undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #isClosed = false;

  /**
   * The memory of the task's body goes with it, if it has all of its buffer.
   * @throws InvalidRequestError, BonsaiError as the work itself; `body_too_large` if it needs too much memory
   */
  run<K extends JsonTask['kind']>(task: JsonTask & { readonly kind: K }): Promise<JsonResults[K]> {
    if (this.#isClosed)
      return Promise.reject(new BonsaiError('shutting_down', 'The server is stopping; send it to another.'));
    return new Promise<JsonResults[JsonTask['kind']]>((resolve, reject) => {
      this.#jobs.push({ task, resolve, reject });
      if (this.#jobs.length === 1) this.#start();
    }) as Promise<JsonResults[K]>; // The reply's kind is the task's.
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#idleTimer);
    await this.#worker?.terminate();
  }

  #start(): void {
    const job = this.#jobs[0];
    if (job === undefined) return;
    clearTimeout(this.#idleTimer);
    this.#worker ??= this.#boot();
    this.#worker.ref();
    const transfer = job.task.kind === 'answer' ? [] : wholeBufferOf(job.task.body);
    this.#worker.postMessage(job.task, transfer);
  }

  #boot(): Worker {
    const worker = new Worker(workerUrl(import.meta.url, 'json-worker'), {
      name: 'bonsai-json',
      resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MB },
    });
    worker.on('message', (reply: JsonReply) => this.#settle(reply));
    worker.on('error', (error) => this.#lose(worker, error));
    worker.on('exit', () => this.#lose(worker, undefined));
    return worker;
  }

  #settle(reply: JsonReply): void {
    const job = this.#jobs.shift();
    if (reply.isDone) job?.resolve(reply.result);
    else job?.reject(errorOf(reply));
    this.#next();
  }

  #lose(worker: Worker, error: (Error & { code?: string }) | undefined): void {
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    const isMemory = error?.code === 'ERR_WORKER_OUT_OF_MEMORY';
    this.#jobs
      .shift()
      ?.reject(
        isMemory
          ? new BonsaiError(
              'body_too_large',
              `the request's JSON needs more than ${MAX_HEAP_MB} MB of memory to be read; send the tensors as binary data`,
            )
          : new BonsaiError(
              'engine_failure',
              `the thread that reads JSON was lost: ${error?.message ?? 'it ended'}`,
            ),
      );
    this.#next();
  }

  #next(): void {
    if (this.#jobs.length > 0) {
      this.#start();
      return;
    }
    this.#worker?.unref();
    this.#idleTimer = setTimeout(() => {
      const worker = this.#worker;
      this.#worker = undefined;
      void worker?.terminate();
    }, IDLE_MS);
    this.#idleTimer.unref();
  }
}

function errorOf({ code, message }: JsonReply & { readonly isDone: false }): Error {
  if (code === undefined) return new Error(message);
  return code === 'invalid_request' ? new InvalidRequestError(message) : new BonsaiError(code, message);
}

/** The memory of a body to hand over; nothing where others may have a part of it. */
function wholeBufferOf(body: Uint8Array): ArrayBuffer[] {
  const { buffer } = body;
  return buffer instanceof ArrayBuffer && body.byteLength === buffer.byteLength ? [buffer] : [];
}
