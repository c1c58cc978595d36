import type { Clock } from '../../../base/clock.ts';
import { BonsaiError, messageOf } from '../../../base/errors.ts';
import type { FleetMembers, FleetServer } from '../../fleet/members.ts';
import type { FleetDecision } from '../../fleet/record.ts';
import type { Logger } from '../../logger.ts';
import { described } from '../../watch.ts';
import type { KubernetesClient } from './client.ts';
import { isStatus } from './errors.ts';
import type { EventTeller, Happening } from './events.ts';
import { type FleetRun, startFleetRun } from './fleet-run.ts';
import type { FleetReader, FleetSpec } from './fleet-spec.ts';
import type { Followed } from './follow.ts';
import { manifestsOf, serverServices, type Wanted } from './manifests.ts';
import { type KnownSlice, type Pod, podsOf } from './pods.ts';
import {
  BONSAI_GROUP,
  DEPLOYMENTS,
  DISRUPTION_BUDGETS,
  FLEETS,
  INFERENCE_SERVICES,
  type KubernetesObject,
  keyOf,
  labels,
  MANAGER,
  type Resource,
  SERVICES,
  SERVING_RUNTIMES,
  TASKS,
} from './resources.ts';
import { taskServices } from './task-services.ts';

/** With it, an object goes only when we are done with it. */
export const FINALIZER = `${BONSAI_GROUP}/controller`;

/** Who has the number of servers between us and an autoscaler. */
const HANDOVER_MANAGER = 'bonsai-handover';

/** How long a server may take to let go of a task that is removed. */
export const UNLOAD_TIMEOUT_MS = 10_000;

/** The cluster as the controller sees it, and what it acts by. */
export interface Cluster {
  readonly client: KubernetesClient;
  readonly reader: FleetReader;
  readonly states: Map<string, FleetState>;
  readonly fleets: Followed<KubernetesObject>;
  readonly tasks: Followed<KubernetesObject>;
  readonly slices: Followed<KnownSlice>;
  readonly deployments: Followed<KnownDeployment>;
  readonly events: EventTeller;
  readonly term: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly mayWrite: () => boolean;
  readonly recordPeriodMs?: number;
  readonly reconcileAgain: (key: string) => void;
  readonly onDecision?: (fleet: string, decision: FleetDecision) => void;
}

/** What is kept of a Deployment that was made here. */
export interface KnownDeployment {
  /** The key of its fleet. */
  readonly fleet: string;
  readonly generation: number | undefined;
  readonly replicas: number | undefined;
}

export function knownDeployment({ metadata, spec }: KubernetesObject): KnownDeployment {
  const { namespace, generation, labels: own } = metadata;
  const { replicas } = (spec ?? {}) as { readonly replicas?: number }; // As apps/v1 says.
  return { fleet: keyOf({ namespace, name: own?.[labels.fleet] ?? '' }), generation, replicas };
}

/** All that is remembered of one fleet. */
export interface FleetState {
  fleet: KubernetesObject;
  /** Of the spec that all of this is about; undefined: nothing is known yet. */
  generation?: number;
  /** The same of its Tasks, by key. */
  taskGenerations: ReadonlyMap<string, number>;
  /** The last that could be understood. */
  spec?: FleetSpec;
  /** Why what is written now cannot. */
  refusal?: string;
  /** Tasks that cannot be served as they are written, by key. */
  refusedTasks: ReadonlyMap<string, string>;
  /** Services whose endpoints are servers, with their pools. */
  services: ReadonlyMap<string, string>;
  pods: readonly Pod[];
  members?: FleetMembers;
  /** Of `members`, to see changes. */
  membersText?: string;
  run?: FleetRun;
  /** Of what needs a new run when it changes. */
  runText?: string;
  /** What was applied, by key. */
  readonly applied: Map<string, string>;
  /** What statuses said last, and when: by object. */
  readonly told: Map<string, { readonly urgent: string; readonly text: string; readonly atMs: number }>;
}

