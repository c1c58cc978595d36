import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../../base/clock.ts';
import { messageOf } from '../../../base/errors.ts';
import type { FleetDecision } from '../../fleet/record.ts';
import type { Logger } from '../../logger.ts';
import { described } from '../../watch.ts';
import type { KubernetesClient } from './client.ts';
import { metricsOf } from './controller-metrics.ts';
import { isStatus } from './errors.ts';
import { eventTeller } from './events.ts';
import type { FleetReader } from './fleet-spec.ts';
import { follow } from './follow.ts';
import { acquireKubernetesLease } from './lease.ts';
import { knownSlice } from './pods.ts';
import { publish } from './publish.ts';
import {
  type Cluster,
  type FleetState,
  fleetKeyOf,
  knownDeployment,
  reconcile,
  stopFleet,
} from './reconcile.ts';
import {
  DEPLOYMENTS,
  ENDPOINT_SLICES,
  FLEETS,
  type KubernetesObject,
  labels,
  MANAGER,
  type Resource,
  TASKS,
} from './resources.ts';
import { workQueue } from './work-queue.ts';

export const controllerDefaults = {
  leaseName: 'bonsai-controller',
  /** Everything is compared with what it should be this often, also without news: tokens and repositories change silently. */
  resyncMs: 30_000,
  /** From one look at what statuses say to the next. */
  publishMs: 2_000,
} as const;

export interface ControllerOptions {
  readonly client: KubernetesClient;
  readonly reader: FleetReader;
  /** Whose Fleets are looked after; undefined: all. */
  readonly namespace?: string;
  /** Of the lease. */
  readonly ownNamespace: string;
  /** A name that no other controller has. */
  readonly identity: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly leaseName?: string;
  readonly onDecision?: (fleet: string, decision: FleetDecision) => void;
  /** Asked for the page of metrics. */
  readonly onMetrics?: (text: () => string) => void;
  readonly periods?: {
    readonly leaseMs?: number;
    readonly leasePeriodMs?: number;
    readonly resyncMs?: number;
    readonly publishMs?: number;
    readonly backoffMs?: number;
    readonly recordMs?: number;
  };
}

/**
 * Looks after the Fleets and Tasks of a cluster until the signal: makes their servers, runs the fleet's loop over those that are
 * ready, and tells in statuses and Events. Of several controllers, the one with the lease does.
 * @throws KubernetesError where the lease is forbidden
 */
export async function runController(options: ControllerOptions): Promise<void> {
  const { client, clock, logger, signal, identity, periods } = options;
  while (!signal.aborted) {
    const lease = await acquireKubernetesLease({
      client,
      namespace: options.ownNamespace,
      name: options.leaseName ?? controllerDefaults.leaseName,
      identity,
      clock,
      signal,
      durationMs: periods?.leaseMs,
      periodMs: periods?.leasePeriodMs,
      onWait: (holder) => logger.info({ holder }, `${holder} has the lease: waiting until it ends.`),
      onTrouble: (error) =>
        logger.error(described(error), `The lease cannot be asked for, trying on: ${messageOf(error)}`),
    });
    logger.info({ identity, term: lease.term }, 'This controller has the lease.');
    try {
      await lead(options, lease.term, AbortSignal.any([signal, lease.lost]), () => !lease.lost.aborted);
    } finally {
      await lease.release();
    }
    if (!signal.aborted) logger.warn({}, `${messageOf(lease.lost.reason)} Waiting for it again.`);
  }
}

