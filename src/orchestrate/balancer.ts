/** Who gets a task's requests. */
export interface Routing {
  readonly tasks: readonly { readonly task: string; readonly servers: readonly RoutedServer[] }[];
  /** For requests about no task (health, metadata of the server): those that are up, or all where none is. */
  readonly all: readonly RoutedServer[];
}

export interface RoutedServer {
  readonly name: string;
  /** HOST:PORT of the Open Inference Protocol over HTTP. */
  readonly http: string;
  /** HOST:PORT of its gRPC service, where it has one. */
  readonly grpc?: string;
  /** 1 to 100. */
  readonly weight: number;
}

/** What splits requests among servers. */
export interface Balancer {
  /** How long after `apply` some requests may still go by the routing before. */
  readonly staleMs: number;
  /**
   * Routes by this from now on; resolves when new requests are. What is under way is not disturbed. Calls come one after
   * another.
   * @throws BonsaiError `unsupported` (the program is missing), `invalid_config` (it refuses the configuration),
   * `port_in_use`, `unwritable_path`, `server_unreachable` (it does not answer)
   */
  apply(routing: Routing, signal: AbortSignal): Promise<void>;
  /** Whether it runs. */
  isRunning(): Promise<boolean>;
}
