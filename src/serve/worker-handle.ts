import { constants, getPriority, setPriority } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { BonsaiError } from '../base/errors.ts';
import type { Tensor } from '../base/tensor.ts';
import { workerUrl } from '../base/worker-url.ts';
import { endedBell } from './ended-bell.ts';
import { WorkerLostError } from './errors.ts';
import { joined, type Lane, type RunResult } from './lane.ts';
import { CARRIAGE, CONTROL, putMerged, RING_SLOTS, type RingView, takeTensors, viewOf } from './ring.ts';
import { watchForStarvation } from './starvation.ts';
import { cpuMsOfThread } from './thread-cpu.ts';
import type {
  FromWorker,
  LoadCommand,
  LoadReport,
  NetworkReport,
  Parcel,
  RehearseCommand,
  ToWorker,
} from './worker-messages.ts';

/** How long a worker that was told to stop is waited for: longer than any sane inference. */
export const STOP_TIMEOUT_MS = 10_000;

interface Pending {
  readonly resolve: (result: RunResult) => void;
  readonly reject: (error: BonsaiError) => void;
}

/** The socket thread's end of one inference thread: boot, load one network, run, close. */
export class WorkerHandle implements Lane {
  readonly isInline = false;
  readonly #worker: Worker;
  readonly #pending: Pending[] = [];
  readonly #exited: Promise<void>;
  #threadId: number | undefined;
  #isLowPriority = false;
  #view: RingView | undefined;
  #report: LoadReport | undefined;
  #port: MessagePort | undefined;
  #submitted = 0;
  #completed = 0;
  #awaited: { resolve: (message: FromWorker) => void; reject: (error: BonsaiError) => void } | undefined;
  #lostReason: string | undefined;
  #isClosing = false;
  /** Called once if the thread ends without having been closed. */
  onLost: Lane['onLost'] = () => undefined;

  /** Resolves when the thread can take a network. @throws WorkerLostError */
  readonly booted: Promise<void>;
  #isHurried = false;

  /** Starts a thread. @param options.lowPriority it gives way to others, unless it is starved or hurried */
  static start(options: { readonly lowPriority: boolean }): WorkerHandle {
    const handle = new WorkerHandle(options.lowPriority);
    handle.booted.catch(() => undefined); // Whoever takes it sees the error.
    return handle;
  }

