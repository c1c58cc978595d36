/** What keeps every part of the server bounded. All can be set by the one who starts it. */
export interface Limits {
  readonly maxBodyBytes: number;
  readonly maxQueueLength: number;
  readonly maxQueueWaitMs: number;
  /** How long a request of the `batch` class may wait for idle time. */
  readonly maxBatchClassWaitMs: number;
  /** Tensor bytes of all requests that wait or run, over all protocols. */
  readonly maxInFlightBytes: number;
  /** Latency objective of requests that name none: what cannot be answered within it is refused. Undefined: none. */
  readonly maxLatencyMs?: number;
  /** Resident memory past which inference threads are replaced by fresh ones. Undefined: none. */
  readonly maxMemoryBytes?: number;
  readonly maxConnections: number;
  readonly maxResidentVersions: number;
  readonly headersTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly keepAliveTimeoutMs: number;
  readonly drainTimeoutMs: number;
  readonly maxJsonDepth: number;
  /** The JSON part of a request; what is larger belongs into binary tensors. */
  readonly maxJsonBytes: number;
  /** Of one tensor of a request after decoding. */
  readonly maxTensorBytes: number;
  /** All headers of a request together. */
  readonly maxHeaderBytes: number;
  /** Longest pause between two parts of a body. */
  readonly bodyIdleTimeoutMs: number;
  /** A connection on which nothing moves for so long is closed, also if its client does not read an answer. */
  readonly idleConnectionTimeoutMs: number;
}

export const DEFAULT_LIMITS: Limits = {
  /** As Triton's `--http-max-input-size`; also bounds a body after decompression. */
  maxBodyBytes: 64 * 1024 * 1024,
  /** Bounds memory only: at a millisecond an inference the wait limit below refuses first. */
  maxQueueLength: 1024,
  /** An answer later than this is of no use to a real-time client; shorter waits are asked for per request. */
  maxQueueWaitMs: 1000,
  /** Who sends batch work waits minutes, not hours, before it is told that there is no idle time. */
  maxBatchClassWaitMs: 60_000,
  /** Four bodies of the largest size, or 20,000 of a 12 KB image. */
  maxInFlightBytes: 256 * 1024 * 1024,
  /** Well under the usual limit of 1024 open files; a connection costs some 20 KB. */
  maxConnections: 512,
  /** Over all tasks. Each holds one thread (5 to 10 MB) per slot beside its network. */
  maxResidentVersions: 32,
  /** A client that needs more than this for its headers is not sending but holding a connection. */
  headersTimeoutMs: 10_000,
  /** 64 MiB in a minute is 9 Mbit/s. */
  requestTimeoutMs: 60_000,
  /** Longer than the usual 60 s of proxies, so that they and not the server close idle connections. */
  keepAliveTimeoutMs: 65_000,
  /** As Triton's `--exit-timeout-secs`. */
  drainTimeoutMs: 30_000,
  /** Tensors have at most 8 dimensions in practice; the envelope adds 4. */
  maxJsonDepth: 32,
  /** Some three million numbers, which are 12 MB as binary data. */
  maxJsonBytes: 32 * 1024 * 1024,
  /** As a body: only JSON unfolds, "1," to 8 bytes of FP64. */
  maxTensorBytes: 64 * 1024 * 1024,
  /** As Node.js' own default; Triton's clients send under 1 KB. */
  maxHeaderBytes: 16 * 1024,
  /** Mobile networks stall for some seconds; who pauses for longer is better off sending again. */
  bodyIdleTimeoutMs: 10_000,
  /** Longer than the longest wait for an answer, which is `maxBatchClassWaitMs`, and an inference. */
  idleConnectionTimeoutMs: 120_000,
};
