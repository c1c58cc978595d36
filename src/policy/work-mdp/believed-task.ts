import type { TaskState } from '../policy.ts';
import type { WorkVersion } from './value-function.ts';

/** A task with its figures as they are now believed. */
export interface BelievedTask {
  readonly state: TaskState;
  readonly demandRps: number;
  /** Highest short mean of demand in the last minutes. */
  readonly peakRps: number;
  /** The frontier, most accurate first; those without a profile left out. */
  readonly versions: readonly BelievedVersion[];
}

export interface BelievedVersion extends WorkVersion {
  readonly version: number;
  readonly ratio: number;
  readonly deviation: number;
  readonly loadMs?: number;
}

/** Which versions of a task a problem may use: indices into `BelievedTask.versions`. */
export type IndicesOf = (task: BelievedTask, k: number) => readonly number[];

/** The versions that can answer now; none resident: the smallest, which will be the first. */
export const residentIndices: IndicesOf = ({ state, versions }) => {
  const resident = state.resident ?? (state.servingVersion === undefined ? [] : [state.servingVersion]);
  const indices: number[] = [];
  for (let i = 0; i < versions.length; i++) if (resident.includes(versions[i]!.version)) indices.push(i);
  return indices.length > 0 || versions.length === 0 ? indices : [versions.length - 1];
};
