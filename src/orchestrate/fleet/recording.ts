import { messageOf } from '../../base/errors.ts';
import { described } from '../watch.ts';
import { textOf } from './changing.ts';
import { FLEET_RECORD_SCHEMA_VERSION, type FleetRecord } from './record.ts';
import { cpusOf, demandOf, type Fleet } from './state.ts';

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
    servers: [...fleet.nodes.values()].map((node) => ({
      name: node.member.name,
      http: node.member.http,
      health: node.health,
      ...(node.health === 'down' && { trouble: messageOf(node.watch.failure) }),
      cpus: cpusOf(node),
      utilization: node.health === 'up' ? node.watch.seen?.utilization : undefined,
      memoryBytes: node.member.memoryBytes,
      change: node.change && textOf(node.change),
      tasks: fleet.tasks.flatMap(({ task }) => {
        const key = JSON.stringify([node.member.name, task]);
        const present = node.present[task];
        const plannedVersion = planned.get(key);
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
    tasks: fleet.tasks.map(({ task }) => {
      const memory = fleet.demand.get(task)?.memory;
      return {
        task,
        demandRps: demandOf(fleet, task),
        levelRps: memory?.levelRps,
        deviationRps: memory?.deviationRps,
      };
    }),
    decisions: fleet.decisions.items(),
  };
}
