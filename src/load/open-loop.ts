import type { Clock } from '../base/clock.ts';
import { InvalidArgumentError } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';
import { type Answer, InferClient, type InferClientOptions } from './infer-client.ts';
import { cycledOrder, type LabelledInputs } from './labelled-inputs.ts';
import type { RequestRecord } from './records.ts';

export const OPEN_LOOP_DEFAULTS = {
  /**
   * Sockets. More than a bounded server queue holds, so that waiting happens in the server, where it can be
   * refused; few enough for any machine's file limit.
   */
  connections: 256,
  /** Requests that may be under way at once; each holds a timer entry and a promise, together some MB. */
  maxOutstanding: 4096,
  /** Progress is told at most this often: a terminal shows no more. */
  progressIntervalMs: 200,
  /** Expired requests are looked for this often while none is due: a hundredth of a usual time limit of 1 s. */
  sweepIntervalMs: 10,
} as const;

export interface OpenLoopOptions {
  readonly url: string;
  readonly model: string;
  /** A version to ask for; without it the server chooses, which is what an orchestrated one is for. */
  readonly version?: string;
  readonly inputs: LabelledInputs;
  /** When requests are due, ms from the start, ascending (`dueTimes`). */
  readonly dueTimesMs: ArrayLike<number>;
  /** Answers this long after the due time are given up. */
  readonly timeoutMs: number;
  /** Only for `onProgress` to count late answers; records hold every latency. */
  readonly sloMs: number;
  /** Chooses the order of the inputs. */
  readonly seed: number;
  readonly clock: Clock;
  /** The start on the clock's scale, so that several loops begin together; by default as soon as inputs are ready. */
  readonly startMs?: number;
  readonly connections?: InferClientOptions['connections'];
  readonly maxOutstanding?: number;
  /** Stops sending; requests under way are still waited for (at most `timeoutMs`). */
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: OpenLoopProgress) => void;
}

export interface OpenLoopProgress {
  readonly elapsedMs: number;
  /** Requests sent so far, of `total`. */
  readonly sent: number;
  readonly total: number;
  readonly finished: number;
  /** Finished requests that were late, refused or failed. */
  readonly violations: number;
}

/**
 * Sends every request when it is due, whatever has come back, and records each one. Latency counts from the
 * due time, so a server (or this client) that stalls shows in every request that should have left
 * meanwhile: no coordinated omission. A request is never sent early; on a tick all that are due leave
 * together, at most about 1 ms behind (`sentMs` says when), because spinning for less would cost a core.
 * @returns one record per offered request, in due order; fewer than due times only if `signal` stopped it.
 * @throws InvalidArgumentError for unusable inputs or due times that do not ascend.
 */
export async function runOpenLoop(options: OpenLoopOptions): Promise<RequestRecord[]> {
  const { dueTimesMs, timeoutMs, sloMs, clock, signal, onProgress, inputs } = options;
  const connections = options.connections ?? OPEN_LOOP_DEFAULTS.connections;
  const maxOutstanding = options.maxOutstanding ?? OPEN_LOOP_DEFAULTS.maxOutstanding;
  checkAscending(dueTimesMs);
  const total = dueTimesMs.length;
  const client = new InferClient({ ...options, connections });
  const order = cycledOrder(inputs.labels.length, total, seededRandom(options.seed).fork('inputs'));
  client.prepare(new Set(order));

  const records = new Array<RequestRecord>(total);
  const expiring = new ExpiringRequests();
  let [sent, finished, violations] = [0, 0, 0];
  let lastProgressMs = Number.NEGATIVE_INFINITY;
  const startMs = options.startMs ?? clock.nowMs();
  const elapsed = () => clock.nowMs() - startMs;

  const finish = (index: number, sentMs: number, answer: Answer) => {
    const dueMs = dueTimesMs[index]!;
    const latencyMs = Math.max(0, elapsed() - dueMs);
    records[index] = { dueMs, sentMs, latencyMs, ...answer };
    finished++;
    if (answer.outcome !== 'ok' || latencyMs > sloMs) violations++;
  };
  const send = (index: number) => {
    const sentMs = elapsed();
    if (expiring.underWay >= maxOutstanding) {
      finish(index, sentMs, {
        outcome: 'error',
        status: 0,
        reason: `not sent: ${maxOutstanding} requests are under way`,
      });
      return;
    }
    const request = expiring.add(dueTimesMs[index]! + timeoutMs);
    void client.infer(order[index]!, request.signal).then((answer) => {
      expiring.remove(request);
      finish(index, sentMs, answer);
    });
  };
  const tell = (force: boolean) => {
    const elapsedMs = elapsed();
    if (!force && elapsedMs - lastProgressMs < OPEN_LOOP_DEFAULTS.progressIntervalMs) return;
    lastProgressMs = elapsedMs;
    onProgress?.({ elapsedMs, sent, total, finished, violations });
  };

  try {
    while ((sent < total && !signal?.aborted) || expiring.underWay > 0) {
      const nowMs = elapsed();
      if (!signal?.aborted) while (sent < total && dueTimesMs[sent]! <= nowMs) send(sent++);
      expiring.expire(nowMs);
      tell(false);
      const nextMs = sent < total && !signal?.aborted ? dueTimesMs[sent]! : Number.POSITIVE_INFINITY;
      const waitMs = Math.min(nextMs - elapsed(), OPEN_LOOP_DEFAULTS.sweepIntervalMs);
      await sleep(waitMs);
    }
    tell(true);
  } finally {
    await client.close();
  }
  return records.slice(0, sent);
}

/** Timers of Node.js tick in ms and never sleep less than 1; what is due now only lets waiting I/O run. */
function sleep(waitMs: number): Promise<void> {
  return new Promise((resolve) => {
    if (waitMs <= 0) setImmediate(resolve);
    else setTimeout(resolve, Math.max(1, Math.floor(waitMs)));
  });
}

/** Requests under way, oldest deadline first, so that a look at the front finds all that expired. */
class ExpiringRequests {
  readonly #open = new Map<AbortController, number>();
  /** Requests not removed yet, expired ones included. */
  underWay = 0;

  add(deadlineMs: number): AbortController {
    const controller = new AbortController();
    this.#open.set(controller, deadlineMs);
    this.underWay++;
    return controller;
  }

  remove(controller: AbortController): void {
    this.#open.delete(controller);
    this.underWay--;
  }

  /** Gives up every request whose deadline is at or before `nowMs`. */
  expire(nowMs: number): void {
    // Due times ascend and the time limit is one for all, so insertion order is deadline order.
    for (const [controller, deadlineMs] of this.#open) {
      if (deadlineMs > nowMs) return;
      this.#open.delete(controller);
      controller.abort();
    }
  }
}

function checkAscending(dueTimesMs: ArrayLike<number>): void {
  for (let i = 0; i < dueTimesMs.length; i++) {
    if (!(dueTimesMs[i]! >= (i === 0 ? 0 : dueTimesMs[i - 1]!))) {
      throw new InvalidArgumentError(`Due times must ascend from 0; number ${i} is ${dueTimesMs[i]} ms.`);
    }
  }
}
