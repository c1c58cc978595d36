import type { Clock } from '../base/clock.ts';
import { BonsaiError, messageOf } from '../base/errors.ts';
import type { Tensor } from '../base/tensor.ts';
import type { Promised } from '../policy/admission.ts';
import { problemOfPick } from '../policy/checked-decision.ts';
import type {
  Dispatch,
  DispatchDecision,
  DispatchTask,
  QueuedRequest,
  ResidentVersion,
  ShedReason,
} from '../policy/dispatch.ts';
import type { TaskObjective } from '../policy/policy.ts';
import { leastCommitted, type Place } from '../policy/routing.ts';
import { ByteBudget } from './byte-budget.ts';
import type { CpuGovernor } from './cpu-governor.ts';
import { BATCH_CLASS_SLO_RATIO, defaultDispatch, type SharesPlan } from './default-dispatch.ts';
import { countOf, endedBell, sleepUntilRung } from './ended-bell.ts';
import { InvalidRequestError, NotReadyError, RefusedError, WorkerLostError } from './errors.ts';
import { type NamedTensor, orderedInputs, rowsOf } from './input-check.ts';
import type { Lane, RunResult } from './lane.ts';
import type { Limits } from './limits.ts';
import {
  type LiveVersion,
  MAX_MERGED_ROWS,
  MAX_OVERHEAD_MS,
  OVERHEAD_SHARED_RATIO,
  OVERHEAD_SMOOTHING,
} from './live-version.ts';
import { Pressure } from './pressure.ts';
import { DeadlineQueue } from './queue.ts';
import type { ServedModel } from './served-model.ts';
import { countExecution, countFailure, countSuccess, type FailureReason } from './statistics.ts';
import { checkWishes, type Wishes } from './wishes.ts';

/** What of an inference decides, with the load, whether it is taken in at all. */
export interface InferHead extends Wishes {
  readonly model: ServedModel;
  /** Longest wait before the inference begins. */
  readonly timeoutMs?: number;
}

/** An inference as either protocol asks for it. */
export interface InferRequest extends InferHead {
  readonly inputs: readonly NamedTensor[];
  /** Names of the outputs wanted; undefined: all. */
  readonly outputs?: readonly string[];
  /** The protocol has taken the request's bytes from `DataPlane.bytes` already, and gives them back. */
  readonly isCharged?: boolean;
  /** Of the server itself, for warming up: it leaves no trace in statistics and metrics. */
  readonly isUncounted?: boolean;
}

export interface InferAnswer {
  readonly version: number;
  /** In the model's order, only those asked for. */
  readonly outputs: readonly NamedTensor[];
  /** Of the version, on its test data; undefined where unknown. */
  readonly accuracy?: number;
  readonly queueMs: number;
  /** Model and version of the remote server whose answer this is, where it was asked. */
  readonly secondOpinion?: string;
}

/** What the protocols need of the data plane. */
export type RequestPlane = Pick<DataPlane, 'bytes' | 'hasWaiting' | 'submit' | 'checkAdmission'>;

/** A request under way. */
export interface Submission {
  readonly answer: Promise<InferAnswer>;
  /** The client has gone: what still waits is dropped. */
  cancel(): void;
}

/**
 * Jobs committed to a slot at a time: one that runs and one that is in its ring already, so that the worker need not
 * wait for the socket thread in between.
 */
export const SLOT_DEPTH = 2;

/**
 * Behind a longer job the next one is not committed ahead: the hand-off that this saves (some 0.1 ms) is nothing
 * against it, while the choice of the next request and its version is better the later it is made.
 */
export const AHEAD_BELOW_MS = 8;

/** So long inferences in the thread with the sockets follow each other before the sockets have their turn. */
export const INLINE_TURN_MS = 4;

/**
 * While requests are refused and every slot computes, the thread with the sockets rests so long between its turns: to
 * wake for each refusal alone takes twice the CPU of refusing several at once, and the CPU is what is short.
 */
export const REFUSAL_REST_MS = 5;

/**
 * libuv accepts one connection in each turn of the event loop (since 1.45). While more come, turns are kept short for at
 * most so long before the next inference: else the hundredth of a burst of clients would wait for a hundred inferences.
 */
export const ACCEPTING_MS = 8;

/**
 * It does not rest until no connection has come for so long: clients that come together find each other's requests before
 * theirs, and what a rest adds to that no deadline knows of, since the time of a request counts from when it is read.
 */
export const REST_AFTER_CONNECTIONS_MS = 100;

/** Requests whose time has passed are looked for when the first of them is due, but no more often than this. */
export const EXPIRY_SWEEP_MS = 10;

/** Share of a latency objective kept for what the expected service time leaves out: sockets, decoding, jitter. */
export const LATENCY_GUARD_RATIO = 0.05;

/** Times that a request is given to a worker: a second one only if the first was lost with its worker. */
export const MAX_ATTEMPTS = 2;

interface Ticket extends QueuedRequest, Promised {
  readonly request: InferRequest;
  /** The version it is bound to, where the request named one. */
  readonly bound: LiveVersion | undefined;
  /** In the order of the network's inputs. */
  readonly inputs: readonly Tensor[];
  readonly rows: number;
  /** Narrowed to one, when its turn comes, for a request that prefers accuracy or speed. */
  version: number | undefined;
  readonly prefer: Wishes['prefer'];
  attempts: number;
  /** It was part of a joint job that failed, so it is computed by itself. */
  isAlone: boolean;
  isCancelled: boolean;
  readonly release: () => void;
  readonly resolve: (answer: InferAnswer) => void;
  readonly reject: (error: BonsaiError) => void;
}

