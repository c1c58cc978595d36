import type { Server } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import type { Clock } from '../base/clock.ts';
import { BonsaiError, InvalidArgumentError, messageOf, systemCodeOf } from '../base/errors.ts';
import { describeTarget } from '../engine/target.ts';
import { DataPlane } from './data-plane.ts';
import { DEFAULT_LIMITS, type Limits } from './limits.ts';
import { Loader } from './loader.ts';
import { createMetrics } from './metrics.ts';
import { type InitialVersions, ModelRegistry } from './model-registry.ts';
import { pinProcess } from './pinning.ts';
import { createRestServer } from './rest/server.ts';

export interface ServerOptions {
  /** Path of the model repository. */
  readonly repository: string;
  readonly logger: Logger;
  readonly clock: Clock;
  /** Default 127.0.0.1. Any other than a loopback address needs `adminToken`. */
  readonly host?: string;
  /** 0: any free port. */
  readonly httpPort?: number;
  /** 0: any free port. */
  readonly metricsPort?: number;
  /** The CPUs that the server may use, e.g. [0]; it is pinned to them where the system allows. Undefined: not pinned. */
  readonly cpus?: readonly number[];
  /** Inferences at a time. Default: one per CPU given. */
  readonly slots?: number;
  /** Default `largest`. */
  readonly initialVersions?: InitialVersions;
  readonly limits?: Partial<Limits>;
  /** Bearer token for loading and unloading. */
  readonly adminToken?: string;
  /** Whether thread priorities may be raised; default: as the system says. */
  readonly isPrivileged?: boolean;
}

export interface RunningServer {
  readonly httpUrl: string;
  readonly metricsUrl: string;
  readonly ports: { readonly http: number; readonly metrics: number };
  /** The served models, for those who run the server in their own process. */
  readonly models: ModelRegistry;
  /** Refuses new requests, answers those taken in, then stops. Further calls wait for the first. */
  close(): Promise<void>;
}

/** Ports as Triton's. */
export const DEFAULT_HTTP_PORT = 8000;
export const DEFAULT_METRICS_PORT = 8002;
export const DEFAULT_HOST = '127.0.0.1';

/**
 * Starts the inference server with all tasks of the repository loaded.
 * @throws BonsaiError `port_in_use`, `missing_file` (no repository), `invalid_argument`; nothing stays behind
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { logger, clock } = options;
  const limits: Limits = { ...DEFAULT_LIMITS, ...options.limits };
  const host = options.host ?? DEFAULT_HOST;
  const slots = options.slots ?? options.cpus?.length ?? 1;
  checkOptions(options, host, slots);

  const pinned = options.cpus === undefined ? undefined : await pinProcess(options.cpus);
  if (pinned !== undefined && 'problem' in pinned) logger.warn(pinned.problem);
  const unpin = async () => {
    if (pinned !== undefined && 'unpin' in pinned) await pinned.unpin();
  };

  const loader = new Loader({ spareCount: slots, logger, isPrivileged: options.isPrivileged });
  const plane = new DataPlane({ slots, limits, clock });
  const models = new ModelRegistry({
    root: options.repository,
    slots,
    loader,
    logger,
    clock,
    maxResidentVersions: limits.maxResidentVersions,
    onChange: () => plane.dispatch(),
  });
  let isReady = false;
  const rest = createRestServer({
    models,
    plane,
    limits,
    slots,
    target: describeTarget({
      cpus: options.cpus?.length ?? slots,
      isPinned: pinned !== undefined && 'unpin' in pinned,
    }),
    logger,
    adminToken: options.adminToken,
    isReady: () => isReady,
  });
  const metrics = createMetricsServer(
    createMetrics({ models, plane, cpuBudgetCores: options.cpus?.length ?? slots }),
    limits,
  );

  const stop = async () => {
    await Promise.all([closeServer(rest), closeServer(metrics)]);
    await models.close();
    await loader.close();
    await unpin();
  };
  try {
    // Ports first: a port in use shows at once, not after minutes of loading.
    const httpPort = await listen(rest, host, options.httpPort ?? DEFAULT_HTTP_PORT);
    const metricsPort = await listen(metrics, host, options.metricsPort ?? DEFAULT_METRICS_PORT);
    await models.loadAll(options.initialVersions ?? 'largest');
    isReady = true;
    let closing: Promise<void> | undefined;
    const close = async () => {
      isReady = false;
      // Balancers see that it is not ready, and requests that clients have sent already come in and are answered.
      await delay(LAME_DUCK_MS);
      rest.closeIdleConnections();
      if (!(await plane.drain(limits.drainTimeoutMs)))
        logger.warn('some requests were not answered before the stop');
      await stop();
    };
    logger.info({ host, httpPort, metricsPort, slots, isPrivileged: loader.isPrivileged }, 'server is ready');
    return {
      httpUrl: urlOf(host, httpPort),
      metricsUrl: `${urlOf(host, metricsPort)}/metrics`,
      ports: { http: httpPort, metrics: metricsPort },
      models,
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

function checkOptions(options: ServerOptions, host: string, slots: number): void {
  const isLoopback = host === 'localhost' || host === '::1' || /^127\./.test(host);
  if (!isLoopback && options.adminToken === undefined) {
    throw new InvalidArgumentError(
      `Listening on ${host} lets others load and unload networks: set an administrator's token, or use ${DEFAULT_HOST}.`,
    );
  }
  if (!Number.isInteger(slots) || slots < 1)
    throw new InvalidArgumentError(`The server needs at least one slot, got ${slots}.`);
}

function createMetricsServer(registry: Registry, limits: Limits): Server {
  const server = createServer(
    { headersTimeout: limits.headersTimeoutMs, requestTimeout: limits.requestTimeoutMs },
    (request, response) => {
      const path = request.url?.split('?')[0];
      if (request.method !== 'GET' || (path !== '/metrics' && path !== '/metrics/')) {
        response.writeHead(request.method === 'GET' ? 404 : 405).end();
        return;
      }
      registry.metrics().then(
        (text) => response.writeHead(200, { 'Content-Type': registry.contentType }).end(text),
        (thrown: unknown) => response.writeHead(500).end(messageOf(thrown)),
      );
    },
  );
  server.maxConnections = limits.maxConnections;
  return server;
}

/** @returns the port, which may have been the system's choice */
function listen(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      if (systemCodeOf(cause) === 'EADDRINUSE') {
        const message = `Port ${port} on ${host} is in use. Stop the program that uses it or choose another port (0: any free one).`;
        reject(new BonsaiError('port_in_use', message, { cause }));
      } else {
        reject(
          new InvalidArgumentError(`Cannot listen on ${host}, port ${port}: ${messageOf(cause)}`, { cause }),
        );
      }
    });
    server.listen(port, host, () => {
      const address = server.address() as AddressInfo; // A listening TCP server has one.
      resolve(address.port);
    });
  });
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

function urlOf(host: string, port: number): string {
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