/** Acts until the signal. @param mayWrite false when the lease is lost: another one acts then */
async function lead(
  options: ControllerOptions,
  term: number,
  signal: AbortSignal,
  mayWrite: () => boolean,
): Promise<void> {
  const { client, reader, namespace, clock, logger, identity, periods } = options;
  const states = new Map<string, FleetState>();
  const onError = (what: string) => (key: string, error: unknown) => {
    // Somebody else changed it first, which is nothing to worry about.
    const level = isStatus(error, 409) ? 'debug' : 'error';
    logger[level](
      { fleet: key, ...described(error) },
      `${what} of ${key} failed, trying again: ${messageOf(error)}`,
    );
  };
  const firstBackoffMs = periods?.backoffMs;
  const queue = workQueue({
    work: (key) => reconcile(cluster, key),
    onError: onError('Reconciling'),
    signal,
    firstBackoffMs,
  });
  const telling = workQueue({
    work: (key) => publish(cluster, key),
    onError: onError('The status'),
    signal,
    firstBackoffMs,
  });
  const following = <T>(options: {
    readonly resource: Resource;
    readonly keep: (object: KubernetesObject) => T | undefined;
    /** Whether a change of it is of no interest, as one of a status is. */
    readonly isSame?: (now: T, before: T) => boolean;
    /** Those to be reconciled after a change. */
    readonly fleetsOf: (kept: T, key: string) => readonly string[];
    readonly labelSelector?: string;
  }) =>
    follow<T>({
      client,
      resource: options.resource,
      selection: { namespace, labelSelector: options.labelSelector },
      keep: options.keep,
      onChange: (key, now, before) => {
        if (now !== undefined && before !== undefined && options.isSame?.(now, before)) return;
        for (const kept of [before, now])
          if (kept !== undefined) for (const fleet of options.fleetsOf(kept, key)) queue.add(fleet);
      },
      clock,
      logger,
      signal,
      firstBackoffMs,
    });
  // Which Service belongs to which fleet, its state knows.
  const fleetsOfSlice = (slice: { readonly namespace: string; readonly service: string }) =>
    [...states].flatMap(([key, state]) =>
      state.fleet.metadata.namespace === slice.namespace && state.services.has(slice.service) ? [key] : [],
    );
  const cluster: Cluster = {
    client,
    reader,
    states,
    fleets: following({
      resource: FLEETS,
      keep: withoutHistory,
      isSame: isAskedTheSame,
      fleetsOf: (_, key) => [key],
    }),
    tasks: following({
      resource: TASKS,
      keep: withoutHistory,
      isSame: isAskedTheSame,
      fleetsOf: (task) => [fleetKeyOf(task)],
    }),
    slices: following({ resource: ENDPOINT_SLICES, keep: knownSlice, fleetsOf: fleetsOfSlice }),
    deployments: following({
      resource: DEPLOYMENTS,
      keep: knownDeployment,
      isSame: (now, before) => now.generation === before.generation,
      fleetsOf: ({ fleet }) => {
        // What somebody changed or removed is made again.
        states.get(fleet)?.applied.clear();
        return [fleet];
      },
      labelSelector: `${labels.managedBy}=${MANAGER}`,
    }),
    events: eventTeller({ client, clock, logger, instance: identity }),
    term,
    clock,
    logger,
    signal,
    mayWrite,
    recordPeriodMs: periods?.recordMs,
    reconcileAgain: (key) => queue.add(key),
    onDecision: options.onDecision,
  };
  options.onMetrics?.(() => metricsOf(states));
  const followed = [cluster.fleets, cluster.tasks, cluster.slices, cluster.deployments];
  await Promise.all(followed.map(({ listed }) => listed));

  const every = async (periodMs: number, act: () => void) => {
    while (!signal.aborted) {
      act();
      await delay(periodMs, undefined, { signal }).catch(() => {});
    }
  };
  const eachFleet = (act: (key: string) => void) => () => {
    for (const key of new Set([...cluster.fleets.items.keys(), ...states.keys()])) act(key);
    // Tasks that name a fleet which is not there are told so.
    for (const task of cluster.tasks.items.values())
      if (!cluster.fleets.items.has(fleetKeyOf(task))) act(fleetKeyOf(task));
  };
  await Promise.all([
    every(
      periods?.resyncMs ?? controllerDefaults.resyncMs,
      eachFleet((key) => {
        states.get(key)?.applied.clear();
        queue.add(key);
      }),
    ),
    every(
      periods?.publishMs ?? controllerDefaults.publishMs,
      eachFleet((key) => telling.add(key)),
    ),
  ]);
  await Promise.all([queue.idle(), telling.idle()]);
  await Promise.all([...states.values()].map(stopFleet));
  await Promise.all(followed.map(({ ended }) => ended));
  options.onMetrics?.(() => metricsOf(new Map()));
}

/** Who applied which field is of no use here, and as long as all the rest. */
function withoutHistory(object: KubernetesObject): KubernetesObject {
  const { managedFields: _, ...metadata } = object.metadata as KubernetesObject['metadata'] & {
    readonly managedFields?: unknown;
  };
  return { ...object, metadata };
}

/** Whether nothing but the status differs. */
function isAskedTheSame(
  { metadata: now }: KubernetesObject,
  { metadata: before }: KubernetesObject,
): boolean {
  return (
    now.uid === before.uid &&
    now.generation === before.generation &&
    now.deletionTimestamp === before.deletionTimestamp &&
    now.finalizers?.length === before.finalizers?.length
  );
}
