import { placementDefaults } from '../../../policy/placement/placement.ts';
import { placementTaskOf, watchedTasksOf } from '../../fleet/members.ts';
import { isStatus } from './errors.ts';
import { type Cluster, type FleetState, tasksOf } from './reconcile.ts';
import { apiVersionOf, FLEETS, type KubernetesObject, keyOf, type Resource, TASKS } from './resources.ts';
import {
  conditionsOf,
  type Finding,
  type FleetView,
  fleetFindings,
  fleetStatus,
  taskFindings,
  taskStatus,
} from './status.ts';
import { type WantedReplicas, wantedReplicas } from './wanted-replicas.ts';

export const publishDefaults = {
  /** Figures that move by themselves are written no more often than this; what matters, at the next look. */
  figuresMs: 30_000,
} as const;

/** Tells in the statuses of a Fleet and its Tasks how they are, where that changed. */
export async function publish(cluster: Cluster, key: string): Promise<void> {
  const state = cluster.states.get(key);
  if (state === undefined) {
    for (const task of tasksOf(cluster, key)) {
      const [namespace, name] = key.split('/');
      const refusal = name === '' ? 'spec.fleet is missing.' : `There is no Fleet ${name} in ${namespace}.`;
      const findings = taskFindings('', refusal, undefined);
      if (!isTold(task, findings)) await write(cluster, TASKS, task, task.metadata.generation, findings, {});
    }
    return;
  }
  const view = viewOf(state);
  // With its latest status: conditions keep their times.
  const fleet = cluster.fleets.items.get(key) ?? state.fleet;
  await tell(cluster, state, FLEETS, fleet, state.generation, fleetFindings(view), fleetStatus(view));
  for (const task of tasksOf(cluster, key)) {
    const name = cluster.reader.taskName(task);
    const refusal = state.refusedTasks.get(keyOf(task.metadata));
    const generation = state.taskGenerations.get(keyOf(task.metadata));
    const { record } = view;
    await tell(
      cluster,
      state,
      TASKS,
      task,
      generation,
      taskFindings(name, refusal, record),
      taskStatus(name, record),
    );
  }
}

export function viewOf(state: FleetState): FleetView {
  const { refusal, spec, pods, members, run } = state;
  return {
    refusal,
    pools: spec?.pools ?? [],
    pods,
    tasks: members?.tasks.length ?? 0,
    record: run?.record,
    wanted: wantedOf(state),
  };
}

/** For each pool, the servers that it would need beside all others. */
function wantedOf({ spec, members, run, pods }: FleetState): Map<string, WantedReplicas> {
  const record = run?.record;
  if (record === undefined || spec === undefined || members === undefined) return new Map();
  const demandRps = new Map(record.tasks.map((task) => [task.task, task.demandRps]));
  const watched = watchedTasksOf(members.tasks);
  const tasks = members.tasks.map((task, k) =>
    placementTaskOf(task, watched[k]!, demandRps.get(task.manifest.task) ?? 0),
  );
  const weights = new Map(members.servers.map(({ name, weight }) => [name, weight]));
  const poolOf = new Map(pods.map(({ name, pool }) => [name, pool]));
  return new Map(
    spec.pools.map((pool) => {
      const others = record.servers.filter(
        ({ name, health }) => health === 'up' && poolOf.get(name) !== pool.name,
      );
      const otherCores = others.reduce((sum, { name, cpus }) => sum + cpus * (weights.get(name) ?? 1), 0);
      const utilization = spec.utilization ?? placementDefaults.utilization;
      return [pool.name, wantedReplicas(tasks, otherCores, pool.cpus * (pool.weight ?? 1), utilization)];
    }),
  );
}

/** @param generation of the spec that this is about; undefined: it is not known yet, so nothing can be told */
async function tell(
  cluster: Cluster,
  state: FleetState,
  resource: Resource,
  object: KubernetesObject,
  generation: number | undefined,
  findings: readonly Finding[],
  figures: object,
): Promise<void> {
  if (generation === undefined) return;
  const nowMs = cluster.clock.nowMs();
  const key = `${resource.plural} ${keyOf(object.metadata)} ${object.metadata.uid}`;
  const { serversReady, tasksReady, versions } = figures as Readonly<Record<string, unknown>>;
  const urgent = JSON.stringify([
    generation,
    findings.map(({ message: _, ...rest }) => rest),
    [serversReady, tasksReady, versions],
  ]);
  const text = JSON.stringify([urgent, findings, figures]);
  const told = state.told.get(key);
  const isDue = told === undefined || nowMs - told.atMs >= publishDefaults.figuresMs;
  if (told !== undefined && told.urgent === urgent && (told.text === text || !isDue)) return;
  await write(cluster, resource, object, generation, findings, figures);
  state.told.set(key, { urgent, text, atMs: nowMs });
}

function isTold({ metadata, status }: KubernetesObject, findings: readonly Finding[]): boolean {
  const { observedGeneration, conditions = [] } = (status ?? {}) as {
    readonly observedGeneration?: number;
    readonly conditions?: readonly { readonly type: string; readonly message: string }[];
  };
  return (
    observedGeneration === metadata.generation &&
    findings.every(({ type, message }) =>
      conditions.some((own) => own.type === type && own.message === message),
    )
  );
}

async function write(
  cluster: Cluster,
  resource: Resource,
  object: KubernetesObject,
  generation = 0,
  findings: readonly Finding[],
  figures: object,
): Promise<void> {
  if (!cluster.mayWrite()) return;
  const { namespace, name } = object.metadata;
  const now = new Date(cluster.clock.epochMs()).toISOString().replace(/\.\d+/, '');
  try {
    await cluster.client.apply(
      resource,
      {
        apiVersion: apiVersionOf(resource),
        kind: resource.kind,
        metadata: { namespace, name },
        status: {
          observedGeneration: generation,
          conditions: conditionsOf(object, generation, findings, now),
          ...figures,
        },
      },
      { subresource: 'status', signal: cluster.signal },
    );
  } catch (error) {
    // Removed meanwhile.
    if (!isStatus(error, 404)) throw error;
  }
}
