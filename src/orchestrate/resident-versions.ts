import type { ResidencyAction } from '../policy/policy.ts';

/** Which versions of a task are in memory, and which are on their way there. Ascending. */
export interface ResidentVersions {
  readonly resident: readonly number[];
  readonly loading: readonly number[];
}

/**
 * The versions that each task is to have in memory after the actions: those there now, with the loaded and without the
 * unloaded ones. A load and an unload of one task become one change, so that a server can make before it breaks. What
 * would leave a task without any version, or changes nothing, is left out.
 */
export function wantedVersions(
  actions: readonly ResidencyAction[],
  residentOf: (task: string) => readonly number[],
): ReadonlyMap<string, readonly number[]> {
  const wanted = new Map<string, readonly number[]>();
  for (const task of new Set(actions.map((action) => action.task))) {
    const before = residentOf(task);
    const versions = new Set(before);
    for (const { kind, version } of actions.filter((action) => action.task === task)) {
      if (kind === 'load') versions.add(version);
      else versions.delete(version);
    }
    const after = [...versions].sort((a, b) => a - b);
    const isSame = after.length === before.length && after.every((version) => before.includes(version));
    if (after.length > 0 && !isSame) wanted.set(task, after);
  }
  return wanted;
}
