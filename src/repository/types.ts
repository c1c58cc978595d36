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
}

/** What was measured of one variant on one target. */
export interface Profile {
  readonly target: Target;
  readonly measuredAt: string;
  /** Single inferences by ONNX Runtime alone, one thread, batch 1. */
  readonly latencyMs: Measurement;
  /** Maximal throughput through the server's own protocol, requests per second, over repeated measurements. */
  readonly throughputRps: Measurement;
  /** Concurrency at which throughput stopped rising. */
  readonly concurrency: number;
  readonly loadMs?: number;
  readonly memoryBytes?: number;
}

export interface Measurement {
  readonly count: number;
  readonly mean: number;
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly p99?: number;
}

/** What a variant costs: seconds per inference at saturation, seconds of latency, or multiply-accumulates. */
export type CostMetric = 'inverseThroughput' | 'latency' | 'flops';

/**
 * The cost of a variant, lower is cheaper; undefined where the variant has no profile for the target.
 * @param fingerprint a target; by default the only or the most recent profile
 */
export function costOf(variant: Variant, metric: CostMetric, fingerprint?: string): number | undefined {
  if (metric === 'flops') return variant.macs;
  const profile = profileOf(variant, fingerprint);
  if (profile === undefined) return undefined;
  return metric === 'latency' ? profile.latencyMs.median / 1000 : 1 / profile.throughputRps.median;
}

/** The profile for a target, or the most recent one. */
export function profileOf(variant: Variant, fingerprint?: string): Profile | undefined {
  if (fingerprint !== undefined) return variant.profiles[fingerprint];
  return Object.values(variant.profiles)
    .toSorted((a, b) => a.measuredAt.localeCompare(b.measuredAt))
    .at(-1);
}