/** Brings one fleet to what its Fleet and Tasks say. May be called at any time, any number of times. */
export async function reconcile(cluster: Cluster, key: string): Promise<void> {
  const { states, fleets } = cluster;
  const fleet = fleets.items.get(key);
  const state = states.get(key);
  if (fleet === undefined || state?.fleet.metadata.uid !== fleet.metadata.uid) {
    if (state !== undefined) await forget(cluster, key, state);
    if (fleet === undefined) return releaseTasks(cluster, tasksNaming(cluster, key), undefined);
  }
  if (fleet!.metadata.deletionTimestamp !== undefined) return finalize(cluster, key, fleet!);
  const current = states.get(key) ?? newState(fleet!);
  current.fleet = fleet!;
  states.set(key, current);
  await hold(cluster, FLEETS, fleet!);
  try {
    current.spec = cluster.reader.read(fleet!);
    current.refusal = undefined;
  } catch (error) {
    // It stays as it was until somebody corrects it.
    refuse(cluster, current, error);
    current.generation = fleet!.metadata.generation;
    return;
  }
  await applyAll(cluster, current, manifestsOf(fleet!, current.spec));
  current.generation = fleet!.metadata.generation;
  // As they are now: one that is removed while this goes on is dealt with the next time.
  const tasks = tasksNaming(cluster, key);
  await adoptMembers(cluster, key, current, tasks.filter(isStaying));
  await releaseTasks(cluster, tasks, current);
}

function newState(fleet: KubernetesObject): FleetState {
  return {
    fleet,
    taskGenerations: new Map(),
    refusedTasks: new Map(),
    services: new Map(),
    pods: [],
    applied: new Map(),
    told: new Map(),
  };
}

function refuse({ events, logger }: Cluster, state: FleetState, error: unknown): void {
  if (!(error instanceof BonsaiError)) throw error;
  if (state.refusal === error.message) return;
  state.refusal = error.message;
  logger.error(described(error), error.message);
  events.tell(state.fleet, { type: 'Warning', reason: 'Invalid', action: 'Read', note: error.message });
}

/** Makes sure that it does not go before `finalize`. @throws KubernetesError 409 if it changed: it is reconciled again */
async function hold(cluster: Cluster, resource: Resource, object: KubernetesObject): Promise<void> {
  const { finalizers = [], namespace = '', name, resourceVersion } = object.metadata;
  if (finalizers.includes(FINALIZER)) return;
  const metadata = { resourceVersion, finalizers: [...finalizers, FINALIZER] };
  await cluster.client.patch(resource, namespace, name, { metadata }, cluster.signal);
}

async function letGo(cluster: Cluster, resource: Resource, object: KubernetesObject): Promise<void> {
  const { finalizers = [], namespace = '', name, resourceVersion } = object.metadata;
  if (!finalizers.includes(FINALIZER)) return;
  const metadata = { resourceVersion, finalizers: finalizers.filter((own) => own !== FINALIZER) };
  try {
    await cluster.client.patch(resource, namespace, name, { metadata }, cluster.signal);
  } catch (error) {
    if (!isStatus(error, 404)) throw error;
  }
}

/** The loop ends before its servers do; those, owned by the Fleet, go with it. */
async function finalize(cluster: Cluster, key: string, fleet: KubernetesObject): Promise<void> {
  const state = cluster.states.get(key);
  if (state !== undefined) await forget(cluster, key, state);
  await letGo(cluster, FLEETS, fleet);
}

async function forget({ states, events }: Cluster, key: string, state: FleetState): Promise<void> {
  states.delete(key);
  events.forget(state.fleet.metadata.uid);
  await stopFleet(state);
}

export async function stopFleet(state: FleetState): Promise<void> {
  const { run } = state;
  state.run = undefined;
  await run?.stop();
}

/** Applies what is not as it was applied last, and removes what pools that are gone have left. */
async function applyAll(cluster: Cluster, state: FleetState, wanted: readonly Wanted[]): Promise<void> {
  const { client, signal } = cluster;
  const { applied, fleet } = state;
  const { namespace = '', name } = fleet.metadata;
  const isFresh = applied.size === 0;
  const keys = new Set<string>();
  for (const { resource, object } of wanted) {
    const key = `${resource.plural} ${object.metadata.name}`;
    const text = JSON.stringify(object);
    keys.add(key);
    if (applied.get(key) === text) continue;
    if (resource === DEPLOYMENTS) await handOverReplicas(cluster, object);
    await client.apply(resource, object, { signal });
    applied.set(key, text);
  }
  const isStale = [...applied.keys()].some((key) => !keys.has(key));
  if (!isFresh && !isStale) return;
  const labelSelector = `${labels.managedBy}=${MANAGER},${labels.fleet}=${name},${labels.pool}`;
  for (const resource of [DEPLOYMENTS, SERVICES, DISRUPTION_BUDGETS, INFERENCE_SERVICES, SERVING_RUNTIMES]) {
    for (const object of await listOrNone(cluster, resource, namespace, labelSelector)) {
      const key = `${resource.plural} ${object.metadata.name}`;
      if (keys.has(key)) continue;
      await client.delete(resource, namespace, object.metadata.name, signal);
      applied.delete(key);
    }
  }
  for (const key of applied.keys()) if (!keys.has(key)) applied.delete(key);
}

