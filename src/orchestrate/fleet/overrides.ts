import type { TaskOverride } from '../watch.ts';

/** What people have set by hand for a fleet, against its file and what the planner would do. */
export interface FleetOverrides {
  /** By task: on all servers. */
  readonly tasks: Readonly<Record<string, TaskOverride>>;
  /** Servers that are to be empty: no requests, and their tasks leave as soon as others serve them. */
  readonly drained: readonly string[];
}

export const NO_OVERRIDES: FleetOverrides = { tasks: {}, drained: [] };

/** With a server drained, or taken back. */
export function withDrained(overrides: FleetOverrides, server: string, isDrained: boolean): FleetOverrides {
  const others = overrides.drained.filter((name) => name !== server);
  return { ...overrides, drained: isDrained ? [...others, server].sort() : others };
}

/** With one field of a task's override replaced; undefined takes it away. */
export function withTaskOverride(
  overrides: FleetOverrides,
  task: string,
  change: TaskOverride,
): FleetOverrides {
  const { [task]: before, ...others } = overrides.tasks;
  const { version, sloMs } = { ...before, ...change };
  const isNone = version === undefined && sloMs === undefined;
  return { ...overrides, tasks: isNone ? others : { ...others, [task]: { version, sloMs } } };
}

/** What has changed from one to the other, a sentence each; empty: nothing. */
export function differencesOf(before: FleetOverrides, after: FleetOverrides): string[] {
  const sentences: string[] = [];
  for (const server of after.drained)
    if (!before.drained.includes(server))
      sentences.push(`${server} is drained: it gets no requests, and its tasks move to other servers.`);
  for (const server of before.drained)
    if (!after.drained.includes(server)) sentences.push(`${server} is taken back.`);
  for (const task of new Set([...Object.keys(before.tasks), ...Object.keys(after.tasks)])) {
    const [old, now] = [before.tasks[task], after.tasks[task]];
    if (old?.version !== now?.version)
      sentences.push(
        now?.version === undefined
          ? `${task} is no longer pinned.`
          : `${task} is pinned to version ${now.version}.`,
      );
    if (old?.sloMs !== now?.sloMs)
      sentences.push(
        now?.sloMs === undefined
          ? `The objective of ${task} is as configured.`
          : `The objective of ${task} is ${now.sloMs} ms.`,
      );
  }
  return sentences;
}
