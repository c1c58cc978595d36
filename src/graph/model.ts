import type { DType } from '../base/dtype.ts';
import type { Tensor } from '../base/tensor.ts';

/**
 * The ONNX graph in memory. All records are immutable data: an edit makes new records and shares what it
 * left alone, weights above all. Values are known by name, as in ONNX; '' stands for an absent optional input
 * or an unused output.
 */
export interface Model {
  readonly irVersion: number;
  readonly opsets: readonly OpsetImport[];
  readonly graph: Graph;
  readonly metadata: ReadonlyMap<string, string>;
  readonly producerName: string;
  readonly producerVersion: string;
  readonly domain: string;
  readonly modelVersion: bigint;
  readonly docString: string;
  /** What Bonsai does not interpret (functions, training info, unknown fields), kept for a lossless round trip. */
  readonly opaque?: Opaque;
}

export interface OpsetImport {
  /** '' is the standard domain `ai.onnx`. */
  readonly domain: string;
  readonly version: number;
}

export interface Graph {
  readonly name: string;
  /** In topological order. */
  readonly nodes: readonly Node[];
  /** The values that callers feed. Older files list initialisers here as well; reading takes those out. */
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly initializers: ReadonlyMap<string, Tensor>;
  /** Types of intermediate values where the file tells them; never trusted after an edit. */
  readonly valueInfos: ReadonlyMap<string, ValueInfo>;
  readonly docString: string;
  readonly opaque?: Opaque;
}

export interface Node {
  readonly name: string;
  readonly opType: string;
  /** '' is the standard domain. */
  readonly domain: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, Attribute>;
  readonly docString: string;
  readonly opaque?: Opaque;
}

export type Attribute =
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'int'; readonly value: bigint }
  | { readonly kind: 'string'; readonly value: Uint8Array }
  | { readonly kind: 'tensor'; readonly value: Tensor }
  | { readonly kind: 'graph'; readonly value: Graph }
  | { readonly kind: 'floats'; readonly value: readonly number[] }
  | { readonly kind: 'ints'; readonly value: readonly bigint[] }
  | { readonly kind: 'strings'; readonly value: readonly Uint8Array[] }
  | { readonly kind: 'tensors'; readonly value: readonly Tensor[] }
  | { readonly kind: 'graphs'; readonly value: readonly Graph[] }
  /** Sparse tensors, type protos, references inside functions: carried along, not interpreted. */
  | { readonly kind: 'opaque'; readonly value: Opaque };

/** Serialised content that only `graph/onnx` can read; everybody else passes it on untouched. */
export interface Opaque {
  readonly onnx: unknown;
}

/** A size, or the name of a size that is known only at run time (batch); null where the file says nothing. */
export type Dim = number | string | null;
export type Shape = readonly Dim[];

export interface ValueType {
  readonly dtype: DType;
  /** Undefined: the rank itself is unknown. */
  readonly shape?: Shape;
}

export interface ValueInfo {
  readonly name: string;
  /** Undefined for sequences, maps and optionals, which Bonsai carries but does not compute on. */
  readonly type?: ValueType;
  readonly docString?: string;
  readonly opaque?: Opaque;
}

/** The version of the operator set that a model imports for a domain, or undefined. */
export function opsetOf(model: Model, domain = ''): number | undefined {
  return model.opsets.find((entry) => entry.domain === domain)?.version;
}

/** The same model around another graph. */
export function withGraph(model: Model, graph: Graph): Model {
  return { ...model, graph };
}

export function withMetadata(model: Model, entries: Readonly<Record<string, string>>): Model {
  return { ...model, metadata: new Map([...model.metadata, ...Object.entries(entries)]) };
}
