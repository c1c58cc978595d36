import type { Clock } from '../base/clock.ts';
import { BonsaiError, messageOf } from '../base/errors.ts';
import { hasConsistentSize, type Tensor } from '../base/tensor.ts';
import type { TensorSpec } from '../repository/types.ts';
import { datatypeOf } from './datatypes.ts';
import { InvalidRequestError, NotReadyError, RefusedError, WorkerLostError } from './errors.ts';
import type { Limits } from './limits.ts';
import type { LiveVersion } from './live-version.ts';
import { DeadlineQueue, type Waiting } from './queue.ts';
import type { ServedModel } from './served-model.ts';
import { countFailure, countSuccess, type FailureReason } from './statistics.ts';
import type { RunResult, WorkerHandle } from './worker-handle.ts';

/** An inference as either protocol asks for it. */
export interface InferRequest {
  readonly model: ServedModel;
  /** Undefined: whichever version serves when its turn comes. */
  readonly version?: number;
  readonly inputs: readonly NamedTensor[];
  /** Names of the outputs wanted; undefined: all. */
  readonly outputs?: readonly string[];
  /** Longest wait before the inference begins. */
  readonly timeoutMs?: number;
  /** Longest time until the answer. */
  readonly maxLatencyMs?: number;
}

export interface NamedTensor extends Tensor {
  readonly name: string;
}

export interface InferAnswer {
  readonly version: number;
  /** In the model's order, only those asked for. */
  readonly outputs: readonly NamedTensor[];
  /** Of the version, on its test data; undefined where unknown. */
  readonly accuracy?: number;
  readonly queueMs: number;
}

/** A request under way. */
export interface Submission {
  readonly answer: Promise<InferAnswer>;
  /** The client has gone: what still waits is dropped. */
  cancel(): void;
}

/**
 * Inferences committed to a slot at a time: one that runs and one that is in its ring already, so that the worker
 * need not wait for the socket thread in between.
 */
export const SLOT_DEPTH = 2;

/** How often requests whose time has passed are looked for while an inference holds everything up. */
export const EXPIRY_SWEEP_MS = 10;

/** Share of a latency objective kept for what the expected service time leaves out: sockets, decoding, jitter. */
export const LATENCY_GUARD_RATIO = 0.05;

/** Times that a request is given to a worker: a second one only if the first was lost with its worker. */
export const MAX_ATTEMPTS = 2;

interface Ticket extends Waiting {
  readonly request: InferRequest;
  /** The version it is bound to, where the request named one. */
  readonly bound: LiveVersion | undefined;
  /** In the order of the network's inputs. */
  readonly inputs: readonly Tensor[];
  readonly batch: number;
  readonly arrivalMs: number;
  attempts: number;
  isCancelled: boolean;
  readonly resolve: (answer: InferAnswer) => void;
  readonly reject: (error: BonsaiError) => void;
}

/** Capacity for one inference at a time. */
interface Slot {
  readonly index: number;
  busy: number;
  worker: WorkerHandle | undefined;
}

/** From a decoded request to its answer: deadline → queue → slot → worker → answer. Knows no protocol. */
export class DataPlane {
  readonly #clock: Clock;
  readonly #limits: Limits;
  readonly #queue: DeadlineQueue<Ticket>;
  readonly #slots: readonly Slot[];
  readonly #running = new Set<Ticket>();
  readonly #sweep: NodeJS.Timeout;
  #whenIdle: (() => void) | undefined;
  #isDraining = false;

