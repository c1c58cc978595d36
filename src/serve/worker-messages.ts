import type { MessagePort } from 'node:worker_threads';
import type { ErrorCode } from '../base/errors.ts';
import type { Tensor } from '../base/tensor.ts';
import type { TensorSpec } from '../repository/types.ts';
import type { Ring } from './ring.ts';

/** What the threads tell each other beside the ring. */
export type ToWorker = RehearseCommand | LoadCommand | { readonly kind: 'stop' };

/** Inputs and outputs as a network's own file says them. */
export interface DeclaredSpecs {
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
}

interface NetworkFile {
  readonly modelPath: string;
  /** SHA-256 that the file must have; undefined for files without a manifest. */
  readonly digest?: string;
}

/** Optimise a network, measure it, and let it go again. */
export interface RehearseCommand extends NetworkFile {
  readonly kind: 'rehearse';
  /** Where the optimised network is put. */
  readonly optimizedPath: string;
}

export interface LoadCommand extends NetworkFile {
  readonly kind: 'load';
  /** The file was optimised here by ONNX Runtime already. */
  readonly isOptimized: boolean;
  /** Of an optimised file: what the original one says; the batch may have been opened since. */
  readonly declared?: DeclaredSpecs;
  readonly intraOpThreads: number;
  /** For tensors that do not fit the ring. */
  readonly port?: MessagePort;
}

export type FromWorker =
  | { readonly kind: 'started'; readonly threadId: number | undefined; readonly isLowPriority: boolean }
  | { readonly kind: 'booted' }
  | { readonly kind: 'loaded'; readonly report: LoadReport }
  | { readonly kind: 'rehearsed'; readonly report: NetworkReport }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string }
  | 0;

export interface NetworkReport extends DeclaredSpecs {
  readonly loadMs: number;
  /** Time of the fastest warm-up inference (the thread may have been pushed aside during others); undefined if the input's shape is too open to make one up. */
  readonly serviceMs: number | undefined;
  /** Time of one run over `batchRows` examples; undefined unless examples computed together are known not to mix. */
  readonly batchMs: number | undefined;
  readonly batchRows: number;
  /** By how much the resident memory of the process grew while the network was loaded and warmed; at least its file. */
  readonly memoryBytes: number;
}

export interface LoadReport extends NetworkReport {
  readonly ring: Ring;
}

/** Payload on the port, in both directions, for one count of the ring. */
export interface Parcel {
  readonly sequence: number;
  readonly tensors?: readonly Tensor[];
  readonly failure?: { readonly code: ErrorCode; readonly message: string };
}