/** Capacity for one job at a time, with the realtime requests that wait for it. */
interface Slot {
  readonly index: number;
  readonly queue: DeadlineQueue<Ticket>;
  /** What each task can be answered by here; by the numbers of tasks. */
  tasks: readonly DispatchTask[];
  /** Some version's thread is missing here, so not every request can start. */
  isDegraded: boolean;
  busy: number;
  /** Where what was begun runs. */
  lane: Lane | undefined;
  /** When what was begun is expected to end, and the rest after it under a quota. */
  busyUntilMs: number;
  timer: NodeJS.Timeout | undefined;
  /** The process has used more than its quota: the timer will fill it. */
  isResting: boolean;
  /** `#fillSoon` will fill it. */
  isFillDue: boolean;
  /** Since that is due, jobs were started before it. */
  hasStartedEarly: boolean;
  /** When it last did. */
  turnStartMs: number;
  /** When the last job ended, if the next one began as soon as it could. */
  lastEndMs: number | undefined;
}

/** From a decoded request to its answer: deadline → queue → slot → version → worker → answer. Knows no protocol. */
export class DataPlane {
  /** Bytes of all requests under way; protocols may charge a body here as soon as they know its size. */
  readonly bytes: ByteBudget;
  readonly #clock: Clock;
  readonly #limits: Limits;
  readonly #governor: CpuGovernor | undefined;
  readonly #slots: readonly Slot[];
  /** Requests of the `batch` class, in order of arrival. */
  readonly #idleWork: Ticket[] = [];
  readonly #running = new Set<Ticket>();
  #sweep: NodeJS.Timeout | undefined;
  #sweepMs = Number.POSITIVE_INFINITY;
  readonly #onDispatchFailure: (reason: string) => void;
  /** Tasks by number; a task keeps its number. */
  readonly #models: ServedModel[] = [];
  readonly #numbers = new Map<ServedModel, number>();
  #dispatch: Dispatch = defaultDispatch;
  #plan: unknown;
  #objectives: ReadonlyMap<string, TaskObjective> = new Map();
  /** What a request costs its slot beside the inference: sockets, decoding, choosing, answering. */
  #overheadMs = 0;
  readonly #pressure = new Pressure();
  /** How much longer inferences take than when their versions were warmed, over all that are computed. */
  #slowdown = 1;
  #waiting = 0;
  #whenIdle: (() => void) | undefined;
  #isDraining = false;
  #isRestDue = false;
  /** A connection was accepted in this turn of the event loop, so another one may wait. */
  #isAccepting = false;
  #lastConnectionMs = Number.NEGATIVE_INFINITY;