  constructor(options: { readonly slots: number; readonly limits: Limits; readonly clock: Clock }) {
    this.#clock = options.clock;
    this.#limits = options.limits;
    this.#queue = new DeadlineQueue(options.limits.maxQueueLength);
    this.#slots = Array.from({ length: options.slots }, (_, index) => ({
      index,
      busy: 0,
      worker: undefined,
    }));
    this.#sweep = setInterval(() => this.#expire(), EXPIRY_SWEEP_MS);
    this.#sweep.unref();
  }

  /** Requests that wait, of one model or of all. */
  queued(model?: ServedModel): number {
    return model === undefined
      ? this.#queue.length
      : this.#queue.count((ticket) => ticket.request.model === model);
  }

  /** Requests of a version that wait for it or run on it. */
  pending(live: LiveVersion): number {
    return live.held;
  }

  /**
   * Takes a request in, or throws at once: InvalidRequestError, RefusedError, NotReadyError, VersionNotFoundError.
   * The answer rejects with the same kinds, and with `worker_lost`, `engine_failure` or `cancelled`.
   */
  submit(request: InferRequest): Submission {
    const { arrivals } = request.model;
    try {
      const submission = this.#admit(request);
      arrivals.accepted++;
      return submission;
    } catch (thrown) {
      if (
        thrown instanceof RefusedError ||
        (thrown instanceof BonsaiError && thrown.code === 'shutting_down')
      ) {
        arrivals.refused++;
        request.model.countRefusal(thrown.code);
      } else {
        arrivals.invalid++;
      }
      throw thrown;
    }
  }

  /** Starts whatever can start; to be called when a version or a lane has become ready. */
  dispatch(): void {
    this.#expire();
    for (let depth = 0; depth < SLOT_DEPTH; depth++) {
      for (const slot of this.#slots) {
        if (slot.busy !== depth) continue;
        const ticket = this.#queue.take((candidate) => this.#canStart(candidate, slot));
        if (ticket !== undefined) this.#start(ticket, slot);
      }
    }
  }

  /** Refuses new requests and waits for those taken in, at most so long. @returns whether all were answered */
  async drain(timeoutMs: number): Promise<boolean> {
    this.#isDraining = true;
    if (!this.#isIdle) {
      let timer: NodeJS.Timeout | undefined;
      await Promise.race([
        new Promise<void>((resolve) => {
          this.#whenIdle = resolve;
        }),
        new Promise<void>((resolve) => {
          timer = setTimeout(resolve, timeoutMs);
        }),
      ]);
      clearTimeout(timer);
    }
    const isDone = this.#isIdle;
    for (const ticket of this.#queue.takeAll()) this.#fail(ticket, shuttingDown(), 'OTHER');
    clearInterval(this.#sweep);
    return isDone;
  }

  #admit(request: InferRequest): Submission {
    if (this.#isDraining) throw shuttingDown();
    const nowMs = this.#clock.nowMs();
    const live = request.model.resolve(request.version);
    const inputs = orderedInputs(request, live);
    const batch = batchOf(inputs, live.inputs);
    const serviceMs = live.serviceMs * batch;
    const waitMs = Math.min(
      this.#limits.maxQueueWaitMs,
      request.timeoutMs ?? Number.POSITIVE_INFINITY,
      (request.maxLatencyMs ?? this.#limits.maxLatencyMs ?? Number.POSITIVE_INFINITY) *
        (1 - LATENCY_GUARD_RATIO) -
        serviceMs,
    );
    let ticket: Ticket | undefined;
    const answer = new Promise<InferAnswer>((resolve, reject) => {
      ticket = {
        request,
        bound: request.version === undefined ? undefined : live,
        inputs,
        batch,
        arrivalMs: nowMs,
        // An idle server tries even what it expects to be too slow: the expectation may be out of date.
        startByMs: nowMs + (this.#isIdle ? Math.max(waitMs, 0) : waitMs),
        serviceMs,
        attempts: 0,
        isCancelled: false,
        resolve,
        reject,
      };
    });
    const admitted = ticket!;
    this.#queue.add(admitted, nowMs, this.#slots.length, this.#committedMs());
    admitted.bound?.hold();
    this.dispatch();
    return { answer, cancel: () => this.#cancel(admitted) };
  }

  #canStart(ticket: Ticket, slot: Slot): boolean {
    const live = ticket.bound ?? ticket.request.model.current;
    if (live === undefined) return true; // It can be told so.
    const worker = live.lane(slot.index);
    return worker !== undefined && (slot.busy === 0 || slot.worker === worker);
  }

  #start(ticket: Ticket, slot: Slot): void {
    const live = ticket.bound ?? ticket.request.model.current;
    const worker = live?.lane(slot.index);
    if (live === undefined || worker === undefined) {
      this.#fail(ticket, new NotReadyError(`'${ticket.request.model.name}' has no version ready`), 'OTHER');
      return;
    }
    slot.busy++;
    slot.worker = worker;
    ticket.attempts++;
    live.hold();
    this.#running.add(ticket);
    worker.run(ticket.inputs).then(
      (result) => {
        this.#finish(ticket, slot, live);
        this.#answer(ticket, live, result);
        this.dispatch();
      },
      (thrown: unknown) => {
        this.#finish(ticket, slot, live);
        this.#retryOrFail(ticket, live, thrown);
        this.dispatch();
      },
    );
  }

  #finish(ticket: Ticket, slot: Slot, live: LiveVersion): void {
    slot.busy--;
    this.#running.delete(ticket);
    live.release();
  }

  #answer(ticket: Ticket, live: LiveVersion, result: RunResult): void {
    const totalMs = this.#clock.nowMs() - ticket.arrivalMs;
    const queueMs = Math.max(0, totalMs - result.computeMs);
    live.observe(result.computeMs / ticket.batch);
    countSuccess(live.statistics, {
      batch: ticket.batch,
      totalMs,
      queueMs,
      computeMs: result.computeMs,
      epochMs: this.#clock.epochMs(),
    });
    const outputs: NamedTensor[] = [];
    live.outputs.forEach(({ name }, i) => {
      if (ticket.request.outputs?.includes(name) === false) return;
      outputs.push({ ...result.outputs[i]!, name });
    });
    this.#settle(ticket);
    ticket.resolve({ version: live.version, outputs, accuracy: live.stored.variant?.accuracy.test, queueMs });
  }

  #retryOrFail(ticket: Ticket, live: LiveVersion, thrown: unknown): void {
    const isLost = thrown instanceof WorkerLostError;
    if (isLost && ticket.attempts < MAX_ATTEMPTS && !ticket.isCancelled) {
      this.#queue.restore(ticket);
      return;
    }
    const error =
      thrown instanceof BonsaiError ? thrown : new BonsaiError('engine_failure', messageOf(thrown));
    countFailure(live.statistics, 'BACKEND', this.#clock.nowMs() - ticket.arrivalMs);
    this.#settle(ticket);
    ticket.reject(error);
  }

  #cancel(ticket: Ticket): void {
    ticket.isCancelled = true;
    if (!this.#queue.remove(ticket)) return; // It runs or is done; a running inference cannot be stopped.
    this.#fail(ticket, new BonsaiError('cancelled', 'The client has gone.'), 'CANCELED');
  }

  #expire(): void {
    for (const ticket of this.#queue.takeExpired(this.#clock.nowMs())) {
      ticket.request.model.countRefusal('expired');
      this.#fail(
        ticket,
        new RefusedError('deadline_exceeded', 'Request timeout expired', this.#waitMs()),
        'REJECTED',
      );
    }
  }

  #fail(ticket: Ticket, error: BonsaiError, reason: FailureReason): void {
    const live = ticket.bound ?? ticket.request.model.current;
    if (live !== undefined) countFailure(live.statistics, reason, this.#clock.nowMs() - ticket.arrivalMs);
    this.#settle(ticket);
    ticket.reject(error);
  }

  #settle(ticket: Ticket): void {
    ticket.bound?.release();
    if (this.#isIdle) this.#whenIdle?.();
  }

  get #isIdle(): boolean {
    return this.#queue.length === 0 && this.#running.size === 0;
  }

  #committedMs(): number {
    let sum = 0;
    for (const ticket of this.#running) sum += ticket.serviceMs;
    return sum;
  }

  #waitMs(): number {
    return this.#queue.waitMs(this.#slots.length, this.#committedMs());
  }
}

