/**
 * What the planner of a fleet knows and says. It decides which servers serve which tasks by which versions, and how
 * much of a task's demand each of them gets; see `plan.ts`. Plain data throughout.
 */
export interface PlacementState {
  readonly nowMs: number;
  readonly servers: readonly PlacementServer[];
  readonly tasks: readonly PlacementTask[];
  /** Versions that could not be loaded there lately: not planned. */
  readonly blocked?: readonly { readonly server: string; readonly task: string; readonly version: number }[];
}

export interface PlacementServer {
  readonly name: string;
  /** Cores given to inference. */
  readonly cpus: number;
  /** Factor on what a core carries, > 0: 0.5 for a machine half as fast as the profiles', or half as much used. */
  readonly weight: number;
  /** Bytes that networks may take; undefined: no limit. */
  readonly memoryBytes?: number;
  /** Fingerprint of the target whose profiles hold for this server; undefined: the most recent ones. */
  readonly target?: string;
  readonly isUp: boolean;
  /** False: what it serves is not ours to change, as with servers that have no repository extension. */
  readonly canLoad: boolean;
  /** It has a policy of its own: what is loaded there is ours to say, by which versions that is served is not. */
  readonly choosesVersions?: boolean;
  /** A person wants it empty: nothing is planned there, and its tasks leave as soon as others serve them. */
  readonly isDrained?: boolean;
  /** What serves there, by task; of a server that is down, what served last. */
  readonly present: Readonly<Record<string, PresentVersion>>;
}

export interface PresentVersion {
  readonly version: number;
  /** When it was switched to, where that is known. */
  readonly sinceMs?: number;
}

export interface PlacementTask {
  readonly task: string;
  /** Importance among tasks, > 0. */
  readonly weight: number;
  readonly demandRps: number;
  /** On so many servers, where there are that many. */
  readonly replicas: number;
  /** Where it may run, by name; undefined: anywhere. */
  readonly servers?: readonly string[];
  /** A person wants this one of its versions alone, wherever it can be loaded. */
  readonly pinnedVersion?: number;
  /** Most accurate first. */
  readonly versions: readonly PlacementVersion[];
}

export interface PlacementVersion {
  readonly version: number;
  /** Accuracy over that of the task's most accurate version, in [0, 1]. */
  readonly normalisedAccuracy: number;
  /** CPU seconds of one request. */
  readonly cpuSeconds: number;
  /** The same by the fingerprint of a server's target, where it was profiled there. */
  readonly cpuSecondsOn?: Readonly<Record<string, number>>;
  /** Bytes for each core of a server: every core has a worker with sessions of its own. */
  readonly memoryBytes: number;
}

export interface PlacementPlan {
  readonly cells: readonly PlannedCell[];
  /** Tasks that no server can take. */
  readonly unplaced: readonly { readonly task: string; readonly reason: string }[];
  /** Demand that the servers cannot carry even with the smallest versions, by task; they will refuse it. */
  readonly unservedRps: Readonly<Record<string, number>>;
  /** CPU planned over CPU of all servers that are up (weights counted), in [0, 1]. */
  readonly utilization: number;
  /** Normalised accuracy that a served request sees on average, by importance, in [0, 1]; undefined where none is served. */
  readonly accuracy?: number;
  /** A sentence with its numbers. */
  readonly reason: string;
}

/** One task on one server. */
export interface PlannedCell {
  readonly server: string;
  readonly task: string;
  /** On a server that chooses itself: what it is loaded with where it does not serve yet, else what the plan reckons with. */
  readonly version: number;
  /** Share of the task's requests that should come here, in [0, 1]; those of a task sum to 1. */
  readonly share: number;
  /** Demand that it is to carry. */
  readonly servedRps: number;
  /** Cores that this takes. */
  readonly cpu: number;
  readonly memoryBytes: number;
}

export const placementDefaults = {
  /** Plans fill so much of a server's CPU: the rest is for bursts within a period. */
  utilization: 0.7,
  /** What serves stays until it would take more than this; between the two, nothing is switched down. */
  utilizationLimit: 0.85,
  /** A plan must be better by so much normalised accuracy before a server switches for it. */
  minGain: 0.005,
  /** A server that switched does not switch up again sooner: a load costs CPU, and demand is noisy. */
  dwellMs: 15_000,
  /** A task without demand still has a price, else its version would be arbitrary. */
  minDemandRps: 0.05,
} as const;

export type PlacementOptions = { readonly [K in keyof typeof placementDefaults]: number };
