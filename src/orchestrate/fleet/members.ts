import type { PlacementTask } from '../../policy/placement/placement.ts';
import type { TaskObjective } from '../../policy/policy.ts';
import { profileOf, requestCpuMs, type TaskManifest, type Variant } from '../../repository/types.ts';
import type { ServerAdapter } from '../server-adapter.ts';
import { type TaskOverride, type WatchedTask, watchedTasks } from '../watch.ts';

/** Who belongs to a fleet, as its file says; see `cli/fleet-file.ts`. */
export interface FleetMembers {
  readonly servers: readonly FleetServer[];
  readonly tasks: readonly FleetTask[];
}

export interface FleetServer {
  readonly name: string;
  /** Tells one server from another under the same name; a change means that it is connected to anew. */
  readonly identity: string;
  /** Makes the adapter, of that name. Whoever calls it closes it. */
  connect(): ServerAdapter;
  /** HOST:PORT of the Open Inference Protocol over HTTP. */
  readonly http: string;
  /** HOST:PORT of its gRPC service. */
  readonly grpc?: string;
  /** Cores given to inference; undefined: what the server itself says. */
  readonly cpus?: number;
  readonly memoryBytes?: number;
  readonly weight: number;
  readonly target?: string;
  /** False for servers without the repository extension. */
  readonly canLoad: boolean;
}

export interface FleetTask {
  readonly manifest: TaskManifest;
  readonly objective: TaskObjective;
  /** On so many servers, where there are that many. */
  readonly replicas: number;
  /** Where it may run; undefined: anywhere. */
  readonly servers?: readonly string[];
}

/**
 * A version whose inference takes more of the objective than this is not used: requests also wait, and at the
 * utilizations that plans fill, one in a hundred waits for some inferences before it.
 */
export const MOST_OF_OBJECTIVE = 1 / 3;

/** Where nobody measured it: the weights, once as they lie in the file and once prepared, and room to compute. */
export const MEMORY_PER_FILE_BYTE = 3;

/** The tasks as loops over single servers know them. */
export function watchedTasksOf(tasks: readonly FleetTask[]): WatchedTask[] {
  const byTask = Object.fromEntries(tasks.map(({ manifest, objective }) => [manifest.task, objective]));
  return watchedTasks({ tasks: tasks.map(({ manifest }) => manifest), byTask });
}

/**
 * A task as the planner knows it. Versions without a profile are left out: nobody knows what they cost.
 * @param byHand counts more than what the task was described with; a pin to a version without profile is none
 */
export function placementTaskOf(
  { replicas, servers }: FleetTask,
  { task, weight, sloMs: describedSloMs, frontier, variants }: WatchedTask,
  demandRps: number,
  byHand: TaskOverride = {},
): PlacementTask {
  const sloMs = byHand.sloMs ?? describedSloMs;
  const best = frontier[0]?.accuracy.test ?? 0;
  const profiled = frontier.filter(hasProfile);
  const quick = profiled.filter((variant) => isQuick(variant, sloMs));
  const usable = quick.length > 0 ? quick : profiled.slice(-1);
  const pinned = variants.find((variant) => variant.version === byHand.version && hasProfile(variant));
  const chosen =
    pinned === undefined || usable.includes(pinned)
      ? usable
      : [...usable, pinned].sort((a, b) => b.accuracy.test - a.accuracy.test);
  return {
    task,
    weight,
    demandRps,
    replicas,
    servers,
    pinnedVersion: pinned?.version,
    versions: chosen.map((variant) => ({
      version: variant.version,
      normalisedAccuracy: best > 0 ? variant.accuracy.test / best : 1,
      cpuSeconds: cpuSecondsOf(variant)!,
      cpuSecondsOn: Object.fromEntries(
        Object.keys(variant.profiles).flatMap((fingerprint) => {
          const seconds = cpuSecondsOf(variant, fingerprint);
          return seconds === undefined ? [] : [[fingerprint, seconds]];
        }),
      ),
      memoryBytes: profileOf(variant)!.memoryBytes ?? MEMORY_PER_FILE_BYTE * variant.sizeBytes,
    })),
  };
}

/** Whether every version takes longer than is used of an objective, so that the quickest has to do. */
export function isTooSlow({ sloMs, frontier }: WatchedTask, byHand: TaskOverride = {}): boolean {
  const profiled = frontier.filter(hasProfile);
  return profiled.length > 0 && !profiled.some((variant) => isQuick(variant, byHand.sloMs ?? sloMs));
}

function hasProfile(variant: Variant): boolean {
  return (profileOf(variant)?.throughputRps.median ?? 0) > 0;
}

/** Of a variant with a profile. */
function isQuick(variant: Variant, sloMs: number): boolean {
  return profileOf(variant)!.latencyMs.median <= MOST_OF_OBJECTIVE * sloMs;
}

/** CPU seconds of one request, the server's own work included. */
function cpuSecondsOf(variant: Variant, fingerprint?: string): number | undefined {
  const profile = profileOf(variant, fingerprint);
  if (profile === undefined || !(profile.throughputRps.median > 0)) return undefined;
  return requestCpuMs(profile) / 1000;
}
