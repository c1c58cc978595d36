import { messageOf } from '../../base/errors.ts';
import { bytesOf } from '../../policy/placement/changes.ts';
import { described, type WatchedTask } from '../watch.ts';
import { textOf } from './changing.ts';
import { FLEET_RECORD_SCHEMA_VERSION, type FleetRecord } from './record.ts';
import { choosesVersions, cpusOf, demandOf, type Fleet, isDrained, type Node } from './state.ts';

export async function save(fleet: Fleet): Promise<void> {
  if (fleet.options.save === undefined || fleet.plan === undefined) return;
  try {
    await fleet.options.save(recordOf(fleet));
    fleet.saveError = undefined;
  } catch (error) {
    if (fleet.saveError !== messageOf(error)) fleet.logger.error(described(error), messageOf(error));
    fleet.saveError = messageOf(error);
  }
}

function recordOf(fleet: Fleet): FleetRecord {
  const { clock, options } = fleet;
  const { reason, utilization, accuracy, unplaced, unservedRps, cells } = fleet.plan!;
  const epochOf = (nowMs: number) => Math.round(clock.epochMs() - (clock.nowMs() - nowMs));
  const weights = new Map(
    [...(fleet.applied ?? [])].flatMap(([task, list]) =>
      list.map(({ server, weight }) => [JSON.stringify([server, task]), weight] as const),
    ),
  );
  const planned = new Map(cells.map((cell) => [JSON.stringify([cell.server, cell.task]), cell.version]));
  return {
    schemaVersion: FLEET_RECORD_SCHEMA_VERSION,
    term: options.term ?? 0,
    savedMs: Math.round(clock.epochMs()),
    plan: { reason, utilization, accuracy, unplaced, unservedRps },
    balancer: {
      kind: options.balancer?.kind ?? 'none',
      ...(fleet.balancerError && { error: fleet.balancerError }),
    },
    overrides: fleet.overrides,
    servers: [...fleet.nodes.values()].map((node) => ({
      name: node.member.name,
      http: node.member.http,
      health: node.health,
      healthSinceMs: node.healthSinceMs === undefined ? undefined : epochOf(node.healthSinceMs),
      trouble: troubleOf(fleet, node),
      isDrained: isDrained(fleet, node.member.name) || undefined,
      ownPolicy: node.ownPolicy,
      cpus: cpusOf(node),
      utilization: node.health === 'up' ? node.watch.seen?.utilization : undefined,
      memoryBytes: node.member.memoryBytes,
      networkBytes: networkBytesOf(fleet, node),
      residentBytes: node.health === 'up' ? node.watch.scrape?.memoryBytes : undefined,
      change: node.change && textOf(node.change),
      tasks: fleet.tasks.flatMap(({ task }) => {
        const key = JSON.stringify([node.member.name, task]);
        const present = node.present[task];
        const expected = planned.get(key);
        const isItsOwn = expected !== undefined && choosesVersions(node);
        const plannedVersion = isItsOwn ? (present?.version ?? expected) : expected;
        if (present === undefined && plannedVersion === undefined) return [];
        return [
          {
            task,
            version: present?.version,
            sinceMs: present?.sinceMs === undefined ? undefined : epochOf(present.sinceMs),
            plannedVersion,
            weight: weights.get(key) ?? 0,
            demandRps: node.health === 'up' ? (node.watch.seen?.demandRps.get(task) ?? 0) : 0,
          },
        ];
      }),
    })),
    tasks: fleet.tasks.map((watched, k) => {
      const { task } = watched;
      const memory = fleet.demand.get(task)?.memory;
      return {
        task,
        demandRps: demandOf(fleet, task),
        arrivalRps: arrivalsOf(fleet, task),
        unservedRps: unservedRps[task] ?? 0,
        sloMs: fleet.overrides.tasks[task]?.sloMs ?? watched.sloMs,
        replicas: fleet.members.tasks[k]!.replicas,
        hosts: hostsOf(fleet, task).length,
        servedAccuracy: servedAccuracyOf(fleet, watched),
        plannedAccuracy: weightedMean(
          cells
            .filter((cell) => cell.task === task)
            .map(({ version, share }) => ({ value: accuracyByVersion(watched)(version), weight: share })),
        ),
        levelRps: memory?.levelRps,
        deviationRps: memory?.deviationRps,
      };
    }),
    decisions: fleet.decisions.items(),
  };
}

