import { allocationChain } from '../allocation.ts';
import type { Model } from './model.ts';
import type { PlacementTask } from './placement.ts';

/**
 * One version for each task as if all servers that are up were one: the most accurate allocation of the chain that
 * their CPUs together can carry (the aggregated multiple-choice knapsack, by Dantzig's greedy order). It says how many
 * cores each task should get; which servers give them, and what exactly fits there, is decided after.
 * @returns by task, an index into its versions; undefined for a task without versions
 */
export function pooledVersions({ state, demandRps, capacity }: Model): (number | undefined)[] {
  const total = capacity.reduce((sum, cores) => sum + cores, 0);
  const able = state.tasks.flatMap((task, k) => (task.versions.length > 0 ? [k] : []));
  const ladders = able.map((k) => ({
    task: state.tasks[k]!.task,
    weight: state.tasks[k]!.weight,
    demandRps: demandRps[k]!,
    steps: stepsOf(state.tasks[k]!),
  }));
  const chain = allocationChain(ladders);
  const chosen = chain.find(({ metric }) => metric <= total) ?? chain.at(-1)!;
  const versions = state.tasks.map((): number | undefined => undefined);
  for (const [position, k] of able.entries()) {
    const { version } = ladders[position]!.steps[chosen.positions[position]!]!;
    versions[k] = state.tasks[k]!.versions.findIndex((candidate) => candidate.version === version);
  }
  return versions;
}

/** The versions that may be chosen: all, or the one that is pinned. */
function stepsOf({ versions, pinnedVersion }: PlacementTask) {
  const pinned = versions.filter(({ version }) => version === pinnedVersion);
  return (pinned.length > 0 ? pinned : versions).map(({ version, normalisedAccuracy, cpuSeconds }) => ({
    version,
    cost: cpuSeconds,
    normalisedAccuracy,
  }));
}
