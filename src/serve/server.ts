import type { IncomingMessage, Server } from 'node:http';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';
import { Server as TlsServer } from 'node:tls';
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import type { Clock } from '../base/clock.ts';
import { InvalidArgumentError, messageOf } from '../base/errors.ts';
import { describeTarget } from '../engine/target.ts';
import { folderStore, type TaskStore } from '../repository/task-store.ts';
import { type Review, reviewedPlane } from './cloud/reviewed-plane.ts';
import { ServerControl } from './control/server-control.ts';
import { ServerOverrides } from './control/server-overrides.ts';
import { slotsOf } from './cpu-budget.ts';
import { CpuGovernor, processCpuMs, processMeter } from './cpu-governor.ts';
import { DataPlane } from './data-plane.ts';
import { dispatchFailureLog } from './dispatch-failures.ts';
import { NothingServedError } from './errors.ts';
import { createGrpcServer } from './grpc/server.ts';
import { IdleCollector } from './idle-collector.ts';
import { DEFAULT_LIMITS, type Limits } from './limits.ts';
import {
  DEFAULT_GRPC_PORT,
  DEFAULT_HOST,
  DEFAULT_HTTP_PORT,
  DEFAULT_METRICS_PORT,
  listen,
  listenForControl,
} from './listen.ts';
import { Loader } from './loader.ts';
import { guardMemory } from './memory-guard.ts';
import { createMetrics } from './metrics.ts';
import { ModelMesh, type ModelMeshOptions } from './model-mesh.ts';
import { type InitialVersions, type ModelControl, ModelRegistry } from './model-registry.ts';
import { warmPath } from './path-warm-up.ts';
import { pinProcess } from './pinning.ts';
import { createRestServer } from './rest/server.ts';
import type { TlsIdentity } from './safety/tls.ts';
import { Access, type Tokens } from './safety/tokens.ts';

export interface ServerOptions {
  /** The model repository, or its path. */
  readonly repository: string | TaskStore;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Default 127.0.0.1. Any other than a loopback address needs `adminToken`. */
  readonly host?: string;
  /** 0: any free port. */
  readonly httpPort?: number;
  /** Port of the gRPC service; 0: any free one. Undefined: no gRPC. */
  readonly grpcPort?: number;
  /** 0: any free port. */
  readonly metricsPort?: number;
  /** Port of the live page; 0: any free one; `default`: `DEFAULT_CONTROL_PORT` or, where that is in use, any free one. Undefined: none. */
  readonly controlPort?: number | 'default';
  /** The CPUs that the server may use, e.g. [0]; it is pinned to them where the system allows. Undefined: not pinned. */
  readonly cpus?: readonly number[];
  /** Inferences at a time. Default: as many as the budget of CPUs has room for with that many threads each. */
  readonly slots?: number;
  /** Threads of one inference, where a model's configuration says nothing else. Default 1. */
  readonly threads?: number;
  /** CPUs that count as given, possibly a fraction. Default: as many as `cpus` names, else as there are slots. */
  readonly cpuBudgetCores?: number;
  /**
   * CPUs' worth of time that the whole process is held to, possibly a fraction: no inference starts while more has been
   * used. Undefined: not held.
   */
  readonly cpuQuotaCores?: number;
  /** Default `largest`. */
  readonly initialVersions?: InitialVersions;
  readonly limits?: Partial<Limits>;
  /** Bearer tokens of clients and administrators. Default: nobody is asked for one. */
  readonly tokens?: Tokens;
  /** Bearer token for loading and unloading; short for `tokens` with that one of administration. */
  readonly adminToken?: string;
  /** Undefined: plain HTTP. */
  readonly tls?: TlsIdentity;
  /** Offers ModelMesh's service `mmesh.ModelRuntime` over gRPC; needs `modelControl` explicit. */
  readonly modelMesh?: ModelMeshOptions;
  /** Default `explicit`. */
  readonly modelControl?: ModelControl;
  /** What is loaded at the start; undefined: every task of the repository. */
  readonly loadModels?: readonly string[];
  /** How often the repository is looked at, where `modelControl` is `poll`. */
  readonly pollIntervalMs?: number;
  /** Not ready as long as any version that should serve does not. Default false: ready once the loads were tried. */
  readonly isReadinessStrict?: boolean;
  /** Refuses to start if nothing of what is to be loaded can be; by default such a server waits for loads. */
  readonly mustServe?: boolean;
  /** Sees each answer before it goes out. */
  readonly review?: Review;
  /** More of the metrics page, in Prometheus' text format: of what runs beside the server in this process. */
  readonly moreMetrics?: () => string;
  /** Writes a line for each REST request to the log. Default false. */
  readonly logsRequests?: boolean;
  /**
   * Networks whose inference is measured to be shorter than this when they are loaded run in the thread that has the
   * sockets, which saves two hand-offs between threads for each request; 0: each network has threads of its own. Default:
   * `inlineBelowDefaults`.
   */
  readonly inlineBelowMs?: number;
  /** Sends requests through each protocol before the server is ready, so that the first ones are not slow. Default true. */
  readonly warmsPath?: boolean;
  /** Whether thread priorities may be raised; default: as the system says. */
  readonly isPrivileged?: boolean;
}