/** What is wrong at a server, in words; undefined: nothing. */
function troubleOf(fleet: Fleet, node: Node): string | undefined {
  const { name } = node.member;
  if (node.health === 'down') return messageOf(node.watch.failure);
  const parts: string[] = [];
  if (choosesVersions(node))
    for (const { manifest, objective } of fleet.members.tasks) {
      const { task } = manifest;
      if (node.present[task] === undefined) continue;
      if (fleet.overrides.tasks[task]?.version !== undefined)
        parts.push(`its own policy (${node.ownPolicy}) chooses versions: ${task} is not pinned here`);
      if (objective.minAccuracy !== undefined)
        parts.push(
          `its own policy (${node.ownPolicy}) chooses versions: say min-accuracy of ${task} in the server's bonsai.yaml, too`,
        );
    }
  for (const { server, task, version, untilMs } of fleet.blocked.values()) {
    const waitS = Math.ceil((untilMs - fleet.clock.nowMs()) / 1000);
    if (server !== name || waitS <= 0) continue;
    parts.push(
      version === undefined
        ? `it does not have ${task}, which is tried again in ${waitS} s`
        : `version ${version} of ${task} could not be loaded, which is tried again in ${waitS} s`,
    );
  }
  for (const [task, difference] of node.strangers)
    parts.push(`it serves another network as ${task}: ${difference}`);
  if (isDrained(fleet, name))
    for (const task of Object.keys(node.present))
      if (!hostsOf(fleet, task).some((other) => !isDrained(fleet, other.member.name)))
        parts.push(`drained, but ${task} stays until another server serves it`);
  return parts.length === 0 ? undefined : parts.join('; ');
}

/** Bytes that the planner reckons for what serves there. */
function networkBytesOf({ state }: Fleet, { member, present }: Node): number {
  const server = state!.servers.find(({ name }) => name === member.name);
  if (server === undefined) return 0;
  let bytes = 0;
  for (const [task, { version }] of Object.entries(present)) bytes += bytesOf(state!, server, task, version);
  return bytes;
}

/** Servers that are up and serve a task. */
function hostsOf({ nodes }: Fleet, task: string): Node[] {
  return [...nodes.values()].filter(({ health, present }) => health === 'up' && present[task] !== undefined);
}

function arrivalsOf(fleet: Fleet, task: string): number {
  let rps = 0;
  for (const { health, watch } of fleet.nodes.values())
    if (health === 'up') rps += watch.seen?.demandRps.get(task) ?? 0;
  return rps;
}

/** By the requests that came and what answered them; where none did, by the weights at the balancer. */
function servedAccuracyOf(fleet: Fleet, watched: WatchedTask): number | undefined {
  const { task } = watched;
  const weights = new Map(fleet.applied?.get(task)?.map(({ server, weight }) => [server, weight]));
  const isAsked = arrivalsOf(fleet, task) > 0;
  const accuracyOf = accuracyByVersion(watched);
  return weightedMean(
    hostsOf(fleet, task).map(({ member, present, watch }) => ({
      value: watch.seen?.answered.get(task)?.accuracy ?? accuracyOf(present[task]!.version),
      weight: isAsked ? (watch.seen?.demandRps.get(task) ?? 0) : (weights.get(member.name) ?? 0),
    })),
  );
}

function accuracyByVersion({ variants }: WatchedTask): (version: number) => number | undefined {
  return (version) => variants.find((variant) => variant.version === version)?.accuracy.test;
}

/** Undefined where no part with a value has a weight. */
function weightedMean(
  parts: readonly { readonly value: number | undefined; readonly weight: number }[],
): number | undefined {
  let total = 0;
  let sum = 0;
  for (const { value, weight } of parts) {
    if (value === undefined) continue;
    total += weight;
    sum += weight * value;
  }
  return total > 0 ? sum / total : undefined;
}
