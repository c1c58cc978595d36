/** What the control port says, as JSON. Types only: the live page reads them, too. Times are ms since the Unix epoch. */

/** GET /api/v1/overview: what changes seldom. */
export interface Overview {
  readonly schemaVersion: 1;
  /** Of this run of the program; another one means that it was started anew and its counters began at 0. */
  readonly bootId: string;
  /** All that can be watched here, by name; `?server=NAME` asks for another than the first. */
  readonly servers: readonly string[];
  readonly server: string;
  /** The servers are run as one: GET /api/v1/fleet tells of all of them together. */
  readonly isFleet?: boolean;
  readonly policy?: string;
  /** Cores given to the server; undefined: unknown. */
  readonly cpuBudgetCores?: number;
  readonly startedAtMs: number;
  /** Whether tasks can be changed by hand: by everybody here, with the administrator's token, or not at all. */
  readonly overrides: 'open' | 'token' | 'none';
  readonly tasks: readonly TaskOverview[];
}

export interface TaskOverview {
  readonly task: string;
  /** Latency objective; undefined: none. */
  readonly sloMs?: number;
  /** Set by hand. */
  readonly isSloByHand: boolean;
  /** The version that it was pinned to by hand. */
  readonly pinnedVersion?: number;
  /** Ascending by version. */
  readonly versions: readonly VersionOverview[];
}

export interface VersionOverview {
  readonly version: number;
  /** On its test data, in [0, 1]; undefined: unknown. */
  readonly accuracy?: number;
  /** Over that of the task's best version. */
  readonly normalisedAccuracy?: number;
  /** Maximal throughput by its latest profile, requests per second. */
  readonly throughputRps?: number;
  readonly macs?: number;
  readonly isOnFrontier: boolean;
}

/** One look, once a second; what happened since the look before. GET /api/v1/history and /api/v1/events. */
export interface Frame {
  /** Ascending by one. */
  readonly seq: number;
  readonly atMs: number;
  /** Time since the look before. */
  readonly spanMs: number;
  /** CPU used over the CPU budget. */
  readonly cpuUtilization?: number;
  /** Resident memory of the server. */
  readonly memoryBytes?: number;
  readonly tasks: Readonly<Record<string, TaskFrame>>;
  readonly events?: readonly ControlEvent[];
  /** Where it has changed since the look before. */
  readonly overview?: Overview;
}

export interface TaskFrame {
  /** Arrivals that have an objective, refused ones included: the demand. */
  readonly arrivals: number;
  /** Of all classes. */
  readonly answered?: number;
  /** Answered after the objective. */
  readonly late?: number;
  /** Turned away at the door or shed from the queue. */
  readonly refused?: number;
  /** Refused, given up or late, where they are not told apart. */
  readonly violations?: number;
  /** Requests with an objective that wait. */
  readonly queued?: number;
  /** Latency objective then; undefined: none. */
  readonly sloMs?: number;
  readonly p50Ms?: number;
  readonly p99Ms?: number;
  readonly maxMs?: number;
  /** The version that answers requests which name none, where dispatch does not choose another: `answersBy` tells. */
  readonly servingVersion?: number;
  /** Versions in memory, each with the ms that dispatching expects of an inference (0: unknown). */
  readonly resident: Readonly<Record<string, number>>;
  /** Answers by version. */
  readonly answersBy?: Readonly<Record<string, number>>;
  /** Some answers, flat: ms before `atMs`, latency in ms, version. */
  readonly dots?: readonly number[];
  /** Since the program began. */
  readonly totals?: TaskTotals;
}

export interface TaskTotals {
  readonly accepted: number;
  readonly refused: number;
  readonly invalid: number;
  readonly late: number;
}

/** A line of the log: what was decided, by whom, and why. */
export interface ControlEvent {
  readonly atMs: number;
  readonly kind: 'decision' | 'override';
  readonly reason: string;
  /** What is changed, a phrase each; empty: all stays. */
  readonly changes: readonly string[];
  /** Observation and model part. */
  readonly notice?: string;
}

/** GET /api/v1/history?before=SEQ&limit=N: the frames before that one, ascending. */
export interface HistoryPage {
  readonly bootId: string;
  /** The oldest that can be had. */
  readonly firstSeq: number;
  readonly frames: readonly Frame[];
}

/** POST /api/v1/tasks/TASK/pin; null: no more. */
export interface PinRequest {
  readonly version: number | null;
}

/** POST /api/v1/tasks/TASK/slo; null: as it was started with. */
export interface SloRequest {
  readonly sloMs: number | null;
}

/**
 * GET /api/v1/fleet: many servers that are run as one, and the event `fleet` of GET /api/v1/fleet/events.
 * @typeParam State what the orchestrator writes down each period: `FleetRecord` of `orchestrate/fleet/record.ts`. Its
 *   `decisions` are all that are kept in the answer and in the first event of a stream, those that are new in the others.
 */
export interface FleetOverview<State> {
  readonly schemaVersion: 1;
  readonly bootId: string;
  readonly startedAtMs: number;
  readonly policy: string;
  readonly overrides: 'open' | 'token';
  readonly orchestrator: FleetOrchestrator;
  readonly tasks: readonly TaskOverview[];
  /** Undefined: nobody has looked at the fleet yet. */
  readonly state?: State;
}

/** Who has the right to orchestrate the fleet. */
export interface FleetOrchestrator {
  /** This program; else it waits for the one that is named, and only passes on what that one writes down. */
  readonly isActive: boolean;
  /** Undefined: nobody has it at the moment. */
  readonly pid?: number;
  readonly host?: string;
  /** Counts those who had it. */
  readonly term?: number;
  readonly sinceMs?: number;
}

/**
 * What happened in a fleet since the frame before. GET /api/v1/fleet/history and …/events. Of large fleets there is one
 * every few seconds, so that an hour of any fleet takes as much room.
 */
export interface FleetFrame {
  /** Ascending by one. */
  readonly seq: number;
  readonly atMs: number;
  readonly spanMs: number;
  readonly tasks: Readonly<Record<string, FleetTaskFrame>>;
}

export interface FleetTaskFrame {
  /** By server: the version that serves there, and requests per second. */
  readonly servers: Readonly<Record<string, readonly [version: number, demandRps: number]>>;
  /** What the plan reckons with, in requests per second. */
  readonly plannedRps: number;
  readonly unservedRps: number;
  /** Mean over the requests, of what serves; undefined: nothing does. */
  readonly servedAccuracy?: number;
  readonly plannedAccuracy?: number;
  /** Servers that are wanted for it. */
  readonly replicas: number;
  /** Servers that are up and serve it. */
  readonly hosts: number;
}

/** GET /api/v1/fleet/history?before=SEQ&limit=N */
export interface FleetHistoryPage {
  readonly bootId: string;
  readonly firstSeq: number;
  readonly frames: readonly FleetFrame[];
}

/** POST /api/v1/fleet/servers/NAME/drain */
export interface DrainRequest {
  readonly isDrained: boolean;
}
