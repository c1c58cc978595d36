import { readFile } from 'node:fs/promises';
import { BonsaiError, systemCodeOf, systemReason } from '../../base/errors.ts';
import { replaceFile } from '../../base/replace-file.ts';
import type { FleetOverrides } from './overrides.ts';

/** The version of the layout below. */
export const FLEET_RECORD_SCHEMA_VERSION = 1;

/**
 * What an orchestrator writes down each period: for the next one, which goes on from here, and for those who look
 * (`bonsai fleet status`). Times are in ms since the Unix epoch.
 */
export interface FleetRecord {
  readonly schemaVersion: number;
  /** Of the lease. */
  readonly term: number;
  readonly savedMs: number;
  readonly plan: {
    /** A sentence with its numbers. */
    readonly reason: string;
    /** CPU planned over CPU there is, in [0, 1]. */
    readonly utilization: number;
    /** Normalised accuracy, in [0, 1]; absent where no request is served. */
    readonly accuracy?: number;
    readonly unplaced: readonly { readonly task: string; readonly reason: string }[];
    readonly unservedRps: Readonly<Record<string, number>>;
  };
  readonly balancer: { readonly kind: string; readonly error?: string };
  /** What people have set by hand, as far as it was taken over. */
  readonly overrides?: FleetOverrides;
  readonly servers: readonly ServerRecord[];
  readonly tasks: readonly TaskRecord[];
  /** The latest, oldest first. */
  readonly decisions: readonly FleetDecision[];
}

export interface ServerRecord {
  readonly name: string;
  readonly http: string;
  readonly health: 'up' | 'down' | 'unknown';
  /** Since when; absent: it was so at the first look. */
  readonly healthSinceMs?: number;
  /** What is wrong there, in words: why it is down, what cannot be loaded, what its own policy does not do. */
  readonly trouble?: string;
  /** By hand: it is to be empty. */
  readonly isDrained?: boolean;
  /** Name of a policy that decides in the server itself by which versions its tasks are served. */
  readonly ownPolicy?: string;
  readonly cpus: number;
  /** CPU used over the CPU budget, in the last period; absent where the server does not tell. */
  readonly utilization?: number;
  /** Bytes that networks may take; absent: no limit. */
  readonly memoryBytes?: number;
  /** Bytes that the planner reckons for the networks which serve there. */
  readonly networkBytes?: number;
  /** Resident memory of the server's process; absent where it does not tell. */
  readonly residentBytes?: number;
  /** What is under way there, as in "switch mnist 3 -> 2". */
  readonly change?: string;
  readonly tasks: readonly {
    readonly task: string;
    /** What serves, on a server with a policy of its own the version that answered most; absent: it is still to be loaded. */
    readonly version?: number;
    readonly sinceMs?: number;
    /** What is planned; absent: it is to leave. Where the server chooses itself and serves already, the version that serves. */
    readonly plannedVersion?: number;
    /** Of the balancer, 0 where no requests are sent. */
    readonly weight: number;
    readonly demandRps: number;
  }[];
}

export interface TaskRecord {
  readonly task: string;
  /** What is planned for, in req/s. */
  readonly demandRps: number;
  /** Arrivals at all servers in the last period, in req/s. */
  readonly arrivalRps?: number;
  /** More than its servers can carry by the plan, in req/s. */
  readonly unservedRps?: number;
  /** Latency objective. */
  readonly sloMs?: number;
  /** Servers that are wanted for it. */
  readonly replicas?: number;
  /** Servers that are up and serve it. */
  readonly hosts?: number;
  /** Mean accuracy on test data of what serves, by the requests that each server gets; absent: nothing serves. */
  readonly servedAccuracy?: number;
  /** The same of what is planned. */
  readonly plannedAccuracy?: number;
  /** What is remembered of demand; see `policy/work-mdp/forecast.ts`. */
  readonly levelRps?: number;
  readonly deviationRps?: number;
}

export interface FleetDecision {
  readonly atMs: number;
  readonly kind: 'plan' | 'begin' | 'done' | 'failed' | 'server' | 'balancer' | 'members' | 'override';
  readonly server?: string;
  readonly task?: string;
  /** What and why, a sentence. */
  readonly text: string;
}

/** Writes it whole: a reader finds the one before or this one. @throws BonsaiError `unwritable_path` */
export async function writeFleetRecord(path: string, record: FleetRecord): Promise<void> {
  try {
    await replaceFile(path, Buffer.from(JSON.stringify(record)));
  } catch (cause) {
    throw new BonsaiError(
      'unwritable_path',
      `The state file ${path} cannot be written: ${systemReason(cause)}.`,
      { cause },
    );
  }
}

/**
 * @returns undefined where there is none
 * @throws BonsaiError `corrupt_checkpoint` for a record that is empty or cut off, `invalid_config` for a file that is none, or of a
 *   later layout
 */
export async function readFleetRecord(path: string): Promise<FleetRecord | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (systemCodeOf(cause) === 'ENOENT') return undefined;
    throw new BonsaiError(
      'invalid_config',
      `The state file ${path} cannot be read: ${systemReason(cause)}.`,
      {
        cause,
      },
    );
  }
  let value: Partial<FleetRecord> | null;
  try {
    value = JSON.parse(text);
  } catch {
    value = null;
  }
  if (value === null && /^(\{"schemaVersion":.*)?\0*$/s.test(text.trim())) {
    throw new BonsaiError('corrupt_checkpoint', `The state file ${path} is empty or cut off.`);
  }
  if (value === null || !Number.isInteger(value.schemaVersion) || !Array.isArray(value.servers)) {
    throw new BonsaiError(
      'invalid_config',
      `${path} is no state of a fleet. Choose another state file, or remove it: then the orchestrator starts afresh.`,
    );
  }
  if (value.schemaVersion! > FLEET_RECORD_SCHEMA_VERSION) {
    throw new BonsaiError(
      'invalid_config',
      `${path} has layout ${value.schemaVersion}, this Bonsai knows ${FLEET_RECORD_SCHEMA_VERSION}. Use a newer Bonsai.`,
    );
  }
  return value as FleetRecord; // Written by our own.
}
