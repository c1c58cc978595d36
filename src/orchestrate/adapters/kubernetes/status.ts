import type { FleetRecord } from '../../fleet/record.ts';
import type { PoolSpec } from './fleet-spec.ts';
import type { Pod } from './pods.ts';
import type { Condition, KubernetesObject } from './resources.ts';
import type { WantedReplicas } from './wanted-replicas.ts';

/** Servers told in a status: it is one object in the cluster's store. */
export const MAX_SERVERS_TOLD = 100;

/** The API's bound on the message of a condition. */
const MAX_MESSAGE_LENGTH = 32_768;

/** A condition without what is the same for all. */
export interface Finding {
  readonly type: string;
  readonly isTrue: boolean;
  readonly reason: string;
  readonly message: string;
}

/**
 * The conditions with their times: of one that stays as it was, the time stays too.
 * @param generation of the spec that they are about
 */
export function conditionsOf(
  object: KubernetesObject,
  generation: number,
  findings: readonly Finding[],
  now: string,
): Condition[] {
  const before = (object.status as { conditions?: readonly Condition[] } | undefined)?.conditions ?? [];
  return findings.map(({ type, isTrue, reason, message }) => {
    const status = isTrue ? 'True' : 'False';
    const last = before.find((condition) => condition.type === type);
    return {
      type,
      status,
      observedGeneration: generation,
      lastTransitionTime: last?.status === status ? last.lastTransitionTime : now,
      reason,
      message: message.slice(0, MAX_MESSAGE_LENGTH),
    };
  });
}

/** What is known of a fleet when its status is written. */
export interface FleetView {
  /** Why what is written cannot be done; undefined: it can. */
  readonly refusal?: string;
  readonly pools: readonly PoolSpec[];
  readonly pods: readonly Pod[];
  readonly tasks: number;
  readonly record?: FleetRecord;
  readonly wanted: ReadonlyMap<string, WantedReplicas>;
}

export function fleetFindings({ refusal, pools, pods, tasks, record }: FleetView): Finding[] {
  const accepted: Finding =
    refusal === undefined
      ? { type: 'Accepted', isTrue: true, reason: 'Valid', message: 'The fleet is as it says.' }
      : { type: 'Accepted', isTrue: false, reason: 'Invalid', message: refusal };
  const asked = pools.reduce((sum, { replicas }) => sum + (replicas ?? 0), 0);
  const known = record?.servers ?? [];
  const up = known.filter(({ health }) => health === 'up').length;
  const all = Math.max(known.length, asked, pods.length);
  const down = known.filter(({ health }) => health === 'down').map(({ name }) => name);
  const servers: Finding = {
    type: 'ServersReady',
    isTrue: all > 0 && up === all,
    reason: all > 0 && up === all ? 'AllUp' : down.length > 0 ? 'SomeDown' : 'Waiting',
    message: `${up} of ${all} servers are up${down.length > 0 ? `; ${listed(down)} down` : ''}.`,
  };
  return [accepted, servers, { type: 'Ready', ...readiness(record, tasks, pods.length + known.length) }];
}

function readiness(record: FleetRecord | undefined, tasks: number, servers: number): Omit<Finding, 'type'> {
  const no = (reason: string, message: string) => ({ isTrue: false, reason, message });
  if (tasks === 0) return no('NoTasks', 'No Task names this fleet, or none of them can be served.');
  if (servers === 0) return no('NoServers', 'No server is ready yet.');
  if (record === undefined) return no('Starting', 'The servers have not been looked at yet.');
  const { unplaced, unservedRps } = record.plan;
  if (unplaced.length > 0)
    return no('NotPlaced', unplaced.map(({ task, reason }) => `${task} is not placed: ${reason}.`).join(' '));
  const unserved = record.tasks.filter(({ task }) => serversOf(record, task).length === 0);
  if (unserved.length > 0)
    return no('NotServed', `${listed(unserved.map(({ task }) => task))} served by nobody yet.`);
  const refused = Object.entries(unservedRps);
  if (refused.length > 0)
    return no(
      'Overloaded',
      refused
        .map(([task, rps]) => `${task}: ${rounded(rps)} req/s are more than its servers can carry.`)
        .join(' '),
    );
  return { isTrue: true, reason: 'Serving', message: `All ${record.tasks.length} tasks are served.` };
}

