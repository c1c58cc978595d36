import type { Scenario } from './scenario.ts';
import type { Workload } from './workload.ts';

/** What became of a request; the numbers stand in `SimulationRun.outcome`. */
export const OUTCOME = {
  /** Neither answered nor refused when the simulation ended. */
  unfinished: 0,
  answered: 1,
  shed: 2,
  /** Lost with a server that failed, or no server was there. */
  error: 3,
} as const;

/** A simulated run, request by request in the order of the workload. */
export interface SimulationRun {
  readonly scenario: Scenario;
  readonly workload: Workload;
  readonly policy: string;
  /** See `OUTCOME`. */
  readonly outcome: Uint8Array;
  /** From arrival to the answer or the refusal; NaN for others. */
  readonly latencyMs: Float64Array;
  /** Index into the task's versions, most accurate first; -1 where none answered. */
  readonly versionIndex: Int16Array;
  /** -1 where none took it. */
  readonly server: Int16Array;
  /** Each server's use of its CPUs in [0, 1], tick by tick. */
  readonly cpu: { readonly server: number; readonly atMs: number; readonly utilization: number }[];
  loads: number;
  switches: number;
  readonly changes: VersionSwitch[];
  /** Decisions in which the policy told the administrators something. */
  notices: number;
}

/** A version that came to serve a task. */
export interface VersionSwitch {
  readonly atMs: number;
  readonly server: number;
  readonly task: number;
  readonly version: number;
}