  private constructor(lowPriority: boolean) {
    this.#worker = new Worker(workerUrl(import.meta.url, 'inference-thread'), {
      workerData: { lowPriority, endedBell },
      name: 'bonsai-inference',
    });
    this.#worker.on('message', (message: FromWorker) => {
      if (message === 0) this.#collect();
      else if (message.kind === 'started') {
        this.#threadId = message.threadId;
        this.#isLowPriority = message.isLowPriority;
        if (this.#isHurried) this.raisePriority();
      } else this.#awaited?.resolve(message);
    });
    this.#worker.on('error', (error) => this.#lose(error.message));
    this.#exited = new Promise((resolve) => {
      this.#worker.once('exit', (code) => {
        this.#lose(`exit code ${code}`);
        resolve();
      });
    });
    this.booted = this.#boot();
  }

  /** Gives the thread the priority of the process from now on, also if it is still booting. */
  hurry(): void {
    this.#isHurried = true;
    this.raisePriority();
  }

  get hasAnswer(): boolean {
    return (
      this.#view !== undefined && Atomics.load(this.#view.control, CONTROL.completed) !== this.#completed
    );
  }

  get isLowPriority(): boolean {
    return this.#isLowPriority;
  }

  get isLost(): boolean {
    return this.#lostReason !== undefined;
  }

  /** CPU time that the thread has had; undefined where the system does not tell. */
  get cpuMs(): number | undefined {
    return cpuMsOfThread(this.#threadId);
  }

  /** @throws BonsaiError with the worker's code and reason; the thread ends then */
  async load(command: Omit<LoadCommand, 'kind' | 'port'>): Promise<LoadReport> {
    const channel = new MessageChannel();
    this.#port = channel.port1;
    this.#port.unref();
    const message = await this.#ask({ ...command, kind: 'load', port: channel.port2 }, [channel.port2]);
    if (message === 0 || message.kind !== 'loaded') throw this.#unexpected(message);
    this.#report = message.report;
    this.#view = viewOf(message.report.ring);
    return message.report;
  }

  /**
   * Has a network optimised into a file and measured; the thread can take another one afterwards.
   * @throws as `load`; the thread ends then
   */
  async rehearse(command: Omit<RehearseCommand, 'kind'>): Promise<NetworkReport> {
    const message = await this.#ask({ ...command, kind: 'rehearse' }, []);
    if (message === 0 || message.kind !== 'rehearsed') throw this.#unexpected(message);
    return message.report;
  }

  /** Gives the thread the priority of the process back. @returns false if the system does not allow it */
  raisePriority(): boolean {
    if (!this.#isLowPriority) return true;
    try {
      setPriority(this.#threadId!, getPriority());
      this.#isLowPriority = false;
      return true;
    } catch {
      return false;
    }
  }

  /** Makes the thread give way to others again. */
  lowerPriority(): void {
    this.#isHurried = false;
    if (this.#isLowPriority || this.#threadId === undefined) return;
    setPriority(this.#threadId, constants.priority.PRIORITY_LOW); // Allowed to everybody.
    this.#isLowPriority = true;
  }

  async #boot(): Promise<void> {
    let wasRaised = false;
    const endWatch = watchForStarvation(
      () => this.cpuMs,
      () => {
        wasRaised = this.#isLowPriority && this.raisePriority();
      },
    );
    try {
      await this.#next();
    } finally {
      endWatch();
    }
    if (wasRaised && !this.#isHurried) this.lowerPriority();
  }

  /**
   * Runs one inference; at most RING_SLOTS may be under way.
   * @param parts of each request its inputs in the network's order; more than one are computed as one, joined along the
   *   first axis, and must fit the ring's room for batches
   * @throws WorkerLostError if the thread ends, BonsaiError `engine_failure` with ONNX Runtime's reason
   */
  run(parts: readonly (readonly Tensor[])[]): Promise<RunResult> {
    const view = this.#view;
    if (view === undefined || this.isLost) {
      return Promise.reject(new WorkerLostError(this.#lostReason ?? 'nothing is loaded'));
    }
    if (this.#pending.length >= RING_SLOTS) {
      return Promise.reject(new BonsaiError('queue_full', 'The ring of the inference worker is full.'));
    }
    const sequence = this.#submitted++;
    const { request } = view.slots[sequence % RING_SLOTS]!;
    if (!putMerged(request, parts)) {
      request.meta[0] = CARRIAGE.message;
      this.#port?.postMessage({ sequence, tensors: joined(parts) } satisfies Parcel);
    }
    return new Promise((resolve, reject) => {
      this.#pending.push({ resolve, reject });
      Atomics.store(view.control, CONTROL.submitted, this.#submitted);
      Atomics.notify(view.control, CONTROL.submitted);
    });
  }

  /** Lets the thread finish what it has and end. */
  async close(): Promise<void> {
    this.#isClosing = true;
    if (this.#view === undefined) {
      this.#worker.postMessage({ kind: 'stop' } satisfies ToWorker);
    } else {
      Atomics.store(this.#view.control, CONTROL.stop, 1);
      Atomics.notify(this.#view.control, CONTROL.submitted);
    }
    // Not ended by force: Node ends a thread inside ONNX Runtime's binding by an exception that nobody there catches,
    // and the whole process with it. A thread that computes on ends when it is done.
    const isAbandoned = await Promise.race([
      this.#exited.then(() => false),
      delay(STOP_TIMEOUT_MS, true, { ref: false }),
    ]);
    if (isAbandoned) this.#worker.unref();
    this.#port?.close();
  }

  /** Ends the thread as a crash would, with whatever it computes unanswered; for drills and tests. */
  async crash(): Promise<void> {
    if (this.#view === undefined) return;
    Atomics.store(this.#view.control, CONTROL.crash, 1);
    Atomics.notify(this.#view.control, CONTROL.submitted);
    await this.#exited;
  }

  /** Takes every answer that is there. */
  #collect(): void {
    const view = this.#view;
    if (view === undefined) return;
    Atomics.store(view.control, CONTROL.doorbell, 0);
    const completed = Atomics.load(view.control, CONTROL.completed);
    while (this.#completed < completed) {
      const sequence = this.#completed++;
      const { answer } = view.slots[sequence % RING_SLOTS]!;
      const pending = this.#pending.shift()!;
      const computeMs = answer.meta[1]! / 1000;
      if (answer.meta[0] === CARRIAGE.inline) {
        pending.resolve({
          outputs: takeTensors(
            answer,
            this.#report!.outputs.map((spec) => spec.dtype),
          ),
          computeMs,
        });
        continue;
      }
      // The worker posts the parcel before it counts the answer, so it is here.
      const parcel = receiveMessageOnPort(this.#port!)?.message as Parcel | undefined;
      if (parcel?.tensors !== undefined) pending.resolve({ outputs: parcel.tensors, computeMs });
      else {
        const { code, message } = parcel?.failure ?? {
          code: 'engine_failure',
          message: 'The worker gave no reason.',
        };
        pending.reject(new BonsaiError(code, message));
      }
    }
  }

  #next(): Promise<FromWorker> {
    if (this.isLost) return Promise.reject(new WorkerLostError(this.#lostReason!));
    return new Promise((resolve, reject) => {
      this.#awaited = { resolve, reject };
    });
  }

  #ask(command: ToWorker, transfer: MessagePort[]): Promise<FromWorker> {
    const next = this.#next();
    if (!this.isLost) this.#worker.postMessage(command, transfer);
    return next;
  }

  #unexpected(message: FromWorker): BonsaiError {
    this.#isClosing = true; // A worker that failed to load ends by itself.
    if (message !== 0 && message.kind === 'failed') return new BonsaiError(message.code, message.message);
    return new BonsaiError('engine_failure', 'The inference worker gave an unexpected answer.');
  }

  #lose(reason: string): void {
    if (this.#lostReason !== undefined) return;
    this.#collect(); // Answers that were complete before the thread ended still count.
    this.#lostReason = reason;
    const error = new WorkerLostError(reason);
    this.#awaited?.reject(error);
    for (const pending of this.#pending.splice(0)) pending.reject(error);
    if (!this.#isClosing) this.onLost(error);
  }
}