/**
 * Where the number of servers is not ours any more, it stays as it is until an autoscaler changes it: a field that nobody has
 * would fall back to 1. Source: Kubernetes, "Server-side apply", transferring ownership.
 */
async function handOverReplicas(
  { client, deployments, signal }: Cluster,
  wanted: KubernetesObject,
): Promise<void> {
  const { replicas } = (wanted.spec ?? {}) as { readonly replicas?: number };
  const known = deployments.items.get(keyOf(wanted.metadata));
  if (replicas !== undefined || known?.replicas === undefined) return;
  const { apiVersion, kind, metadata } = wanted;
  const { namespace, name } = metadata;
  const held = { apiVersion, kind, metadata: { namespace, name }, spec: { replicas: known.replicas } };
  try {
    await client.apply(DEPLOYMENTS, held, { manager: HANDOVER_MANAGER, isForced: false, signal });
  } catch (error) {
    // Somebody has it already.
    if (!isStatus(error, 409)) throw error;
  }
}

/** A cluster without KServe has none of its objects. */
async function listOrNone(
  { client, signal }: Cluster,
  resource: Resource,
  namespace: string,
  labelSelector: string,
): Promise<readonly KubernetesObject[]> {
  try {
    return (await client.list(resource, { namespace, labelSelector }, signal)).items;
  } catch (error) {
    if (isStatus(error, 403, 404) && resource.group.endsWith('kserve.io')) return [];
    throw error;
  }
}

/** Tells the loop whom it is about, starts it with its first server, and starts it anew where its shape changed. */
async function adoptMembers(
  cluster: Cluster,
  key: string,
  state: FleetState,
  tasks: readonly KubernetesObject[],
): Promise<void> {
  const { fleet, spec } = state;
  const { namespace = '' } = fleet.metadata;
  state.services = serverServices(fleet, spec!);
  const before = new Set(state.pods.map(({ name }) => name));
  state.pods = podsOf(cluster.slices.items.values(), namespace, state.services, before);
  let found: Awaited<ReturnType<FleetReader['members']>>;
  try {
    found = await cluster.reader.members(fleet, tasks, state.pods);
  } catch (error) {
    refuse(cluster, state, error);
    return;
  }
  const { members, refused } = found;
  state.refusedTasks = refused;
  state.taskGenerations = new Map(tasks.map(({ metadata }) => [keyOf(metadata), metadata.generation ?? 0]));
  if (members.tasks.length === 0) {
    if (state.run !== undefined) {
      await stopFleet(state);
      await taskServices(cluster.client, fleet).apply({ tasks: [], all: [] }, cluster.signal);
    }
    state.members = members;
    state.membersText = undefined;
    return;
  }
  // Servers that are all gone at once are being replaced: the loop goes on without them, and is told when the next are there.
  if (members.servers.length === 0) return;
  state.members = members;
  const membersText = JSON.stringify(members);
  const runText = JSON.stringify([spec!.policy?.name, spec!.utilization, spec!.periodMs]);
  if (state.run !== undefined && state.runText !== runText) await stopFleet(state);
  if (state.run === undefined) {
    const { client, term, clock, logger, signal, mayWrite, recordPeriodMs } = cluster;
    state.run = await startFleetRun({
      client,
      fleet,
      spec: spec!,
      members,
      term,
      clock,
      logger,
      signal,
      mayWrite,
      recordPeriodMs,
      onRecord: () => {},
      onDecision: (decision) => {
        cluster.onDecision?.(key, decision);
        const happening = happeningOf(decision);
        if (happening !== undefined) cluster.events.tell(state.fleet, happening);
      },
      onEnd: (error) => {
        logger.error(described(error), `The loop of ${key} ended, starting it again: ${messageOf(error)}`);
        state.run = undefined;
        cluster.reconcileAgain(key);
      },
    });
    state.runText = runText;
  } else if (state.membersText !== membersText) state.run.adopt(members);
  state.membersText = membersText;
}

