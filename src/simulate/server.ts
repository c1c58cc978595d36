import { BonsaiError } from '../base/errors.ts';
import { admit, positionIn } from '../policy/admission.ts';
import { checkedDecision, problemOfPick } from '../policy/checked-decision.ts';
import {
  accepts,
  batchServiceMs,
  type Dispatch,
  type DispatchState,
  type DispatchTask,
  type ResidentVersion,
} from '../policy/dispatch.ts';
import type {
  Decision,
  Policy,
  PolicyState,
  ResidencyAction,
  ServiceSample,
  TaskState,
} from '../policy/policy.ts';
import { leastCommitted } from '../policy/routing.ts';
import { acceptableOf, frontierOf } from '../repository/frontier.ts';
import type { Variant } from '../repository/types.ts';
import { type Job, Processor } from './processor.ts';
import { OUTCOME, type SimulationRun } from './run.ts';
import { type Scenario, versionFigures } from './scenario.ts';
import type { SimulatedRequest } from './simulated-request.ts';

/** As much history as the live loop keeps, in ticks. */
const HISTORY_TICKS = 600;

interface Options {
  readonly index: number;
  readonly scenario: Scenario;
  readonly policy: Policy;
  readonly dispatch: Dispatch;
  readonly run: SimulationRun;
}

/** One version of a task on the server; the dispatch sees it while it is resident. */
interface Version extends ResidentVersion {
  readonly index: number;
  readonly loadMs: number;
  dispatched: number;
  lastUsedMs: number;
  isResident: boolean;
  isLoading: boolean;
  /** To be let go once no version of the task loads. */
  isUnwanted: boolean;
  /** Since the last tick. */
  readonly served: { count: number; tookMs: number; expectedMs: number; deviation: number; squared: number };
}

/** One task on the server. */
interface Task {
  readonly versions: readonly Version[];
  readonly byNumber: ReadonlyMap<number, Version>;
  readonly frontier: readonly Variant[];
  readonly view: DispatchTask & { versions: Version[]; servingVersion?: number };
  switchingTo?: Version;
  demand: { atMs: number; demandRps: number }[];
  /** Since the last tick. */
  arrivals: number;
  violations: number;
}

/** A queue and the place where its requests are computed, one job at a time. */
interface Lane {
  readonly queue: SimulatedRequest[];
  queuedMs: number;
  running?: {
    readonly requests: readonly SimulatedRequest[];
    readonly job: Job;
    readonly expectedEndMs: number;
  };
  /** When a dispatch that waits wants to be asked again. */
  wakeMs: number;
}

/** A server in virtual time: queues, resident versions, loads, and its own policy state. */
export class SimulatedServer {
  readonly #options: Options;
  readonly #processor: Processor;
  readonly #lanes: readonly Lane[];
  readonly #tasks: readonly Task[];
  readonly #views: readonly DispatchTask[];
  readonly #limit: number;
  readonly #waitingLoads: { readonly task: Task; readonly version: Version }[] = [];
  #activeLoads = 0;
  #cpu: { atMs: number; utilization: number }[] = [];
  #usedMs = 0;
  #lastChangeMs: number | undefined;
  #memory: unknown;
  #plan: unknown;
  isUp = true;