/** The status of a Fleet but for its conditions. */
export function fleetStatus({ record, pools, pods, wanted }: FleetView): object {
  const servers = record?.servers ?? [];
  const up = new Set(servers.filter(({ health }) => health === 'up').map(({ name }) => name));
  const served = record?.tasks.filter(({ task }) => serversOf(record, task).length > 0) ?? [];
  return {
    serversReady: `${up.size}/${Math.max(servers.length, pods.length)}`,
    tasksReady: `${served.length}/${record?.tasks.length ?? 0}`,
    ...(record !== undefined && {
      utilization: percent(record.plan.utilization, 0),
      accuracy: record.plan.accuracy === undefined ? '–' : percent(record.plan.accuracy, 1),
      reason: record.plan.reason,
    }),
    pools: pools.map(({ name }) => {
      const replicas = wanted.get(name);
      return {
        name,
        readyReplicas: pods.filter((pod) => pod.pool === name && up.has(pod.name)).length,
        ...(replicas !== undefined && {
          replicasForDemand: replicas.forDemand,
          replicasForAccuracy: replicas.forAccuracy,
        }),
      };
    }),
    servers: servers.slice(0, MAX_SERVERS_TOLD).map(({ name, health, trouble, change, tasks }) => ({
      name,
      health,
      ...(trouble !== undefined && { trouble }),
      ...(change !== undefined && { change }),
      tasks: tasks.map(({ task, version, plannedVersion, weight }) => ({
        task,
        ...(version !== undefined && { version }),
        ...(plannedVersion !== undefined && { plannedVersion }),
        weight,
      })),
    })),
  };
}

/** @param refusal why the task cannot be served as it is written */
export function taskFindings(
  task: string,
  refusal: string | undefined,
  record: FleetRecord | undefined,
): Finding[] {
  const accepted: Finding =
    refusal === undefined
      ? { type: 'Accepted', isTrue: true, reason: 'Valid', message: 'The task is as it says.' }
      : { type: 'Accepted', isTrue: false, reason: 'Invalid', message: refusal };
  const no = (reason: string, message: string): Finding => ({
    type: 'Ready',
    isTrue: false,
    reason,
    message,
  });
  const ready = (): Finding => {
    if (refusal !== undefined) return no('Invalid', refusal);
    if (record === undefined) return no('Waiting', 'Its fleet is not running yet.');
    const unplaced = record.plan.unplaced.find((own) => own.task === task);
    if (unplaced !== undefined) return no('NotPlaced', `${unplaced.reason}.`);
    const servers = serversOf(record, task);
    if (servers.length === 0) return no('NotServed', 'No server has loaded it yet.');
    const refused = record.plan.unservedRps[task] ?? 0;
    if (refused > 0)
      return no('Overloaded', `${rounded(refused)} req/s are more than its servers can carry.`);
    return { type: 'Ready', isTrue: true, reason: 'Serving', message: `Served by ${listed(servers)}.` };
  };
  return [accepted, ready()];
}

/** The status of a Task but for its conditions. */
export function taskStatus(task: string, record: FleetRecord | undefined): object {
  if (record === undefined) return { servers: 0 };
  const versions = record.servers
    .filter(({ health }) => health === 'up')
    .flatMap(({ tasks }) => tasks.filter((own) => own.task === task).map(({ version }) => version))
    .filter((version) => version !== undefined);
  const demand = record.tasks.find((own) => own.task === task)?.demandRps ?? 0;
  return {
    servers: versions.length,
    versions: [...new Set(versions)].sort((a, b) => a - b).join(', '),
    demand: `${rounded(demand)} req/s`,
  };
}

function serversOf({ servers }: FleetRecord, task: string): string[] {
  return servers
    .filter(
      ({ health, tasks }) =>
        health === 'up' && tasks.some((own) => own.task === task && own.version !== undefined),
    )
    .map(({ name }) => name);
}

/** Two digits: a status that changes with each request would keep the cluster's store busy. */
function rounded(value: number): string {
  return String(Number(value.toPrecision(2)));
}

function percent(ratio: number, digits: number): string {
  return `${(100 * ratio).toFixed(digits)} %`;
}

/** `a`, `a and b are`, … as the subject of a sentence, cut where there are many. */
function listed(names: readonly string[]): string {
  const shown = names.slice(0, 5).join(', ');
  return names.length > 5 ? `${shown} and ${names.length - 5} more` : shown;
}
