/** What keeps every part of the server bounded. All can be set by the one who starts it. */
export interface Limits {
  readonly maxBodyBytes: number;
  readonly maxQueueLength: number;
  readonly maxQueueWaitMs: number;
  /** Latency objective of requests that name none: what cannot be answered within it is refused. Undefined: none. */
  readonly maxLatencyMs?: number;
  readonly maxConnections: number;
  readonly maxResidentVersions: number;
  readonly headersTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly keepAliveTimeoutMs: number;
  readonly drainTimeoutMs: number;
  readonly maxJsonDepth: number;
}

export const DEFAULT_LIMITS: Limits = {
  /** As Triton's `--http-max-input-size`; also bounds a body after decompression. */
  maxBodyBytes: 64 * 1024 * 1024,
  /** Bounds memory only: at a millisecond an inference the wait limit below refuses first. */
  maxQueueLength: 1024,
  /** An answer later than this is of no use to a real-time client; shorter waits are asked for per request. */
  maxQueueWaitMs: 1000,
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
};