  constructor(options: Options) {
    const { scenario, policy } = options;
    this.#options = options;
    this.#processor = new Processor(scenario.cpus);
    this.#limit = scenario.residency === 'all' ? Number.POSITIVE_INFINITY : scenario.residency;
    const lanes = scenario.discipline === 'ps' ? scenario.tasks.length : scenario.cpus;
    this.#lanes = Array.from({ length: lanes }, () => ({
      queue: [],
      queuedMs: 0,
      wakeMs: Number.POSITIVE_INFINITY,
    }));
    this.#tasks = scenario.tasks.map((task) => {
      const versions = versionFigures(task, scenario).map(
        ({ version, accuracy, serviceMs, loadMs }, index): Version => ({
          index,
          version,
          accuracy,
          serviceMs,
          loadMs: loadMs + scenario.warmUps * serviceMs * scenario.profileFactor,
          batchSharedRatio: task.batchSharedRatio,
          maxBatch: task.maxBatch,
          dispatched: 0,
          lastUsedMs: 0,
          isResident: false,
          isLoading: false,
          isUnwanted: false,
          served: { count: 0, tookMs: 0, expectedMs: 0, deviation: 0, squared: 0 },
        }),
      );
      return {
        versions,
        byNumber: new Map(versions.map((version) => [version.version, version])),
        frontier: acceptableOf(
          frontierOf(task.variants, policy.metric ?? 'inverseThroughput', scenario.fingerprint),
          task.minAccuracy,
        ),
        view: { task: task.task, versions: [], sloMs: task.sloMs, weight: task.weight },
        demand: [],
        arrivals: 0,
        violations: 0,
      };
    });
    this.#views = this.#tasks.map(({ view }) => view);
  }

  /** When something happens on the server by itself; Infinity: nothing does. */
  get nextMs(): number {
    let next = this.#processor.nextMs;
    for (const lane of this.#lanes) if (lane.wakeMs < next) next = lane.wakeMs;
    return next;
  }

  /** No request waits or is computed. */
  get isIdle(): boolean {
    return this.#lanes.every((lane) => lane.running === undefined && lane.queue.length === 0);
  }

  residentCount(task: number): number {
    return this.#tasks[task]!.view.versions.length;
  }

  /** Work ahead of a new request of the task, in ms: what is computed now and what waits, at the fastest versions. */
  committedMs(task: number, nowMs: number): number {
    return workOf(this.#laneOf(task, nowMs), nowMs);
  }

  /** The first versions: all, or so many that are spread evenly over the family, the one that serves among them. */
  start(nowMs: number): void {
    const isLargest = this.#options.scenario.initial === 'largest';
    for (const task of this.#tasks) {
      const last = task.versions.length - 1;
      if (this.#limit > last) for (const version of task.versions) version.isResident = true;
      else {
        for (let i = 0; i < this.#limit; i++) {
          const place = Math.round(last * (1 - i / this.#limit));
          task.versions[isLargest ? last - place : place]!.isResident = true;
        }
      }
      this.#show(task);
      this.#serve(task, isLargest ? task.versions[0]! : smallestOf(task), nowMs);
    }
  }

  accept(request: SimulatedRequest, nowMs: number): void {
    const lane = this.#laneOf(request.task, nowMs);
    const task = this.#tasks[request.task]!;
    this.#options.run.server[request.id] = this.#options.index;
    // What has no deadline fills idle time: it is neither demand nor work that others wait for.
    if (request.priority === 'realtime') {
      task.arrivals++;
      request.serviceMs = fastestMs(task);
      if (!this.#admits(lane, request, nowMs)) return;
      lane.queuedMs += request.serviceMs;
    }
    this.#enqueue(lane, request);
    this.#dispatch(lane, nowMs);
  }

  /** Ends the job that is done now, or asks a dispatch that waited until now. */
  complete(nowMs: number): void {
    if (this.#processor.nextMs <= nowMs) {
      this.#processor.complete(nowMs);
      return;
    }
    for (const lane of this.#lanes) if (lane.wakeMs <= nowMs) this.#dispatch(lane, nowMs);
  }

  /** Samples the tick that ends now, and does what the policy decides. */
  tick(nowMs: number, periodMs: number): void {
    const { scenario, policy, run, index } = this.#options;
    this.#processor.advance(nowMs);
    const utilization = (this.#processor.usedMs - this.#usedMs) / (periodMs * scenario.cpus);
    this.#usedMs = this.#processor.usedMs;
    run.cpu.push({ server: index, atMs: nowMs, utilization });
    if (!this.isUp) return;
    this.#cpu = pushed(this.#cpu, { atMs: nowMs, utilization });
    for (const task of this.#tasks) {
      task.demand = pushed(task.demand, { atMs: nowMs, demandRps: (1000 * task.arrivals) / periodMs });
    }
    const decision = checkedDecision(
      policy.name,
      this.#asked('decide', () => policy.decide(this.#state(nowMs))),
    );
    for (const task of this.#tasks) {
      task.arrivals = 0;
      task.violations = 0;
      for (const { served } of task.versions) Object.assign(served, NOTHING_SERVED);
    }
    this.#act(decision, nowMs);
  }

  /** @returns the requests that waited, which go elsewhere */
  fail(nowMs: number): SimulatedRequest[] {
    const { run } = this.#options;
    this.isUp = false;
    for (const job of [...this.#processor.jobs]) this.#processor.remove(job, nowMs);
    this.#waitingLoads.length = 0;
    this.#activeLoads = 0;
    const waiting: SimulatedRequest[] = [];
    for (const lane of this.#lanes) {
      for (const { id } of lane.running?.requests ?? []) run.outcome[id] = OUTCOME.error;
      waiting.push(...lane.queue.splice(0));
      lane.running = undefined;
      lane.queuedMs = 0;
      lane.wakeMs = Number.POSITIVE_INFINITY;
    }
    for (const task of this.#tasks) {
      for (const version of task.versions) {
        Object.assign(version, { isResident: false, isLoading: false, isUnwanted: false });
      }
      task.switchingTo = undefined;
      task.demand = [];
      task.view.servingVersion = undefined;
      this.#show(task);
    }
    this.#cpu = [];
    this.#lastChangeMs = undefined;
    this.#memory = undefined;
    this.#plan = undefined;
    return waiting;
  }

  /** Comes back without any version in memory; the smallest of each task loads first. */
  recover(nowMs: number): void {
    this.isUp = true;
    for (const task of this.#tasks) this.#switchTo(task, smallestOf(task), nowMs);
  }

  #laneOf(task: number, nowMs: number): Lane {
    if (this.#options.scenario.discipline === 'ps') return this.#lanes[task]!;
    if (this.#lanes.length === 1) return this.#lanes[0]!;
    const residentVersions = this.residentCount(task);
    const places = this.#lanes.map((lane) => ({ lane, committedMs: workOf(lane, nowMs), residentVersions }));
    return leastCommitted(places)!.lane;
  }

  /** Gives up requests of less weight for the new one, or refuses it, where not all can be in time. */
  #admits(lane: Lane, request: SimulatedRequest, nowMs: number): boolean {
    if (this.#options.scenario.admission === 'all') return true;
    const admission = admit(lane.queue, request, { nowMs, busyMs: workOf(lane, nowMs) - lane.queuedMs });
    if (!admission.isAdmitted) {
      this.#refuse(request, nowMs);
      return false;
    }
    for (const victim of admission.victims) this.#shed(lane, lane.queue.indexOf(victim), nowMs);
    return true;
  }

  /** In order of deadline, behind those with the same; with `ps` in order of arrival. */
  #enqueue({ queue }: Lane, request: SimulatedRequest): void {
    const isByDeadline = this.#options.scenario.discipline === 'edf';
    const at = isByDeadline ? positionIn(queue, request.deadlineMs) : queue.length;
    if (at === queue.length) queue.push(request);
    else queue.splice(at, 0, request);
  }

  #dispatch(lane: Lane, nowMs: number): void {
    const { dispatch, scenario } = this.#options;
    lane.wakeMs = Number.POSITIVE_INFINITY;
    while (lane.running === undefined && lane.queue.length > 0) {
      const state: DispatchState = {
        nowMs,
        slot: this.#lanes.indexOf(lane),
        queue: lane.queue,
        tasks: this.#views,
        guardMs: scenario.guardMs,
        plan: this.#plan,
      };
      const decision = this.#asked('pick', () => dispatch.pick(state));
      const problem = problemOfPick(decision);
      if (problem !== undefined) throw this.#wrong(problem);
      if (decision.kind === 'wait') {
        if (decision.untilMs !== undefined && decision.untilMs > nowMs) lane.wakeMs = decision.untilMs;
        return;
      }
      if (lane.queue[decision.index] === undefined) {
        throw this.#wrong(`chose request ${decision.index} of ${lane.queue.length}`);
      }
      if (decision.kind === 'shed') this.#shed(lane, decision.index, nowMs);
      else this.#run(lane, decision.index, decision.version, decision.batch ?? 1, nowMs);
    }
  }

  #shed(lane: Lane, index: number, nowMs: number): void {
    const [request] = lane.queue.splice(index, 1);
    lane.queuedMs -= request!.serviceMs;
    this.#refuse(request!, nowMs);
  }

  #refuse({ id, arrivalMs, task }: SimulatedRequest, nowMs: number): void {
    const { run } = this.#options;
    run.outcome[id] = OUTCOME.shed;
    run.latencyMs[id] = nowMs - arrivalMs;
    this.#tasks[task]!.violations++;
  }

  #run(lane: Lane, index: number, number: number, batch: number, nowMs: number): void {
    const taskIndex = lane.queue[index]!.task;
    const task = this.#tasks[taskIndex]!;
    const version = task.byNumber.get(number);
    if (version === undefined || !version.isResident) {
      throw this.#wrong(`chose version ${number} of ${task.view.task}, which is not resident`);
    }
    const requests = this.#take(lane, index, taskIndex, version, batch);
    if (requests.length !== batch) {
      throw this.#wrong(
        `wanted a batch of ${batch} for version ${number} of ${task.view.task}, ${requests.length} fit`,
      );
    }
    const expectedMs = batch === 1 ? version.serviceMs : batchServiceMs(version, batch);
    let multiplier = 0;
    for (const request of requests) multiplier += request.multiplier / batch;
    version.dispatched += batch;
    version.lastUsedMs = nowMs;
    const job: Job = {
      weight: 1,
      remainingMs: expectedMs * multiplier * this.#options.scenario.profileFactor,
      rate: 0,
      done: (endMs) => {
        lane.running = undefined;
        this.#finish(requests, task, version, { tookMs: endMs - nowMs, expectedMs, endMs });
        this.#dispatch(lane, endMs);
      },
    };
    lane.running = { requests, job, expectedEndMs: nowMs + expectedMs };
    this.#processor.add(job, nowMs);
  }

  /** Removes `batch` requests of the task from the queue, from `index` on, that accept the version. */
  #take(lane: Lane, index: number, task: number, version: Version, batch: number): SimulatedRequest[] {
    const { queue } = lane;
    const taken: SimulatedRequest[] = [];
    for (let i = index; i < queue.length && taken.length < batch; ) {
      const request = queue[i]!;
      if (request.task === task && (i === index || accepts(request, version))) {
        taken.push(request);
        lane.queuedMs -= request.serviceMs;
        if (i === 0) queue.shift();
        else queue.splice(i, 1);
      } else i++;
    }
    // Sums of many differences drift.
    if (queue.length === 0) lane.queuedMs = 0;
    return taken;
  }

  #finish(
    requests: readonly SimulatedRequest[],
    task: Task,
    { index, served }: Version,
    { tookMs, expectedMs, endMs }: { tookMs: number; expectedMs: number; endMs: number },
  ): void {
    const { run } = this.#options;
    for (const { id, arrivalMs, deadlineMs } of requests) {
      run.outcome[id] = OUTCOME.answered;
      run.latencyMs[id] = endMs - arrivalMs;
      run.versionIndex[id] = index;
      if (endMs > deadlineMs) task.violations++;
    }
    served.count += requests.length;
    served.tookMs += tookMs * requests.length;
    served.expectedMs += expectedMs * requests.length;
    served.deviation += (Math.abs(tookMs - expectedMs) / expectedMs) * requests.length;
    served.squared += (tookMs / expectedMs) ** 2 * requests.length;
  }

  #state(nowMs: number): PolicyState {
    const { scenario } = this.#options;
    return {
      nowMs,
      tasks: this.#tasks.map(
        (task, index): TaskState => ({
          task: task.view.task,
          weight: task.view.weight,
          sloMs: task.view.sloMs,
          servingVersion: task.view.servingVersion,
          loadingVersion: task.switchingTo?.version,
          demand: task.demand,
          frontier: task.frontier,
          queued: this.#queued(index),
          resident: numbersOf(task.versions.filter(({ isResident }) => isResident)),
          loading: numbersOf(task.versions.filter(({ isLoading }) => isLoading)),
          residencyLimit: Math.min(this.#limit, task.versions.length),
          service: task.versions.filter(({ served }) => served.count > 0).map(serviceSample),
          violations: task.violations,
        }),
      ),
      cpu: this.#cpu,
      lastChangeMs: this.#lastChangeMs,
      cpuBudget: scenario.cpus,
      memory: this.#memory,
    };
  }

  #queued(task: number): number {
    let queued = 0;
    for (const { queue } of this.#lanes)
      for (const request of queue) if (request.task === task && request.priority === 'realtime') queued++;
    return queued;
  }

  #act({ actions, residency, plan, memory, notice }: Decision, nowMs: number): void {
    const { run } = this.#options;
    this.#memory = memory;
    if (notice !== undefined) run.notices++;
    if (plan !== undefined) {
      this.#plan = plan;
      for (const { versions } of this.#tasks) for (const version of versions) version.dispatched = 0;
    }
    for (const action of residency ?? []) this.#reside(action, nowMs);
    for (const action of actions) {
      const { task, version } = this.#named(action.task, action.toVersion);
      // As the live loop does: a task that is being switched keeps that switch.
      if (task.switchingTo !== undefined || task.view.servingVersion === version.version) continue;
      this.#lastChangeMs = nowMs;
      this.#switchTo(task, version, nowMs);
    }
    for (const task of this.#tasks) this.#settle(task, nowMs);
    for (const lane of this.#lanes) this.#dispatch(lane, nowMs);
  }

  /** A load beyond the limit by more than the one that replaces another is not begun. */
  #reside({ kind, task: name, version: number }: ResidencyAction, nowMs: number): void {
    const { task, version } = this.#named(name, number);
    if (kind === 'unload') {
      version.isUnwanted = version.isResident;
      return;
    }
    version.isUnwanted = false;
    const held = task.versions.filter(({ isResident, isLoading }) => isResident || isLoading).length;
    if (!version.isResident && !version.isLoading && held <= this.#limit) this.#load(task, version, nowMs);
  }

  #switchTo(task: Task, version: Version, nowMs: number): void {
    version.isUnwanted = false;
    if (version.isResident) {
      this.#serve(task, version, nowMs);
      return;
    }
    task.switchingTo = version;
    if (!version.isLoading) this.#load(task, version, nowMs);
  }

  #load(task: Task, version: Version, nowMs: number): void {
    version.isLoading = true;
    this.#options.run.loads++;
    this.#waitingLoads.push({ task, version });
    this.#startLoads(nowMs);
  }

  #startLoads(nowMs: number): void {
    const { loaderWeight, parallelLoads } = this.#options.scenario;
    while (this.#activeLoads < parallelLoads && this.#waitingLoads.length > 0) {
      const { task, version } = this.#waitingLoads.shift()!;
      this.#activeLoads++;
      this.#processor.add(
        {
          weight: loaderWeight,
          remainingMs: version.loadMs,
          rate: 0,
          done: (endMs) => {
            this.#activeLoads--;
            this.#loaded(task, version, endMs);
            this.#startLoads(endMs);
          },
        },
        nowMs,
      );
    }
  }

  #loaded(task: Task, version: Version, nowMs: number): void {
    version.isLoading = false;
    version.isResident = true;
    version.lastUsedMs = nowMs;
    if (task.switchingTo === version) {
      task.switchingTo = undefined;
      this.#serve(task, version, nowMs);
    }
    this.#settle(task, nowMs);
    for (const lane of this.#lanes) this.#dispatch(lane, nowMs);
  }

  #serve(task: Task, version: Version, nowMs: number): void {
    const { run, index } = this.#options;
    task.view.servingVersion = version.version;
    version.lastUsedMs = nowMs;
    if (nowMs > 0) run.switches++;
    run.changes.push({
      atMs: nowMs,
      server: index,
      task: this.#tasks.indexOf(task),
      version: version.version,
    });
  }

  /** Lets go what is unwanted or beyond the limit (the least recently used first), but never the last version. */
  #settle(task: Task, nowMs: number): void {
    if (!task.versions.some(({ isLoading }) => isLoading)) {
      const resident = () => task.versions.filter(({ isResident }) => isResident);
      for (const version of task.versions) {
        if (version.isUnwanted && resident().length > 1) version.isResident = false;
        version.isUnwanted = false;
      }
      while (resident().length > this.#limit) {
        const [oldest] = resident()
          .filter(({ version }) => version !== task.view.servingVersion)
          .sort((a, b) => a.lastUsedMs - b.lastUsedMs);
        oldest!.isResident = false;
      }
      // As on our server: where the serving version was let go, the smallest that is left serves.
      const left = resident();
      const isServed = left.some(({ version }) => version === task.view.servingVersion);
      if (!isServed && left.length > 0) this.#serve(task, left.at(-1)!, nowMs);
    }
    this.#show(task);
  }

  #show(task: Task): void {
    task.view.versions = task.versions.filter(({ isResident }) => isResident);
  }

  #named(name: string, number: number): { task: Task; version: Version } {
    const task = this.#tasks.find(({ view }) => view.task === name);
    const version = task?.byNumber.get(number);
    if (task === undefined) throw this.#wrong(`named the task ${name}, which is not there`);
    if (version === undefined) throw this.#wrong(`named version ${number} of ${name}, which is not there`);
    return { task, version };
  }

  /** What a policy answers, which may be somebody's own: an error of its own is told with its name. */
  #asked<T>(half: 'decide' | 'pick', ask: () => T): T {
    try {
      return ask();
    } catch (cause) {
      throw new BonsaiError(
        'invalid_argument',
        `Policy ${this.#options.policy.name} failed in ${half}(state): ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}`,
        { cause },
      );
    }
  }

  #wrong(deed: string): BonsaiError {
    return new BonsaiError('invalid_argument', `Policy ${this.#options.policy.name} ${deed}.`);
  }
}