  constructor(options: {
    readonly slots: number;
    readonly limits: Limits;
    readonly clock: Clock;
    /** Says when jobs may start, where the process is held to a share of CPU time. */
    readonly governor?: CpuGovernor;
    /** Told when a policy's dispatch throws or chooses what is not there; the default one takes its place for then. */
    readonly onDispatchFailure?: (reason: string) => void;
  }) {
    this.#clock = options.clock;
    this.#limits = options.limits;
    this.#governor = options.governor;
    this.#onDispatchFailure = options.onDispatchFailure ?? (() => undefined);
    this.bytes = new ByteBudget(options.limits.maxInFlightBytes);
    this.#slots = Array.from({ length: options.slots }, (_, index) => ({
      index,
      queue: new DeadlineQueue<Ticket>(),
      tasks: [],
      isDegraded: false,
      busy: 0,
      lane: undefined,
      busyUntilMs: 0,
      timer: undefined,
      isResting: false,
      isFillDue: false,
      hasStartedEarly: false,
      turnStartMs: 0,
      lastEndMs: undefined,
    }));
  }

  /** Requests that wait: of all models, or those of one that have a deadline. */
  queued(model?: ServedModel): number {
    if (model === undefined) return this.#waiting;
    let count = 0;
    for (const { queue } of this.#slots)
      for (const ticket of queue.items) if (ticket.request.model === model) count++;
    return count;
  }

  /** Requests of a model that wait for idle time. */
  queuedBatch(model: ServedModel): number {
    return this.#idleWork.filter((ticket) => ticket.request.model === model).length;
  }

  /** Whether requests wait or none is taken any more: only then `checkAdmission` may refuse. */
  get hasWaiting(): boolean {
    return this.#waiting > 0 || this.#isDraining;
  }

  /** What a request costs its slot beside the inference, measured while requests waited; 0 before that. */
  get overheadMs(): number {
    return this.#overheadMs;
  }

  /** Requests of a version that wait for it or run on it. */
  pending(live: LiveVersion): number {
    return live.held;
  }

  /** Lets a policy choose the versions from now on; undefined: the default dispatch. */
  useDispatch(dispatch: Dispatch | undefined): void {
    this.#dispatch = dispatch ?? defaultDispatch;
    this.setPlan(undefined);
  }

  /** What is asked of single tasks, by name; a request's own wishes count more. */
  setObjectives(objectives: ReadonlyMap<string, TaskObjective>): void {
    this.#objectives = objectives;
    this.refresh();
  }

  /** What the dispatch is to go by from now on; counts of dispatched requests begin anew. */
  setPlan(plan: unknown): void {
    this.#plan = plan;
    for (const model of this.#models) {
      for (const live of model.liveVersions) {
        live.resetDispatched();
        live.relax(this.#slowdown);
        this.#setCosts(live);
      }
    }
    this.refresh();
  }

  /**
   * Takes a request in, or throws at once: InvalidRequestError, RefusedError, NotReadyError, VersionNotFoundError.
   * The answer rejects with the same kinds, and with `worker_lost`, `engine_failure` or `cancelled`.
   */
  submit(request: InferRequest): Submission {
    if (request.priority === 'batch' && !request.isUncounted) request.model.batchArrivals++;
    try {
      const submission = this.#admit(request);
      if (!request.isUncounted) request.model.arrivals.accepted++;
      return submission;
    } catch (thrown) {
      countTurnedAway(request.model, thrown);
      this.#governor?.noteRefusal();
      throw thrown;
    }
  }

  /**
   * Refuses what `submit` would refuse for want of time or room even if it had one example only, so that under overload
   * its tensors need not be decoded first. @throws as `submit`
   */
  checkAdmission(head: InferHead): void {
    try {
      this.#checkAdmission(head);
    } catch (thrown) {
      countTurnedAway(head.model, thrown);
      this.#governor?.noteRefusal();
      if (thrown instanceof RefusedError) this.#restSoon();
      throw thrown;
    }
  }

  /** To be called when a connection was accepted. */
  noteConnection(): void {
    this.#isAccepting = true;
    this.#lastConnectionMs = this.#clock.nowMs();
  }

  /** Rests once what has come by now is answered. */
  #restSoon(): void {
    // Under a quota the slots rest, and the sockets have their time.
    if (this.#isRestDue || this.#governor?.rests === true) return;
    this.#isRestDue = true;
    setImmediate(() => {
      this.#isRestDue = false;
      if (this.#clock.nowMs() - this.#lastConnectionMs < REST_AFTER_CONNECTIONS_MS) return;
      const rung = countOf(endedBell);
      if (this.#slots.every(leavesSockets)) sleepUntilRung(endedBell, rung, REFUSAL_REST_MS);
    });
  }

  #checkAdmission(head: InferHead): void {
    if (this.#isDraining) throw shuttingDown();
    if (this.#waiting === 0 || head.priority === 'batch') return;
    const { model, version } = head;
    const objective = this.#objectives.get(model.name);
    const weight = head.weight ?? objective?.weight ?? 1;
    const minAccuracy = relative(head.minAccuracy, model) ?? objective?.minAccuracy;
    const live = model.resolve(version);
    checkWishes(model, head, version === undefined ? undefined : live);
    const nowMs = this.#clock.nowMs();
    const slot = this.#leastCommitted(nowMs, version === undefined ? undefined : live);
    const waiting = waitingOf(slot, this.#numberOf(model));
    const { serviceMs, workMs } = fastestOf(head, model, live, minAccuracy, { rows: 1, waiting });
    const deadlineMs = this.#deadlineOf(head, nowMs, serviceMs);
    this.#startDue(slot);
    if (this.#waiting >= this.#limits.maxQueueLength && slot.queue.leastImportant(weight) === undefined)
      throw queueFull(this.#committedMs(slot, nowMs));
    slot.queue.check({ deadlineMs, serviceMs, workMs, weight }, nowMs, this.#begunMs(slot, nowMs));
  }

  /** To be called when versions or their lanes have changed: looks at them anew and starts whatever can start. */
  refresh(): void {
    for (const slot of this.#slots) this.#refreshSlot(slot);
    if (this.#dispatch === defaultDispatch) this.#plan = this.#sharesPlan();
    for (const model of this.#models) for (const live of model.liveVersions) this.#setCosts(live);
    this.#expire();
    this.#startAll();
  }

  /** Refuses new requests and waits for those taken in, at most so long. @returns whether all were answered */
  async drain(timeoutMs: number): Promise<boolean> {
    this.#isDraining = true;
    if (!this.isIdle) {
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
    const isDone = this.isIdle;
    const rest = [...this.#slots.flatMap(({ queue }) => queue.takeAll()), ...this.#idleWork.splice(0)];
    for (const ticket of rest) {
      this.#waiting--;
      this.#fail(ticket, shuttingDown(), 'OTHER');
    }
    for (const slot of this.#slots) clearTimeout(slot.timer);
    clearTimeout(this.#sweep);
    return isDone;
  }

  #admit(request: InferRequest): Submission {
    if (this.#isDraining) throw shuttingDown();
    const { model } = request;
    const live = model.resolve(request.version);
    checkWishes(model, request, request.version === undefined ? undefined : live);
    const inputs = orderedInputs(model.name, request.inputs, request.outputs, live);
    const rows = rowsOf(inputs, live.inputs);
    const task = this.#numberOf(model);
    const objective = this.#objectives.get(model.name);
    const minAccuracy = relative(request.minAccuracy, model) ?? objective?.minAccuracy;
    const nowMs = this.#clock.nowMs();
    const slot = this.#leastCommitted(nowMs, request.version === undefined ? undefined : live);
    const waiting = waitingOf(slot, task);
    const { serviceMs, workMs } = fastestOf(request, model, live, minAccuracy, { rows, waiting });
    const isBatchClass = request.priority === 'batch';
    const deadlineMs = isBatchClass ? Number.POSITIVE_INFINITY : this.#deadlineOf(request, nowMs, serviceMs);
    const isTrial = !isBatchClass && this.#isTrial(request, serviceMs);
    const weight = request.weight ?? objective?.weight ?? 1;
    if (isBatchClass) this.#checkBatchClass(model, serviceMs, rows);
    this.#makeRoom(weight, slot, nowMs);
    const release = request.isCharged === true ? nothing : this.bytes.reserve(bytesOf(inputs));
    let ticket: Ticket | undefined;
    const answer = new Promise<InferAnswer>((resolve, reject) => {
      ticket = {
        request,
        bound: request.version === undefined ? undefined : live,
        inputs,
        rows,
        task,
        arrivalMs: nowMs,
        deadlineMs,
        serviceMs,
        workMs,
        minAccuracy,
        version: request.version,
        prefer: isTrial ? 'latency' : request.prefer,
        weight,
        priority: isBatchClass ? 'batch' : 'realtime',
        attempts: 0,
        isAlone: false,
        isCancelled: false,
        release,
        resolve,
        reject,
      };
    });
    const admitted = ticket!;
    if (isBatchClass) this.#idleWork.push(admitted);
    else this.#queueUp(admitted, slot, nowMs);
    this.#waiting++;
    admitted.bound?.hold();
    this.#fillSoon(slot);
    if (this.#waiting > 0)
      this.#expireAt(isBatchClass ? this.#idleWorkUntilMs(admitted) : deadlineMs - serviceMs);
    if (isBatchClass && this.#idleWork.length > 0) this.#startAll();
    return { answer, cancel: () => this.#cancel(admitted) };
  }

  /** Puts a request into a slot's queue; of less weight, others may have to go. @throws RefusedError */
  #queueUp(ticket: Ticket, slot: Slot, nowMs: number): void {
    let victims: readonly Ticket[];
    try {
      victims = slot.queue.add(ticket, nowMs, this.#begunMs(slot, nowMs));
    } catch (thrown) {
      ticket.release();
      throw thrown;
    }
    for (const victim of victims) this.#giveUpFor(victim);
  }

  #giveUpFor(victim: Ticket): void {
    this.#waiting--;
    victim.request.model.countRefusal('overload');
    this.#fail(victim, refused('Refused: given up for a request of higher priority', 0), 'REJECTED');
  }

  /** Keeps the number of waiting requests bounded, if need be by giving up one that matters less. @throws RefusedError */
  #makeRoom(weight: number, slot: Slot, nowMs: number): void {
    this.#startDue(slot);
    if (this.#waiting < this.#limits.maxQueueLength) return;
    const victim = slot.queue.leastImportant(weight);
    if (victim === undefined) throw queueFull(this.#committedMs(slot, nowMs));
    slot.queue.remove(victim);
    this.#giveUpFor(victim);
  }

  /** When the answer is due, for a dispatch: the objective less what service times leave out, or the end of the wait. */
  #deadlineOf(request: InferHead, nowMs: number, serviceMs: number): number {
    const limitMs = this.#guardedLimitOf(request);
    const waitMs = Math.min(this.#limits.maxQueueWaitMs, request.timeoutMs ?? Number.POSITIVE_INFINITY);
    const deadlineMs = nowMs + Math.min(limitMs, waitMs + serviceMs);
    if (!this.isIdle) return deadlineMs;
    const trialMs = nowMs + 2 * serviceMs + IDLE_GRACE_MS;
    if (this.#isTrial(request, serviceMs)) return trialMs;
    return Math.max(deadlineMs, Math.min(trialMs, nowMs + limitMs));
  }

  /** An idle server tries even what it expects to be somewhat too slow, by the fastest version: the expectation may be out of date. */
  #isTrial(request: InferHead, serviceMs: number): boolean {
    const isShort = serviceMs <= MAX_TRIAL_MS;
    return this.isIdle && isShort && this.#guardedLimitOf(request) < serviceMs + IDLE_GRACE_MS;
  }

  #guardedLimitOf(request: InferHead): number {
    return (this.#latencyLimitOf(request) ?? Number.POSITIVE_INFINITY) * (1 - LATENCY_GUARD_RATIO);
  }

  /** One example of the fastest version may always run: realtime requests wait for that as well. @throws InvalidRequestError */
  #checkBatchClass(model: ServedModel, serviceMs: number, rows: number): void {
    const limitMs = this.#sloOf(model) * BATCH_CLASS_SLO_RATIO;
    if (rows === 1 || serviceMs <= limitMs) return;
    throw new InvalidRequestError(
      `a request of priority 'batch' with ${rows} examples would hold up others for ${serviceMs.toFixed(0)} ms, more than the ${limitMs.toFixed(0)} ms allowed; send at most ${Math.max(1, Math.floor((rows * limitMs) / serviceMs))} examples at a time`,
    );
  }

  /** The slot with the least committed work, of those where the version can run if there are any. */
  #leastCommitted(nowMs: number, live: LiveVersion | undefined): Slot {
    const [first] = this.#slots;
    if (this.#slots.length === 1) return first!;
    const places = this.#slots.map((slot): Place & { slot: Slot } => ({
      slot,
      committedMs: this.#committedMs(slot, nowMs),
      residentVersions: live === undefined || live.lane(slot.index) !== undefined ? 1 : 0,
    }));
    return leastCommitted(places)!.slot;
  }

  #startAll(): void {
    for (const slot of this.#slots) this.#fill(slot);
  }

  /** Fills a slot when the sockets that have something by now were read, so that what came together starts together. */
  #fillSoon(slot: Slot): void {
    if (slot.isFillDue) return;
    slot.isFillDue = true;
    const beganMs = this.#clock.nowMs();
    const fill = () => {
      const nowMs = this.#clock.nowMs();
      if (nowMs - beganMs < ACCEPTING_MS && this.#takeAccepting()) {
        setImmediate(fill);
        return;
      }
      slot.isFillDue = false;
      slot.hasStartedEarly = false;
      slot.turnStartMs = nowMs;
      this.#fill(slot);
    };
    setImmediate(fill);
  }

  /** Whether a connection was accepted since it was last asked. */
  #takeAccepting(): boolean {
    const isAccepting = this.#isAccepting;
    this.#isAccepting = false;
    return isAccepting;
  }

  /**
   * Where the queue is full of what came together, what can start does so now: once in each turn, for a job in this
   * thread is done at once, and requests would go on being taken in, and wait in the sockets, where nobody counts them.
   */
  #startDue(slot: Slot): void {
    if (!slot.isFillDue || slot.hasStartedEarly || this.#waiting < this.#limits.maxQueueLength) return;
    slot.hasStartedEarly = true;
    this.#fill(slot);
  }

  /** After a job in this thread: the next one, or the sockets if they have waited long enough. */
  #goOn(slot: Slot): void {
    if (this.#clock.nowMs() - slot.turnStartMs < INLINE_TURN_MS) this.#fill(slot);
    else this.#fillSoon(slot);
  }

  /** Commits as many jobs to a slot as it may hold. */
  #fill(slot: Slot): void {
    while (slot.busy < SLOT_DEPTH && this.#mayStart(slot) && this.#startNext(slot));
  }

  #mayStart({ busy, lane, busyUntilMs, isResting }: Slot): boolean {
    if (busy === 0) return !isResting;
    // Under a quota each job is paid for before the next one starts.
    if (this.#governor?.rests === true) return false;
    return lane?.isInline !== true && busyUntilMs - this.#clock.nowMs() < AHEAD_BELOW_MS;
  }

  /** Lets the dispatch choose what comes next. @returns whether anything changed, so that it is worth asking again */
  #startNext(slot: Slot): boolean {
    const queue = this.#candidates(slot);
    if (queue.length === 0 || this.#mustRest(slot)) return false;
    const nowMs = Math.max(this.#clock.nowMs(), slot.busy === 0 ? 0 : slot.busyUntilMs);
    this.#narrow(queue[0]!, slot, nowMs);
    const decision = this.#decide(slot, queue, nowMs);
    switch (decision.kind) {
      case 'wait':
        slot.lastEndMs = undefined;
        this.#askAgain(slot, decision.untilMs);
        return false;
      case 'shed': {
        const ticket = queue[decision.index]!;
        if (ticket.bound?.lane(slot.index) !== undefined && decision.reason === 'unavailable')
          return this.#run(slot, ticket.bound, [ticket]); // Its version is being retired, but was promised.
        this.#takeOut(ticket);
        this.#shed(ticket, decision.reason);
        return true;
      }
      case 'run': {
        const ticket = queue[decision.index]!;
        const live = versionOf(ticket.request.model, decision.version);
        if (live === undefined) return false;
        const rest =
          decision.batch === undefined || decision.batch === 1 ? [] : queue.slice(decision.index + 1);
        return this.#run(slot, live, merge(ticket, rest, live, decision.batch ?? 1));
      }
      default:
        return decision satisfies never;
    }
  }

  /** What may start in a slot now: its own queue, else a part of another's, else what fills idle time. */
  #candidates(slot: Slot): readonly Ticket[] {
    if (slot.queue.length > 0) {
      const own = slot.isDegraded
        ? slot.queue.items.filter((ticket) => canRun(ticket, slot))
        : slot.queue.items;
      if (own.length > 0) return own;
    }
    if (slot.busy > 0) return [];
    let busiest: Slot | undefined;
    for (const other of this.#slots)
      if (other !== slot && other.queue.length > 0 && other.queue.workMs >= (busiest?.queue.workMs ?? 0))
        busiest = other;
    if (busiest !== undefined) {
      const theirs = busiest.queue.items.filter((ticket) => canRun(ticket, slot));
      if (theirs.length > 0) return theirs;
    }
    return this.#idleWork.length === 0 ? [] : this.#idleWork.filter((ticket) => canRun(ticket, slot));
  }

  /** Binds a request that prefers accuracy or speed to the version that fulfils this best just now. */
  #narrow(ticket: Ticket, slot: Slot, nowMs: number): void {
    const { prefer } = ticket;
    if (prefer === undefined || ticket.request.version !== undefined) return;
    let chosen: ResidentVersion | undefined;
    for (const candidate of slot.tasks[ticket.task]!.versions) {
      if (ticket.minAccuracy !== undefined && candidate.accuracy < ticket.minAccuracy) continue;
      const isInTime = nowMs + candidate.serviceMs * ticket.rows <= ticket.deadlineMs;
      // Versions come the most accurate first.
      if (prefer === 'accuracy' && isInTime) {
        chosen = candidate;
        break;
      }
      if (chosen === undefined || candidate.serviceMs < chosen.serviceMs) chosen = candidate;
    }
    ticket.version = chosen?.version;
  }

  #decide(slot: Slot, queue: readonly Ticket[], nowMs: number): DispatchDecision {
    const state = { nowMs, slot: slot.index, queue, tasks: slot.tasks, guardMs: 0, plan: this.#plan };
    if (this.#dispatch === defaultDispatch) return defaultDispatch.pick(state);
    try {
      const decision = this.#dispatch.pick(state);
      const problem = problemOf(decision, queue, slot);
      if (problem === undefined) return decision;
      this.#onDispatchFailure(`${this.#dispatch.name} ${problem}`);
    } catch (thrown) {
      this.#onDispatchFailure(`${this.#dispatch.name} failed: ${messageOf(thrown)}`);
    }
    return defaultDispatch.pick({ ...state, plan: this.#sharesPlan() });
  }

  /** Lets the slot rest where the process has used more CPU time than it may. */
  #mustRest(slot: Slot): boolean {
    const restMs = this.#governor?.restMs() ?? 0;
    if (restMs === 0) return false;
    slot.isResting = true;
    this.#askAgain(slot, this.#clock.nowMs() + restMs);
    return true;
  }

  #askAgain(slot: Slot, untilMs: number | undefined): void {
    clearTimeout(slot.timer);
    if (untilMs === undefined) return;
    const again = () => {
      slot.isResting = false;
      this.#fill(slot);
    };
    slot.timer = setTimeout(again, Math.max(1, untilMs - this.#clock.nowMs()));
  }

  /** @returns false if the slot has to be free first, since it would compute on two threads at a time */
  #run(slot: Slot, live: LiveVersion, tickets: readonly Ticket[]): boolean {
    const lane = live.lane(slot.index);
    if (lane === undefined) {
      this.#refreshSlot(slot);
      return slot.isDegraded; // Once it is known to be missing, it is not chosen again.
    }
    if (slot.busy > 0 && slot.lane !== lane) return false;
    let rows = 0;
    for (const ticket of tickets) {
      this.#takeOut(ticket);
      ticket.attempts++;
      rows += ticket.rows;
      live.hold();
      if (ticket.bound === undefined && !ticket.request.isUncounted) live.countDispatched();
      this.#running.add(ticket);
    }
    slot.busy++;
    slot.lane = lane;
    slot.busyUntilMs = Math.max(slot.busyUntilMs, this.#clock.nowMs()) + live.serviceMs(rows);
    const inputs = tickets.length === 1 ? [tickets[0]!.inputs] : tickets.map((ticket) => ticket.inputs);
    lane.run(inputs).then(
      (result) => {
        this.#finish(tickets, slot, live);
        this.#learnOverhead(slot, tickets.length, result.cpuMs ?? result.computeMs, live.threads);
        // In a thread of its own the next job first: its computing overlaps with answering.
        if (!lane.isInline) this.#fill(slot);
        this.#answer(tickets, rows, live, result);
        if (lane.isInline) this.#goOn(slot);
        if (this.isIdle) this.#whenIdle?.();
      },
      (thrown: unknown) => {
        this.#finish(tickets, slot, live);
        for (const ticket of tickets) {
          ticket.isAlone ||= tickets.length > 1;
          this.#retryOrFail(ticket, slot, live, thrown, tickets.length > 1);
        }
        this.refresh();
      },
    );
    return true;
  }

  /** From the end of one job to the end of the next, where nothing was waited for: the inference and the overhead, as of a job of one. */
  #learnOverhead(slot: Slot, requests: number, computeMs: number, threads: number): void {
    if (this.#governor !== undefined) {
      this.#governor.end({ computeMs, threads, requests });
      this.#overheadMs = this.#governor.overheadMs;
      return;
    }
    const nowMs = this.#clock.nowMs();
    if (slot.lastEndMs !== undefined) {
      const spent = OVERHEAD_SHARED_RATIO + (1 - OVERHEAD_SHARED_RATIO) * requests;
      const overheadMs = Math.max(0, nowMs - slot.lastEndMs - computeMs) / spent;
      this.#overheadMs += OVERHEAD_SMOOTHING * (Math.min(overheadMs, MAX_OVERHEAD_MS) - this.#overheadMs);
    }
    slot.lastEndMs = slot.busy > 0 || slot.queue.length > 0 ? nowMs : undefined;
  }

  #learnPressure(live: LiveVersion, rows: number, computeMs: number): void {
    if (live.slowdown === undefined) return;
    if (!this.#pressure.learn(live.computeMs(rows), computeMs)) return;
    for (const model of this.#models) for (const other of model.liveVersions) this.#setCosts(other);
  }

  /** Tells a version what requests cost beside computing: overhead, and the rests that a quota asks for. */
  #setCosts(live: LiveVersion): void {
    const overheadPace = this.#governor?.overheadPace ?? 1;
    const pace = this.#pressure.margin * (this.#governor?.paceOf(live.threads) ?? 1);
    live.setOverhead(overheadPace * this.#overheadMs, pace);
  }

  /** Work that a slot has begun, from now on, or the rest that it has to take. */
  #begunMs({ busyUntilMs }: Slot, nowMs: number): number {
    const restUntilMs = this.#governor?.restUntilMs ?? 0;
    return Math.max(0, busyUntilMs - nowMs, restUntilMs - nowMs);
  }

  /** Work of a slot, begun and waiting, from now on. */
  #committedMs(slot: Slot, nowMs: number): number {
    return this.#begunMs(slot, nowMs) + slot.queue.workMs;
  }

  #finish(tickets: readonly Ticket[], slot: Slot, live: LiveVersion): void {
    slot.busy--;
    if (slot.busy === 0) slot.busyUntilMs = 0;
    for (const ticket of tickets) {
      this.#running.delete(ticket);
      live.release();
    }
  }

  #answer(tickets: readonly Ticket[], rows: number, live: LiveVersion, result: RunResult): void {
    const nowMs = this.#clock.nowMs();
    const epochMs = this.#clock.epochMs();
    const { computeMs, cpuMs = computeMs } = result;
    this.#learnPressure(live, rows, cpuMs);
    live.observe(rows, cpuMs);
    this.#setCosts(live);
    this.#slowdown += OVERHEAD_SMOOTHING * ((live.slowdown ?? this.#slowdown) - this.#slowdown);
    const isCounted = !tickets.every(({ request }) => request.isUncounted);
    if (isCounted) countExecution(live.statistics, rows, computeMs);
    let firstRow = 0;
    for (const ticket of tickets) {
      const totalMs = nowMs - ticket.arrivalMs;
      const queueMs = Math.max(0, totalMs - computeMs);
      const objectiveMs = this.#latencyLimitOf(ticket.request);
      if (!ticket.request.isUncounted) {
        countSuccess(live.statistics, {
          rows: ticket.rows,
          totalMs,
          queueMs,
          computeMs,
          epochMs,
          objectiveMs,
        });
        const isLate = objectiveMs !== undefined && totalMs > objectiveMs;
        const hasDeadline = ticket.priority === 'realtime';
        ticket.request.model.recent.add(live.version, hasDeadline ? totalMs : undefined, isLate, nowMs);
      }
      const outputs: NamedTensor[] = [];
      live.outputs.forEach(({ name }, i) => {
        if (ticket.request.outputs?.includes(name) === false) return;
        const tensor = result.outputs[i]!;
        const own = tickets.length === 1 ? tensor : rowsFrom(tensor, firstRow, ticket.rows, rows);
        outputs.push({ ...own, name });
      });
      firstRow += ticket.rows;
      this.#settle(ticket);
      ticket.resolve({ version: live.version, outputs, accuracy: live.accuracy, queueMs });
    }
  }

  /** @param wasJoint of several requests that fail together, one may be the cause: each gets another try */
  #retryOrFail(ticket: Ticket, slot: Slot, live: LiveVersion, thrown: unknown, wasJoint: boolean): void {
    const mayRetry = wasJoint || thrown instanceof WorkerLostError;
    if (mayRetry && ticket.attempts < MAX_ATTEMPTS && !ticket.isCancelled) {
      this.#waiting++;
      if (ticket.priority === 'batch') this.#idleWork.unshift(ticket);
      else slot.queue.restore(ticket);
      this.#expireAt(this.#clock.nowMs() + EXPIRY_SWEEP_MS);
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
    if (!this.#takeOut(ticket)) return; // It runs or is done; a running inference cannot be stopped.
    this.#fail(ticket, new BonsaiError('cancelled', 'The client has gone.'), 'CANCELED');
  }

  /** Takes a request out of wherever it waits. @returns whether it did */
  #takeOut(ticket: Ticket): boolean {
    let isFound = false;
    if (ticket.priority === 'batch') {
      const index = this.#idleWork.indexOf(ticket);
      if (index >= 0) this.#idleWork.splice(index, 1);
      isFound = index >= 0;
    } else isFound = this.#slots.some(({ queue }) => queue.remove(ticket));
    if (isFound) this.#waiting--;
    return isFound;
  }

  #expire(): void {
    if (this.#waiting === 0) return;
    const nowMs = this.#clock.nowMs();
    for (const { queue } of this.#slots) {
      if (queue.length === 0) continue;
      for (const ticket of queue.takeExpired(nowMs)) {
        this.#waiting--;
        this.#shed(ticket, 'deadline');
      }
    }
    while (
      this.#idleWork.length > 0 &&
      nowMs - this.#idleWork[0]!.arrivalMs > this.#limits.maxBatchClassWaitMs
    ) {
      const ticket = this.#idleWork.shift()!;
      this.#waiting--;
      this.#shed(ticket, 'deadline');
    }
  }

  /** Sees to it that requests are looked through at this time. A timer per request would cost more than all else here. */
  #expireAt(dueMs: number): void {
    if (dueMs >= this.#sweepMs) return;
    clearTimeout(this.#sweep);
    this.#sweepMs = dueMs;
    const delayMs = Math.max(EXPIRY_SWEEP_MS, Math.ceil(dueMs - this.#clock.nowMs()));
    this.#sweep = setTimeout(() => {
      this.#sweepMs = Number.POSITIVE_INFINITY;
      this.#expire();
      let nextMs = Number.POSITIVE_INFINITY;
      for (const { queue } of this.#slots)
        for (const ticket of queue.items) nextMs = Math.min(nextMs, ticket.deadlineMs - ticket.serviceMs);
      if (this.#idleWork[0] !== undefined)
        nextMs = Math.min(nextMs, this.#idleWorkUntilMs(this.#idleWork[0]));
      if (Number.isFinite(nextMs)) this.#expireAt(nextMs);
    }, delayMs);
    this.#sweep.unref();
  }

  #idleWorkUntilMs({ arrivalMs }: Ticket): number {
    return arrivalMs + this.#limits.maxBatchClassWaitMs;
  }

  /** Ends a request that waited in vain. */
  #shed(ticket: Ticket, reason: ShedReason): void {
    const { model } = ticket.request;
    const nowMs = this.#clock.nowMs();
    switch (reason) {
      case 'deadline':
      case 'overload': {
        model.countRefusal(reason === 'deadline' ? 'expired' : 'overload');
        const waitMs = Math.min(...this.#slots.map((slot) => this.#committedMs(slot, nowMs)));
        this.#fail(ticket, refused(`Request timeout expired${tooSlow(ticket)}`, waitMs), 'REJECTED');
        return;
      }
      case 'accuracy':
      case 'unavailable':
        this.#fail(ticket, unavailable(ticket.request), 'OTHER');
        return;
      default:
        reason satisfies never;
    }
  }

  #fail(ticket: Ticket, error: BonsaiError, reason: FailureReason): void {
    const live = ticket.bound ?? ticket.request.model.current;
    if (live !== undefined) countFailure(live.statistics, reason, this.#clock.nowMs() - ticket.arrivalMs);
    this.#governor?.noteRefusal();
    this.#settle(ticket);
    ticket.reject(error);
    if (this.isIdle) this.#whenIdle?.();
  }

  #settle(ticket: Ticket): void {
    ticket.bound?.release();
    ticket.release();
  }

  /** Whether nothing waits and nothing runs. */
  get isIdle(): boolean {
    return this.#waiting === 0 && this.#running.size === 0;
  }

  #numberOf(model: ServedModel): number {
    let number = this.#numbers.get(model);
    if (number === undefined) {
      number = this.#models.push(model) - 1;
      this.#numbers.set(model, number);
      for (const live of model.liveVersions) this.#setCosts(live);
      for (const slot of this.#slots) this.#refreshSlot(slot);
      if (this.#dispatch === defaultDispatch) this.#plan = this.#sharesPlan();
    }
    return number;
  }

  #refreshSlot(slot: Slot): void {
    let isDegraded = false;
    slot.tasks = this.#models.map((model): DispatchTask => {
      const { liveVersions } = model;
      const here = liveVersions.filter((live) => live.lane(slot.index) !== undefined);
      isDegraded ||= here.length < liveVersions.length;
      return {
        task: model.name,
        versions: here
          .map((live) => live.resident)
          .sort((a, b) => b.accuracy - a.accuracy || b.version - a.version),
        servingVersion: model.current?.version,
        sloMs: this.#sloOf(model),
        weight: this.#objectives.get(model.name)?.weight ?? 1,
      };
    });
    slot.isDegraded = isDegraded;
  }

  /** Within what an answer is to be there; undefined: nobody said. */
  #latencyLimitOf({ maxLatencyMs, model }: InferHead): number | undefined {
    return maxLatencyMs ?? this.objectiveMsOf(model);
  }

  /** The latency objective of a model's requests that name none; undefined: they have none. */
  objectiveMsOf(model: ServedModel): number | undefined {
    return this.#objectives.get(model.name)?.sloMs ?? this.#limits.maxLatencyMs;
  }

  #sloOf(model: ServedModel): number {
    return this.objectiveMsOf(model) ?? model.stored?.manifest?.sloMs ?? this.#limits.maxQueueWaitMs;
  }

  #sharesPlan(): SharesPlan {
    const shares = new Map<string, ReadonlyMap<number, number>>();
    for (const model of this.#models) if (model.shares !== undefined) shares.set(model.name, model.shares);
    return { shares };
  }
}

/** What is expected to take longer is no trial: it would hold up all that comes meanwhile. */
export const MAX_TRIAL_MS = 1_000;

/** Time given to a request that comes to an idle server and is expected to be late, beside twice its service time. */
const IDLE_GRACE_MS = 1;

const nothing = () => undefined;

/** Until when a slot computes without the thread that has the sockets. */
/** It computes in a thread of its own, and nothing that has ended there waits to be looked at. */
function leavesSockets({ busy, lane }: Slot): boolean {
  return busy > 0 && lane?.isInline === false && !lane.hasAnswer;
}

function versionOf(model: ServedModel, version: number): LiveVersion | undefined {
  return model.liveVersions.find((live) => live.version === version);
}

/**
 * Whether the slot has what answers the request. One whose task has no version at all starts everywhere: it can be
 * told so.
 */
function canRun({ bound, task, request }: Ticket, slot: Slot): boolean {
  if (bound !== undefined) return bound.lane(slot.index) !== undefined;
  return slot.tasks[task]!.versions.length > 0 || !request.model.isReady;
}

/** The time by the fastest version that the client accepts, alone and as one of many that wait. */
function fastestOf(
  request: InferHead,
  model: ServedModel,
  asked: LiveVersion,
  minAccuracy: number | undefined,
  { rows, waiting }: { readonly rows: number; readonly waiting: number },
): { readonly serviceMs: number; readonly workMs: number } {
  const isAcceptable = ({ resident }: LiveVersion) =>
    minAccuracy === undefined || resident.accuracy >= minAccuracy;
  const acceptable = request.version === undefined ? model.liveVersions.filter(isAcceptable) : [];
  let serviceMs = Number.POSITIVE_INFINITY;
  let workMs = Number.POSITIVE_INFINITY;
  for (const live of acceptable.length > 0 ? acceptable : [asked]) {
    serviceMs = Math.min(serviceMs, live.serviceMs(rows));
    workMs = Math.min(workMs, rows === 1 ? live.workMs(waiting + 1) : live.serviceMs(rows));
  }
  return { serviceMs, workMs };
}

/** Requests of a task that wait for a slot, counted as far as a joint job takes them. */
function waitingOf({ queue }: Slot, task: number): number {
  let count = 0;
  for (const ticket of queue.items) {
    if (ticket.task === task) count++;
    if (count === MAX_MERGED_ROWS) break;
  }
  return count;
}

/** An accuracy as the dispatch has it: over that of the task's best version, less a tolerance for rounding. */
function relative(minAccuracy: number | undefined, model: ServedModel): number | undefined {
  if (minAccuracy === undefined) return undefined;
  const best = Math.max(
    ...(model.stored?.versions ?? []).map(({ variant }) => variant?.accuracy.test ?? 0),
    0,
  );
  return best > 0 ? Math.max(0, minAccuracy / best - 1e-9) : 0;
}

/** The request and those behind it that can be computed as one job with it. */
function merge(first: Ticket, rest: readonly Ticket[], live: LiveVersion, batch: number): Ticket[] {
  const merged = [first];
  let { rows } = first;
  if (first.isAlone) return merged;
  for (const ticket of rest) {
    if (merged.length === batch) break;
    if (ticket.task !== first.task || ticket.priority !== first.priority || ticket.isAlone) continue;
    if (ticket.prefer !== undefined) continue; // It chooses its version when its own turn comes.
    if (ticket.version !== undefined && ticket.version !== live.version) continue;
    if (ticket.minAccuracy !== undefined && ticket.minAccuracy > live.resident.accuracy) continue;
    if (rows + ticket.rows > live.maxJointRows) continue;
    if (!ticket.inputs.every((tensor, i) => sameButFirst(tensor.shape, first.inputs[i]!.shape))) continue;
    merged.push(ticket);
    rows += ticket.rows;
  }
  return merged;
}

function sameButFirst(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => axis === 0 || size === b[axis]);
}

/** The rows of one request out of a joint answer. */
function rowsFrom(tensor: Tensor, first: number, count: number, total: number): Tensor {
  const size = tensor.bytes.byteLength / total;
  return {
    dtype: tensor.dtype,
    shape: [count, ...tensor.shape.slice(1)],
    bytes: tensor.bytes.subarray(first * size, (first + count) * size),
  };
}

function bytesOf(inputs: readonly Tensor[]): number {
  let sum = 0;
  for (const { bytes, strings } of inputs) {
    sum += bytes.byteLength;
    if (strings !== undefined) for (const item of strings) sum += item.byteLength;
  }
  return sum;
}

/** What is wrong with a policy's choice; undefined: nothing. */
function problemOf(decision: DispatchDecision, queue: readonly Ticket[], slot: Slot): string | undefined {
  const problem = problemOfPick(decision);
  if (problem !== undefined) return problem;
  if (decision.kind === 'wait') return undefined;
  const ticket = queue[decision.index];
  if (ticket === undefined) return `chose request ${decision.index} of a queue of ${queue.length}`;
  if (decision.kind === 'shed') return undefined;
  const { task, versions } = slot.tasks[ticket.task]!;
  if (versions.some(({ version }) => version === decision.version)) return undefined;
  return `chose version ${decision.version} of ${task}, which is not in memory here`;
}

function shuttingDown(): BonsaiError {
  return new BonsaiError('shutting_down', 'The server is stopping; send the request to another one.');
}

function queueFull(waitMs: number): RefusedError {
  return new RefusedError('queue_full', 'Exceeds maximum queue size', waitMs);
}

/** Counts a request that was not taken in, by why. */
function countTurnedAway(model: ServedModel, thrown: unknown): void {
  const isRefusal =
    thrown instanceof RefusedError || (thrown instanceof BonsaiError && thrown.code === 'shutting_down');
  if (!isRefusal) {
    model.arrivals.invalid++;
    return;
  }
  model.arrivals.refused++;
  model.countRefusal(thrown.code);
}

function refused(message: string, waitMs: number): RefusedError {
  return new RefusedError('deadline_exceeded', message, waitMs);
}

/** What would be possible, where not even the fastest version can do what the client asks for; else nothing. */
function tooSlow({ request: { maxLatencyMs }, serviceMs }: Ticket): string {
  if (maxLatencyMs === undefined || serviceMs <= maxLatencyMs) return '';
  return `: max_latency_ms is ${maxLatencyMs}, and the fastest version in memory that the request accepts takes some ${serviceMs.toPrecision(2)} ms`;
}

function unavailable({ model }: InferRequest): NotReadyError {
  const versions = model.liveVersions.map(({ version }) => version).join(', ');
  return new NotReadyError(
    versions === ''
      ? `'${model.name}' has no version ready`
      : `'${model.name}' has no version ready that the request accepts; ready: ${versions}`,
  );
}