/** The Tasks of a fleet that are to stay. */
export function tasksOf(cluster: Pick<Cluster, 'tasks'>, fleetKey: string): KubernetesObject[] {
  return tasksNaming(cluster, fleetKey).filter(isStaying);
}

/** All that name the fleet, the oldest first: of two about the same task, that one counts. */
function tasksNaming({ tasks }: Pick<Cluster, 'tasks'>, fleetKey: string): KubernetesObject[] {
  const ageOf = ({ metadata }: KubernetesObject) => `${metadata.creationTimestamp ?? ''} ${metadata.name}`;
  return [...tasks.items.values()]
    .filter((task) => fleetKeyOf(task) === fleetKey)
    .sort((a, b) => (ageOf(a) < ageOf(b) ? -1 : 1));
}

function isStaying({ metadata }: KubernetesObject): boolean {
  return metadata.deletionTimestamp === undefined;
}

/** Tasks that stay are held; of those that are removed the servers let go first, as far as they can be reached. */
async function releaseTasks(
  cluster: Cluster,
  tasks: readonly KubernetesObject[],
  state: FleetState | undefined,
): Promise<void> {
  const { taskName } = cluster.reader;
  const staying = new Set(tasks.filter(isStaying).map(taskName));
  for (const task of tasks) {
    if (isStaying(task)) {
      if (state !== undefined) await hold(cluster, TASKS, task);
      continue;
    }
    if (!(task.metadata.finalizers ?? []).includes(FINALIZER)) continue;
    if (state?.members !== undefined && !staying.has(taskName(task))) {
      const { servers, tasks: served } = state.members;
      const left = served.filter(({ manifest }) => manifest.task !== taskName(task));
      if (left.length < served.length) {
        // The Fleet cannot be read now, so the loop was not told yet.
        state.members = { servers, tasks: left };
        state.run?.adopt(state.members);
      }
      // Else the loop would load it again.
      await state.run?.adopted();
      await Promise.all(servers.map((server) => unload(cluster, server, taskName(task))));
    }
    await letGo(cluster, TASKS, task);
  }
}

async function unload({ logger, signal }: Cluster, server: FleetServer, task: string): Promise<void> {
  if (!server.canLoad) return;
  const adapter = server.connect();
  try {
    await adapter.unload?.(task, AbortSignal.any([signal, AbortSignal.timeout(UNLOAD_TIMEOUT_MS)]));
  } catch (error) {
    logger.warn(
      { server: server.name, task, ...described(error) },
      `${task} was not unloaded: ${messageOf(error)}`,
    );
  } finally {
    await adapter.close();
  }
}

/** What people are told of a decision; beginnings are told by their ends. */
function happeningOf({ kind, text }: FleetDecision): Happening | undefined {
  const note = text;
  switch (kind) {
    case 'begin':
    case 'members':
      return undefined;
    case 'plan':
      return { type: 'Normal', reason: 'Planned', action: 'Plan', note };
    case 'done':
      return { type: 'Normal', reason: 'Changed', action: 'Change', note };
    case 'failed':
      return { type: 'Warning', reason: 'ChangeFailed', action: 'Change', note };
    case 'server':
      return {
        type: text.includes(' is up') ? 'Normal' : 'Warning',
        reason: 'ServerHealth',
        action: 'Look',
        note,
      };
    case 'override':
      return { type: 'Normal', reason: 'SetByHand', action: 'Set', note };
    case 'balancer':
      return { type: 'Warning', reason: 'Routing', action: 'Route', note };
    default:
      return kind satisfies never;
  }
}

/** The fleet that a Task names, in its own namespace. */
export function fleetKeyOf({ metadata, spec }: KubernetesObject): string {
  const { fleet } = (spec ?? {}) as { readonly fleet?: unknown };
  return keyOf({ namespace: metadata.namespace, name: typeof fleet === 'string' ? fleet : '' });
}
