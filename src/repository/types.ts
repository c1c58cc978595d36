import type { DType } from '../base/dtype.ts';

/** The version of the layout of `bonsai.json`. Readers refuse higher ones by name. */
export const MANIFEST_SCHEMA_VERSION = 1;

/** What `<task>/bonsai.json` holds: everything known about a task's family beyond the networks themselves. */
export interface TaskManifest {
  readonly schemaVersion: number;
  /** The task's name, which is the model's name for clients. */
  readonly task: string;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  /** Names of the classes in the order of the output's scores, where the task is a classification. */
  readonly classes?: readonly string[];
  /** Latency objective in ms that policies aim at by default. */
  readonly sloMs?: number;
  /** Ascending by version; 1 is the most accurate. */
  readonly variants: readonly Variant[];
}

export interface TensorSpec {
  readonly name: string;
  readonly dtype: DType;
  /** -1: any size (batch). */
  readonly shape: readonly number[];
}

/** One network of a family. Immutable: another network is another variant. */
export interface Variant {
  /** A positive integer, the name of its folder. */
  readonly version: number;
  /** SHA-256 of `model.onnx`, lower-case hexadecimal. */
  readonly digest: string;
  readonly sizeBytes: number;
  /** Shares in [0, 1] of right answers on the data split; the test figure is what frontiers and reports use. */
  readonly accuracy: { readonly validation?: number; readonly test: number; readonly testCount: number };
  /** Multiply-accumulates of one inference at batch 1. */
  readonly macs: number;
  readonly parameters: number;
  readonly lineage: Lineage;
  /** By target fingerprint (`Target.fingerprint`). */
  readonly profiles: Readonly<Record<string, Profile>>;
}

/** How a variant came to be. */
export interface Lineage {
  /** Digest of the network that it was derived from; absent for the base. */
  readonly parent?: string;
  readonly backbone?: string;
  readonly dataset?: string;
  readonly seed?: number;
  readonly epochs?: number;
  readonly pruning?: {
    readonly criterion: string;
    readonly scope: string;
    /** Share of channels removed from each group, relative to the base. */
    readonly ratio: number;
    readonly align: number;
    /** What the widths were searched for, such as `throughput=40/s`; absent where a ratio was given. */
    readonly goal?: string;
  };
  /** Present where fine-tuning also followed another network's answers. */
  readonly distillation?: {
    /** Digest of the network that was followed. */
    readonly teacher: string;
    readonly temperature: number;
    readonly weight: number;
  };
  /** Present where the network computes in 8-bit integers. */
  readonly quantization?: {
    /** How ranges were found. */
    readonly method: string;
    /** Training examples that they were found on. */
    readonly samples: number;
  };
}

/** A piece of hardware with a CPU budget, on which variants are profiled. */
export interface Target {
  /** Hash of the fields below: profiles of one fingerprint compare with each other. */
  readonly fingerprint: string;
  readonly cpuModel: string;
  readonly architecture: string;
  /** CPUs given to the server. */
  readonly cpus: number;
  readonly runtime: string;
  readonly runtimeVersion: string;
  /** The server is not bound to its CPUs, so it may use others for its sockets. */
  readonly unpinned?: true;
  /** Of a server that does not describe its machine: the machine's name, and what its owner calls it. */
  readonly host?: string;
  readonly name?: string;
}

/** What was measured of one variant on one target. */
export interface Profile {
  readonly target: Target;
  readonly measuredAt: string;
  /** Single inferences one after the other, batch 1; by ONNX Runtime alone on one thread, unless `latencySource` says otherwise. */
  readonly latencyMs: Measurement;
  /**
   * `engine` (also where absent): ONNX Runtime in the profiler; `server`: the time of computing that a remote server
   * counts for each request; `network`: whole requests over the network, from a server that counts nothing.
   */
  readonly latencySource?: 'engine' | 'server' | 'network';
  /** Maximal throughput through the server's own protocol, requests per second, over repeated measurements. */
  readonly throughputRps: Measurement;
  /** Concurrency at which throughput stopped rising. */
  readonly concurrency: number;
  /** The throughput kept varying between repetitions by more than a profile that can be trusted does. */
  readonly noisy?: true;
  /**
   * Throughput with two requests under way for each CPU, requests per second: one is computed, the next one waits, and
   * none is joined with others into a batch. What a request costs where versions and tasks take turns.
   */
  readonly unbatchedRps?: Measurement;
  /** The throughput while another model takes shares of its own maximum on the same server. */
  readonly contested?: readonly ContestedThroughput[];
  /** Median time from the wish for the variant to its readiness on the server. */
  readonly loadMs?: number;
  /** Peak growth of one inference worker's resident memory by loading and running the variant; a server has a worker per CPU. */
  readonly memoryBytes?: number;
}

/** Maximal throughput of a variant while a server answers a stream of requests for another model as well. */
export interface ContestedThroughput {
  /** The other model; its digest where the repository has it, since another network may come to bear the number. */
  readonly by: { readonly task: string; readonly version: number; readonly digest?: string };
  /** The share in (0, 1) of its own maximum that was aimed at. */
  readonly share: number;
  /** Its own maximal throughput, alone on this target. */
  readonly maximumRps: number;
  /** Its requests that really left and were really answered, per second, over all repetitions. */
  readonly offeredRps: number;
  readonly answeredRps: number;
  readonly throughputRps: Measurement;
  readonly concurrency: number;
  readonly noisy?: true;
}

export interface Measurement {
  readonly count: number;
  readonly mean: number;
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly p95?: number;
  readonly p99?: number;
  /** Of the sample. */
  readonly standardDeviation?: number;
}

/** What a variant costs: seconds per inference at saturation, seconds of latency, or multiply-accumulates. */
export const COST_METRICS = ['inverseThroughput', 'latency', 'flops'] as const;
export type CostMetric = (typeof COST_METRICS)[number];

/**
 * The cost of a variant, lower is cheaper; undefined where the variant has no profile for the target.
 * @param fingerprint a target; by default as `profileOf`
 */
export function costOf(
  variant: Omit<Variant, 'version'>,
  metric: CostMetric,
  fingerprint?: string,
): number | undefined {
  if (metric === 'flops') return variant.macs;
  const profile = profileOf(variant, fingerprint);
  if (profile === undefined) return undefined;
  return metric === 'latency' ? profile.latencyMs.median / 1000 : 1 / profile.throughputRps.median;
}

/**
 * CPU time of one request that is joined with no others, the server's own work for it included, in ms. Of a profile
 * without such a measurement, that at maximal throughput.
 */
export function requestCpuMs({ target, unbatchedRps, throughputRps }: Profile): number {
  return (1000 * target.cpus) / (unbatchedRps ?? throughputRps).median;
}

/** The profile for a target; by default the most recent one of those with the fewest CPUs, since a slot has one. */
export function profileOf(variant: Pick<Variant, 'profiles'>, fingerprint?: string): Profile | undefined {
  if (fingerprint !== undefined) return variant.profiles[fingerprint];
  return Object.values(variant.profiles)
    .toSorted((a, b) => b.target.cpus - a.target.cpus || a.measuredAt.localeCompare(b.measuredAt))
    .at(-1);
}