export interface RunningServer {
  readonly httpUrl: string;
  /** HOST:PORT of the gRPC service, where it is offered. */
  readonly grpcAddress?: string;
  readonly metricsUrl: string;
  readonly ports: {
    readonly http: number;
    readonly grpc?: number;
    readonly metrics: number;
    readonly control?: number;
  };
  /** Of the live page, where it is offered. */
  readonly controlUrl?: string;
  /** What the live page shows beyond the server itself: a policy in the same process tells its decisions here. */
  readonly control?: ServerControl;
  /** What people have set for single tasks; a policy in the same process heeds it. */
  readonly overrides: ServerOverrides;
  /** The served models, for those who run the server in their own process. */
  readonly models: ModelRegistry;
  /** Where requests are queued and dispatched: a policy in the same process puts its dispatch and its plans here. */
  readonly plane: DataPlane;
  /** Decides who may do what; its tokens can be replaced while the server runs. */
  readonly access: Access;
  /** Shows another certificate to the connections to come. Does nothing without TLS. */
  setTls(identity: TlsIdentity): void;
  /** Refuses new requests, answers those taken in, then stops. Further calls wait for the first. */
  close(): Promise<void>;
}

/** For `inlineBelowMs`. */
export const inlineBelowDefaults = {
  /** One inference at a time: while it runs nobody else would get the CPU, and refusals can wait so long. */
  oneSlotMs: 5,
  /** Inferences in the one thread that has the sockets take turns, so only those that are short against a hand-off. */
  manySlotsMs: 0.1,
} as const;