function shuttingDown(): BonsaiError {
  return new BonsaiError('shutting_down', 'The server is stopping; send the request to another one.');
}

/** The inputs in the network's order. @throws InvalidRequestError naming the input that does not fit */
function orderedInputs(request: InferRequest, live: LiveVersion): Tensor[] {
  const model = request.model.name;
  for (const { name } of request.inputs) checkInputName(name, live.inputs, model);
  for (const name of request.outputs ?? []) {
    if (!live.outputs.some((spec) => spec.name === name)) {
      throw new InvalidRequestError(
        `unexpected inference output '${name}' for model '${model}'; it gives ${namesOf(live.outputs)}`,
      );
    }
  }
  return live.inputs.map((spec) => {
    const given = request.inputs.filter((input) => input.name === spec.name);
    if (given.length !== 1) {
      const problem = given.length === 0 ? 'is missing' : 'is given more than once';
      throw new InvalidRequestError(`input '${spec.name}' of model '${model}' ${problem}`);
    }
    checkTensor(given[0]!, spec, model);
    return given[0]!;
  });
}

/** A name is checked before anything else of an input: whatever is wrong with its data may come from there. */
export function checkInputName(name: string, specs: readonly TensorSpec[], model: string): void {
  if (specs.some((spec) => spec.name === name)) return;
  throw new InvalidRequestError(
    `unexpected inference input '${name}' for model '${model}'; it takes ${namesOf(specs)}`,
  );
}

function namesOf(specs: readonly TensorSpec[]): string {
  return specs.map((spec) => `'${spec.name}'`).join(', ');
}

function checkTensor(tensor: NamedTensor, spec: TensorSpec, model: string): void {
  const where = `input '${tensor.name}' of model '${model}'`;
  if (tensor.dtype !== spec.dtype) {
    throw new InvalidRequestError(
      `${where} is ${datatypeOf(tensor.dtype)}, expected ${datatypeOf(spec.dtype)}`,
    );
  }
  const fits =
    tensor.shape.length === spec.shape.length &&
    spec.shape.every((size, axis) => size === -1 || size === tensor.shape[axis]);
  if (!fits) {
    throw new InvalidRequestError(
      `${where} has shape [${tensor.shape.join(',')}], expected [${spec.shape.join(',')}]`,
    );
  }
  if (!hasConsistentSize(tensor)) {
    throw new InvalidRequestError(
      `${where} has ${tensor.bytes.byteLength} bytes, which is not what shape [${tensor.shape.join(',')}] takes`,
    );
  }
}

/** How many examples a request brings: the open first size of its first input. */
function batchOf(inputs: readonly Tensor[], specs: readonly TensorSpec[]): number {
  return specs[0]?.shape[0] === -1 ? Math.max(1, inputs[0]?.shape[0] ?? 1) : 1;
}
