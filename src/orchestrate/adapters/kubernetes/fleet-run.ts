import type { Clock } from '../../../base/clock.ts';
import { runFleet } from '../../fleet/fleet-loop.ts';
import type { FleetMembers } from '../../fleet/members.ts';
import type { FleetDecision, FleetRecord } from '../../fleet/record.ts';
import type { Logger } from '../../logger.ts';
import type { KubernetesClient } from './client.ts';
import type { FleetSpec } from './fleet-spec.ts';
import { type RecordStore, recordStore } from './record-store.ts';
import type { KubernetesObject } from './resources.ts';
import { taskServices } from './task-services.ts';

/** The loop over one fleet, from its first server until it is stopped. */
export interface FleetRun {
  /** Whom it is about from its next period on. */
  adopt(members: FleetMembers): void;
  /** Resolves when it goes by what it was told last. */
  adopted(): Promise<void>;
  /** What it wrote down last. */
  readonly record: FleetRecord | undefined;
  /** Resolves when nothing of it is under way. */
  stop(): Promise<void>;
}

/**
 * Runs the same loop that `bonsai orchestrate fleet.yaml` runs; its state lies in a ConfigMap, its balancer is the cluster.
 * @param options.mayWrite false when another controller may have begun
 * @throws KubernetesError if the state before cannot be asked for
 */
export async function startFleetRun(options: {
  readonly client: KubernetesClient;
  readonly fleet: KubernetesObject;
  readonly spec: FleetSpec;
  readonly members: FleetMembers;
  readonly term: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly mayWrite: () => boolean;
  readonly onRecord: (record: FleetRecord) => void;
  readonly onDecision: (decision: FleetDecision) => void;
  readonly onEnd: (error: unknown) => void;
  readonly recordPeriodMs?: number;
}): Promise<FleetRun> {
  const { client, fleet, spec, members, term, clock, logger, mayWrite, onRecord, onDecision, onEnd } =
    options;
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const store: RecordStore = recordStore({ client, fleet, clock, logger, periodMs: options.recordPeriodMs });
  let next: FleetMembers | undefined;
  const waiting: (() => void)[] = [];
  let record: FleetRecord | undefined;
  const before = await store.read(signal);
  const done = runFleet({
    members,
    reread: async () => {
      const adopted = next;
      next = undefined;
      for (const tell of waiting.splice(0)) tell();
      return adopted;
    },
    policy: spec.policy,
    placement: spec.utilization === undefined ? {} : { utilization: spec.utilization },
    balancer: taskServices(client, fleet),
    before,
    save: async (saved) => {
      record = saved;
      onRecord(saved);
      if (mayWrite()) await store.save(saved);
    },
    term,
    clock,
    signal,
    logger,
    periodMs: spec.periodMs,
    onDecision,
  }).catch((error) => {
    if (!signal.aborted) onEnd(error);
  });
  return {
    adopt(described) {
      next = described;
    },
    adopted() {
      if (next === undefined || signal.aborted) return Promise.resolve();
      return new Promise((done) => {
        waiting.push(done);
      });
    },
    get record() {
      return record;
    },
    async stop() {
      stopping.abort();
      await done;
      for (const tell of waiting.splice(0)) tell();
      if (mayWrite()) await store.flush().catch(() => {});
    },
  };
}