/**
 * Starts the inference server with all tasks of the repository loaded.
 * @throws BonsaiError `port_in_use`, `missing_file` (no repository), `invalid_argument`; nothing stays behind
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { logger, clock } = options;
  const limits: Limits = { ...DEFAULT_LIMITS, ...options.limits };
  const host = options.host ?? DEFAULT_HOST;
  const threads = options.threads ?? 1;
  const quotaCores = options.cpuQuotaCores;
  const givenCores = options.cpuBudgetCores ?? quotaCores ?? options.cpus?.length;
  // Of a quota, unlike of CPUs, the fraction can be used: by one slot more, of which all rest a little.
  const slots =
    options.slots ??
    slotsOf(quotaCores === undefined ? (givenCores ?? threads) : Math.ceil(quotaCores), threads);
  const budgetCores = givenCores ?? slots * threads;
  const { adminToken } = options;
  const access = new Access(
    options.tokens ?? (adminToken === undefined ? {} : { administration: [adminToken] }),
  );
  checkOptions(access, host, slots, quotaCores);

  // Less than an inference could use, which the system sees to: some requests are quick, and many are not.
  const heldCores = quotaCores ?? (budgetCores < threads ? budgetCores : undefined);
  const holder = quotaCores === undefined ? 'system' : 'server';

  const pinned = options.cpus === undefined ? undefined : await pinProcess(options.cpus);
  if (pinned !== undefined && 'problem' in pinned) logger.warn(pinned.problem);
  const unpin = async () => {
    if (pinned !== undefined && 'unpin' in pinned) await pinned.unpin();
  };

  const loader = new Loader({
    spareCount: slots,
    logger,
    clock,
    isPrivileged: options.isPrivileged,
    ...(heldCores !== undefined && holder === 'system' && { processCpuMs }),
    inlineBelowMs:
      options.inlineBelowMs ??
      (slots === 1 ? inlineBelowDefaults.oneSlotMs : inlineBelowDefaults.manySlotsMs),
  });
  const governor =
    heldCores === undefined
      ? undefined
      : new CpuGovernor({
          ...{ quotaCores: heldCores, slots, holder, clock },
          meter: processMeter(() => loader.cpuMs),
        });
  const plane = new DataPlane({
    slots,
    limits,
    clock,
    governor,
    onDispatchFailure: dispatchFailureLog(logger, () => clock.nowMs()),
  });
  const { repository } = options;
  const store = typeof repository === 'string' ? folderStore(repository) : repository;
  const models = new ModelRegistry({
    store,
    slots,
    threads,
    loader,
    logger,
    clock,
    maxResidentVersions: limits.maxResidentVersions,
    control: options.modelControl,
    onChange: () => plane.refresh(),
    onReleased: () => collector.released(),
  });
  const collector = new IdleCollector(() => {
    if (!plane.isIdle) return undefined;
    return [...models.models.values()].reduce((count, { arrivals }) => count + arrivals.accepted, 0);
  });
  let isReady = false;
  const context = {
    models,
    mesh: options.modelMesh && new ModelMesh(models, slots, options.modelMesh),
    plane: options.review === undefined ? plane : reviewedPlane(plane, options.review, clock),
    limits,
    slots,
    target: describeTarget({
      cpus: budgetCores,
      isPinned: pinned !== undefined && 'unpin' in pinned,
    }),
    logger,
    clock,
    access,
    tls: options.tls,
    logsRequests: options.logsRequests,
    handling: new Map<IncomingMessage, Promise<void>>(),
    isReady: () => isReady && !(options.isReadinessStrict ? models.isDegraded : models.isReviving),
  };
  const rest = createRestServer(context);
  const grpc = options.grpcPort === undefined ? undefined : createGrpcServer(context);
  for (const listener of [rest, grpc?.server]) listener?.on('connection', () => plane.noteConnection());
  const overrides = new ServerOverrides(models, plane);
  const registry = createMetrics({
    models,
    plane,
    slots,
    cpuBudgetCores: budgetCores,
    policy: () => overrides.followedBy,
  });
  const metrics = createMetricsServer(registry, limits, options);

  const stopGuard =
    limits.maxMemoryBytes === undefined
      ? () => undefined
      : guardMemory({
          limitBytes: limits.maxMemoryBytes,
          versions: () => [...models.models.values()].flatMap((model) => model.liveVersions),
          residentBytes: () => process.memoryUsage.rss(),
          nowMs: () => clock.nowMs(),
          logger,
        });

  let control: ServerControl | undefined;
  let stopPolling = () => {};
  const stop = async () => {
    stopPolling();
    stopGuard();
    collector.stop();
    control?.stop();
    await Promise.all([
      closeServer(rest),
      grpc?.close(LINGER_MS),
      closeServer(metrics),
      control && closeServer(control.server),
    ]);
    await models.close();
    await loader.close();
    await unpin();
  };
  try {
    // Ports first: a port in use shows at once, not after minutes of loading.
    const httpPort = await listen(rest, host, options.httpPort ?? DEFAULT_HTTP_PORT);
    const grpcPort =
      grpc === undefined ? undefined : await listen(grpc.server, host, options.grpcPort ?? DEFAULT_GRPC_PORT);
    const metricsPort = await listen(metrics, host, options.metricsPort ?? DEFAULT_METRICS_PORT);
    let controlPort: number | undefined;
    if (options.controlPort !== undefined) {
      control = new ServerControl({
        models,
        plane,
        overrides,
        clock,
        cpuBudgetCores: budgetCores,
        access,
        name: authorityOf(host, httpPort),
        host,
        tls: options.tls,
        onError: (thrown) => logger.error({ err: thrown }, 'the control port failed to answer'),
      });
      controlPort = await listenForControl(control.server, host, options.controlPort);
    }
    const initial = options.initialVersions ?? 'largest';
    await models.loadAll(initial, options.loadModels);
    if (options.mustServe) await checkServing(models, store.name);
    if (options.modelControl === 'poll')
      stopPolling = poll(models, initial, options.pollIntervalMs ?? DEFAULT_POLL_MS, logger);
    governor?.restart();
    if (options.warmsPath !== false)
      await warmPath({ ...context, plane }, { clock, logger, offersGrpc: grpc !== undefined });
    governor?.restart();
    isReady = true;
    let closing: Promise<void> | undefined;
    const close = async () => {
      isReady = false;
      grpc?.announceStop();
      // Balancers see that it is not ready, and requests that clients have sent already come in and are answered.
      await delay(LAME_DUCK_MS);
      rest.closeIdleConnections();
      grpc?.finishStreams();
      if (!(await plane.drain(limits.drainTimeoutMs)))
        logger.warn('some requests were not answered before the stop');
      await answersOf(context.handling, limits.drainTimeoutMs);
      await stop();
    };
    logger.info(
      { host, httpPort, grpcPort, metricsPort, controlPort, slots, isPrivileged: loader.isPrivileged },
      'server is ready',
    );
    return {
      httpUrl: urlOf(host, httpPort, options.tls),
      grpcAddress: grpcPort === undefined ? undefined : authorityOf(host, grpcPort),
      metricsUrl: `${urlOf(host, metricsPort, options.tls)}/metrics`,
      ports: { http: httpPort, grpc: grpcPort, metrics: metricsPort, control: controlPort },
      controlUrl: controlPort === undefined ? undefined : `${urlOf(host, controlPort, options.tls)}/`,
      control,
      overrides,
      models,
      plane,
      access,
      setTls: ({ cert, key }) => {
        for (const server of [rest, metrics, grpc?.server, control?.server])
          if (server instanceof TlsServer) server.setSecureContext({ cert, key });
      },
      close: () => {
        closing ??= close();
        return closing;
      },
    };
  } catch (thrown) {
    await plane.drain(0);
    await stop();
    throw thrown;
  }
}

function checkOptions(access: Access, host: string, slots: number, quotaCores: number | undefined): void {
  const isLoopback = host === 'localhost' || host === '::1' || /^127\./.test(host);
  if (!isLoopback && !access.guardsAdministration) {
    throw new InvalidArgumentError(
      `Listening on ${host} lets others load and unload networks: set an administrator's token (--admin-token-file), or use ${DEFAULT_HOST}.`,
    );
  }
  if (!Number.isInteger(slots) || slots < 1)
    throw new InvalidArgumentError(`The server needs at least one slot, got ${slots}.`);
  if (quotaCores !== undefined && !(quotaCores > 0 && Number.isFinite(quotaCores)))
    throw new InvalidArgumentError(`The CPU quota should be above 0, such as 0.5, got ${quotaCores}.`);
}

/** @throws NothingServedError if no version of any task could be loaded */
async function checkServing(models: ModelRegistry, repository: string): Promise<void> {
  const entries = await models.index();
  if (entries.some(({ state }) => state === 'READY')) return;
  throw new NothingServedError(
    repository,
    entries.map(
      ({ name, version, reason }) =>
        `${name}${version === undefined ? '' : `/${version}`}: ${reason ?? 'it was not loaded.'}`,
    ),
  );
}

