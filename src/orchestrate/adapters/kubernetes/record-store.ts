import type { Clock } from '../../../base/clock.ts';
import { messageOf } from '../../../base/errors.ts';
import { FLEET_RECORD_SCHEMA_VERSION, type FleetRecord } from '../../fleet/record.ts';
import type { Logger } from '../../logger.ts';
import type { KubernetesClient } from './client.ts';
import { apiVersionOf, CONFIG_MAPS, type KubernetesObject, labels, MANAGER, ownerOf } from './resources.ts';

export const recordDefaults = {
  /** The store of a cluster is no place for a write each second. */
  periodMs: 10_000,
  /** A ConfigMap holds 1 MiB; decisions are left out of larger records. */
  maxBytes: 900 * 1024,
  decisions: 20,
} as const;

/** Under which the record lies in its ConfigMap. */
const KEY = 'record.json';

/** What the orchestrator of a fleet knows, in a ConfigMap of the fleet's: the next one goes on from there. */
export interface RecordStore {
  /** Undefined where there is none, or none that can be understood. */
  read(signal: AbortSignal): Promise<FleetRecord | undefined>;
  /** Writes it if the last writing is long enough ago. */
  save(record: FleetRecord): Promise<void>;
  /** Writes what was saved last, if it is not written yet. */
  flush(): Promise<void>;
}

export function recordStore(options: {
  readonly client: KubernetesClient;
  readonly fleet: KubernetesObject;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly periodMs?: number;
}): RecordStore {
  const { client, fleet, clock, logger, periodMs = recordDefaults.periodMs } = options;
  const { namespace = '', name: owner } = fleet.metadata;
  const name = `${owner}-fleet-state`;
  let waiting: FleetRecord | undefined;
  let writtenMs = Number.NEGATIVE_INFINITY;

  const write = async () => {
    if (waiting === undefined) return;
    const record = waiting;
    waiting = undefined;
    writtenMs = clock.nowMs();
    await client.apply(CONFIG_MAPS, {
      apiVersion: apiVersionOf(CONFIG_MAPS),
      kind: CONFIG_MAPS.kind,
      metadata: {
        namespace,
        name,
        labels: { [labels.managedBy]: MANAGER, [labels.fleet]: owner },
        ownerReferences: [ownerOf(fleet)],
      },
      data: { [KEY]: textOf(record) },
    });
  };

  return {
    async read(signal) {
      const found = await client.get(CONFIG_MAPS, namespace, name, signal);
      const text = (found?.data as Record<string, unknown> | undefined)?.[KEY];
      if (typeof text !== 'string') return undefined;
      try {
        const value = JSON.parse(text) as FleetRecord; // Written by our own, or not used.
        if (value.schemaVersion === FLEET_RECORD_SCHEMA_VERSION && Array.isArray(value.servers)) return value;
        logger.warn(
          { fleet: owner },
          `ConfigMap ${namespace}/${name} has another layout: the fleet starts afresh.`,
        );
      } catch (error) {
        logger.warn(
          { fleet: owner },
          `ConfigMap ${namespace}/${name} is no record (${messageOf(error)}): the fleet starts afresh.`,
        );
      }
      return undefined;
    },
    async save(record) {
      waiting = record;
      if (clock.nowMs() - writtenMs >= periodMs) await write();
    },
    flush: write,
  };
}

function textOf(record: FleetRecord): string {
  const text = JSON.stringify({ ...record, decisions: record.decisions.slice(-recordDefaults.decisions) });
  return text.length <= recordDefaults.maxBytes ? text : JSON.stringify({ ...record, decisions: [] });
}
