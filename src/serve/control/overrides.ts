/** What a person has set for a task, against what it was started with and what the policy would do. */
export interface TaskOverride {
  /** The one version that is to answer. */
  readonly version?: number;
  readonly sloMs?: number;
}

/** How tasks are changed by hand. Both throw BonsaiError `model_not_found`, `version_not_found` and `not_ready`. */
export interface Overrides {
  /** Who takes changes over says so in the logs; else whoever was asked for them does. */
  readonly isToldLater?: boolean;
  /** By task; those without override have no entry. */
  readonly byTask: ReadonlyMap<string, TaskOverride>;
  /** @param version undefined: no longer pinned. Resolves when it is taken over or handed to the policy. */
  pin(task: string, version: number | undefined): Promise<void>;
  /** @param sloMs undefined: as before it was set by hand */
  setSlo(task: string, sloMs: number | undefined): void | Promise<void>;
}

/** With one field of a task's override replaced; undefined takes it away. */
export function withOverride(
  byTask: ReadonlyMap<string, TaskOverride>,
  task: string,
  change: TaskOverride,
): ReadonlyMap<string, TaskOverride> {
  const { version, sloMs } = { ...byTask.get(task), ...change };
  const next = new Map(byTask);
  if (version === undefined && sloMs === undefined) next.delete(task);
  else next.set(task, { version, sloMs });
  return next;
}