const NOTHING_SERVED = { count: 0, tookMs: 0, expectedMs: 0, deviation: 0, squared: 0 } as const;

function workOf({ running, queuedMs }: Lane, nowMs: number): number {
  return queuedMs + (running === undefined ? 0 : Math.max(0, running.expectedEndMs - nowMs));
}

function fastestMs({ view }: Task): number {
  let fastest = Number.POSITIVE_INFINITY;
  for (const { serviceMs } of view.versions) if (serviceMs < fastest) fastest = serviceMs;
  return Number.isFinite(fastest) ? fastest : 0;
}

/** The fastest version of the frontier, which is its last. */
function smallestOf(task: Task): Version {
  const smallest = task.frontier.at(-1);
  return (smallest && task.byNumber.get(smallest.version)) ?? task.versions.at(-1)!;
}

function serviceSample({ version, served }: Version): ServiceSample {
  const { count, tookMs, expectedMs, deviation, squared } = served;
  return {
    version,
    count,
    meanMs: tookMs / count,
    meanExpectedMs: expectedMs / count,
    meanDeviation: deviation / count,
    meanSquaredRatio: squared / count,
  };
}

function numbersOf(versions: readonly Version[]): number[] {
  return versions.map(({ version }) => version).sort((a, b) => a - b);
}

/** A history with one more sample; a new array, for a policy may keep the one that it saw. */
function pushed<T>(history: readonly T[], sample: T): T[] {
  const kept = history.length < HISTORY_TICKS ? history : history.slice(1);
  return [...kept, sample];
}
