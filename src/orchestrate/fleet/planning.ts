import { messageOf } from '../../base/errors.ts';
import type { PlacementPlan, PlacementState } from '../../policy/placement/placement.ts';
import { planPlacement } from '../../policy/placement/plan.ts';
import type { Policy } from '../../policy/policy.ts';
import { described, stateOf } from '../watch.ts';
import { isTooSlow, placementTaskOf } from './members.ts';
import {
  choosesVersions,
  cpusOf,
  decide,
  demandOf,
  type Fleet,
  fleetDefaults,
  isDrained,
  watchingOf,
} from './state.ts';

export function plan(fleet: Fleet): void {
  const nowMs = fleet.clock.nowMs();
  // How often it failed counts until it has been let alone for as long again.
  for (const [key, { untilMs }] of fleet.blocked)
    if (untilMs + fleetDefaults.longestBlockedMs <= nowMs) fleet.blocked.delete(key);
  for (const [key, atMs] of fleet.failed)
    if (nowMs - atMs > fleetDefaults.retryAfterMs) fleet.failed.delete(key);
  const state: PlacementState = {
    nowMs,
    servers: [...fleet.nodes.values()].map((node) => ({
      name: node.member.name,
      cpus: cpusOf(node),
      weight: node.member.weight,
      memoryBytes: node.member.memoryBytes,
      target: node.member.target,
      isUp: node.health === 'up',
      canLoad: node.member.canLoad,
      choosesVersions: choosesVersions(node),
      isDrained: isDrained(fleet, node.member.name),
      present: node.present,
    })),
    tasks: fleet.members.tasks.map((task, k) =>
      placementTaskOf(
        task,
        fleet.tasks[k]!,
        demandOf(fleet, task.manifest.task),
        fleet.overrides.tasks[task.manifest.task],
      ),
    ),
    blocked: blockedOf(fleet, nowMs),
  };
  const before = fleet.plan;
  const planned = planPlacement(state, fleet.options.placement);
  fleet.state = state;
  fleet.plan =
    fleet.options.policy === undefined ? planned : withPolicy(fleet, planned, fleet.options.policy);
  if (before === undefined || cellsText(fleet, before) !== cellsText(fleet, fleet.plan)) {
    const lacks = planned.unplaced.map(({ task, reason }) => ` ${task} is not placed: ${reason}.`).join('');
    const slow = fleet.tasks
      .filter((watched) => isTooSlow(watched, fleet.overrides.tasks[watched.task]))
      .map(
        ({ task }) =>
          ` No version of ${task} is quick enough for its objective: the quickest is used, and much will be late or refused.`,
      )
      .join('');
    decide(fleet, { kind: 'plan', text: `${planned.reason}${lacks}${slow}` });
  }
}

/** What servers cannot load now: what failed a short time ago, and all of a task under whose name they serve something else. */
function blockedOf(fleet: Fleet, nowMs: number): PlacementState['blocked'] {
  const versionsOf = (task: string) =>
    fleet.tasks.find((watched) => watched.task === task)?.variants.map(({ version }) => version) ?? [];
  const failed = [...fleet.blocked.values()]
    .filter(({ untilMs }) => untilMs > nowMs)
    .flatMap(({ server, task, version }) =>
      (version === undefined ? versionsOf(task) : [version]).map((each) => ({ server, task, version: each })),
    );
  const strange = [...fleet.nodes.values()].flatMap(({ member, strangers }) =>
    [...strangers.keys()].flatMap((task) =>
      versionsOf(task).map((version) => ({ server: member.name, task, version })),
    ),
  );
  return [...failed, ...strange];
}

/** What of a plan is worth to be told when it changes. */
function cellsText({ nodes }: Fleet, { cells, unplaced }: PlacementPlan): string {
  const told = cells.map(({ server, task, version }) => {
    const node = nodes.get(server);
    return node !== undefined && choosesVersions(node) ? [server, task] : [server, task, version];
  });
  return JSON.stringify([told, unplaced]);
}

/** The same places with the versions that the policy wants on each server. */
function withPolicy(fleet: Fleet, planned: PlacementPlan, policy: Policy): PlacementPlan {
  const wanted = new Map<string, Map<string, number>>();
  for (const node of fleet.nodes.values()) {
    const { watch, member, present } = node;
    const cells = planned.cells.filter(
      ({ server, task }) => server === member.name && present[task] !== undefined,
    );
    const isOurs = member.canLoad && !choosesVersions(node);
    if (node.health !== 'up' || !isOurs || watch.seen === undefined || cells.length === 0) continue;
    const versions = new Map<string, number>();
    wanted.set(member.name, versions);
    const { change } = node;
    for (const { task } of cells) {
      const isChanging = change?.task === task && change.kind !== 'unload';
      versions.set(task, isChanging ? change.version : present[task]!.version);
    }
    const tasks = fleet.tasks.filter(({ task }) => versions.has(task));
    try {
      const decision = policy.decide(stateOf(watch, { ...watchingOf(fleet), tasks }, new Set()));
      watch.memory = decision.memory;
      watch.troubles.delete('policy');
      fleet.told.hear(member.name, decision.notice);
      for (const { task, toVersion } of decision.actions) versions.set(task, toVersion);
      for (const { kind, task, version } of decision.residency ?? [])
        if (kind === 'load') versions.set(task, version);
    } catch (error) {
      if (!watch.troubles.has('policy'))
        fleet.logger.error(
          { server: member.name, ...described(error) },
          `Policy ${policy.name} failed, nothing is changed on ${member.name}: ${messageOf(error)}`,
        );
      watch.troubles.add('policy');
    }
  }
  return {
    ...planned,
    cells: planned.cells.map((cell) => {
      const version = wanted.get(cell.server)?.get(cell.task);
      return version === undefined ? cell : { ...cell, version };
    }),
  };
}
