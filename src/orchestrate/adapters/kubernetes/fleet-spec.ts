import type { Policy } from '../../../policy/policy.ts';
import type { FleetMembers } from '../../fleet/members.ts';
import type { Pod } from './pods.ts';
import type { KubernetesObject } from './resources.ts';

/** Servers of one kind that the controller makes. */
export interface PoolSpec {
  readonly name: string;
  /** Undefined: an autoscaler decides. */
  readonly replicas?: number;
  /** Cores given to each server. */
  readonly cpus: number;
  /** That networks may take in each server. */
  readonly memoryBytes: number;
  readonly weight?: number;
  /** Fingerprint of the profiles that hold there. */
  readonly target?: string;
  readonly nodeSelector?: Readonly<Record<string, string>>;
  readonly tolerations?: readonly Readonly<Record<string, unknown>>[];
}

/** What a Fleet asks for, checked. */
export interface FleetSpec {
  readonly runtime: 'bonsai' | 'kserve';
  readonly image: string;
  /** Below the volume of models; '' for the volume itself. */
  readonly repository: string;
  /** Of the models, a volume source of Kubernetes. */
  readonly volume: Readonly<Record<string, unknown>>;
  /** With the administration token, under the key `token`. */
  readonly tokenSecret: string;
  /** With the certificate and key of the servers in pools, under `tls.crt` and `tls.key`; undefined: they speak without TLS. */
  readonly tlsSecret?: string;
  readonly pools: readonly PoolSpec[];
  readonly policy: Policy | undefined;
  readonly utilization: number | undefined;
  readonly periodMs: number;
}

/** What resources mean; the command line knows the fields, as those of a fleet's file. */
export interface FleetReader {
  /** @throws BonsaiError `invalid_config` naming the field, `unknown_policy` */
  read(fleet: KubernetesObject): FleetSpec;
  /**
   * The fleet with the servers of its pools. Tasks that cannot be served as they are written are left out.
   * @returns also why, by the key of each such Task
   * @throws BonsaiError `invalid_config` naming the resource and field, `corrupt_repository`, `missing_file`
   */
  members(
    fleet: KubernetesObject,
    tasks: readonly KubernetesObject[],
    pods: readonly Pod[],
  ): Promise<{ readonly members: FleetMembers; readonly refused: ReadonlyMap<string, string> }>;
  /** The name by which clients call the task. */
  taskName(task: KubernetesObject): string;
}