/** As Triton's `--repository-poll-secs`. */
export const DEFAULT_POLL_MS = 15_000;

/** Looks at the repository again and again, one look after the other. @returns stops it */
function poll(
  models: ModelRegistry,
  initial: InitialVersions,
  intervalMs: number,
  logger: Logger,
): () => void {
  let isStopped = false;
  let timer: NodeJS.Timeout;
  const look = async () => {
    try {
      await models.poll(initial);
    } catch (thrown) {
      logger.error({ reason: messageOf(thrown) }, 'the repository cannot be polled');
    }
    if (!isStopped) wait();
  };
  const wait = () => {
    timer = setTimeout(() => void look(), intervalMs).unref();
  };
  wait();
  return () => {
    isStopped = true;
    clearTimeout(timer);
  };
}

function createMetricsServer(
  registry: Registry,
  limits: Limits,
  { tls, moreMetrics }: Pick<ServerOptions, 'tls' | 'moreMetrics'>,
): Server {
  const options = { headersTimeout: limits.headersTimeoutMs, requestTimeout: limits.requestTimeoutMs };
  const server: Server =
    tls === undefined ? createServer(options) : createTlsServer({ ...options, cert: tls.cert, key: tls.key });
  server.on('request', (request, response) => {
    const path = request.url?.split('?')[0];
    if (request.method !== 'GET' || (path !== '/metrics' && path !== '/metrics/')) {
      response.writeHead(request.method === 'GET' ? 404 : 405).end();
      return;
    }
    registry.metrics().then(
      (text) =>
        response
          .writeHead(200, { 'Content-Type': registry.contentType })
          .end(moreMetrics === undefined ? text : `${text}${moreMetrics()}`),
      (thrown: unknown) => response.writeHead(500).end(messageOf(thrown)),
    );
  });
  server.maxConnections = limits.maxConnections;
  return server;
}

/** Requests that have come whole but are with a thread that reads or writes JSON, or compresses, get their answers as well. */
async function answersOf(
  handling: ReadonlyMap<IncomingMessage, Promise<void>>,
  timeoutMs: number,
): Promise<void> {
  const answers = [...handling].filter(([request]) => request.complete).map(([, answered]) => answered);
  if (answers.length > 0)
    await Promise.race([Promise.all(answers), delay(timeoutMs, undefined, { ref: false })]);
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    if (!server.listening) {
      resolve();
      return;
    }
    server.close(() => resolve());
    server.closeIdleConnections();
    // Answers have been given; who still holds a connection is not waiting for one.
    setTimeout(() => server.closeAllConnections(), LINGER_MS).unref();
  });
}

/** How long a stopping server goes on taking requests, so that none is cut off between a client's send and its own reading. */
export const LAME_DUCK_MS = 50;

/** Time for the last answers to leave before connections are cut. */
export const LINGER_MS = 100;

function urlOf(host: string, port: number, tls: TlsIdentity | undefined): string {
  return `http${tls === undefined ? '' : 's'}://${authorityOf(host, port)}`;
}

function authorityOf(host: string, port: number): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}
