import { Agent, createServer, type IncomingMessage, type ServerResponse, request as send } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Logger } from 'pino';
import type { Clock } from '../../base/clock.ts';
import { BonsaiError, InvalidArgumentError, messageOf, systemCodeOf } from '../../base/errors.ts';
import { ModelNotFoundError, VersionNotFoundError } from '../../repository/errors.ts';
import { listTasks, readTask, type StoredVersion } from '../../repository/store.ts';
import { NotReadyError } from '../errors.ts';
import { HttpError, statusOf } from './errors.ts';
import { routeOf } from './routes.ts';

/** A server of one version in a process of its own. */
export interface ModelProcess {
  readonly httpUrl: string;
  /** Resolves when it has ended, for whatever reason. */
  readonly exited: Promise<void>;
  close(): Promise<void>;
}

export interface ProcessProxyOptions {
  readonly repository: string;
  readonly logger: Logger;
  readonly clock: Clock;
  readonly host: string;
  /** 0: any free port. */
  readonly httpPort: number;
  /** Starts the process of a version and waits until it is ready. */
  readonly startProcess: (task: string, version: number) => Promise<ModelProcess>;
}

export interface ProcessProxy {
  readonly httpUrl: string;
  close(): Promise<void>;
}

/** Connections to one process; the queue is that of its server. */
const MAX_CONNECTIONS_PER_PROCESS = 256;

/**
 * The baseline that serving many versions in one process is to be compared with: one process for each version, started
 * when its first request comes (which waits for it), behind a proxy. Source: INFaaS as the thesis, 5.2.3, describes it.
 * Only what experiments need is served: REST, without loads, authentication or statistics over all models.
 * @throws BonsaiError `port_in_use`, InvalidArgumentError
 */
export async function startProcessProxy(options: ProcessProxyOptions): Promise<ProcessProxy> {
  const { repository, logger, host, httpPort } = options;
  // Experiments do not change their repository, and to read it for each request would be charged to the processes.
  const tasks = new Map<string, readonly StoredVersion[]>();
  for (const task of await listTasks(repository))
    tasks.set(task, (await readTask(repository, task)).versions);
  const processes = new ProcessTable(options, tasks);
  const agent = new Agent({ keepAlive: true, maxSockets: MAX_CONNECTIONS_PER_PROCESS });
  const server = createServer({ noDelay: true }, (request, response) => {
    handle(request, response).catch((thrown: unknown) => {
      const { status, message } = statusOf(thrown);
      if (status === 500) logger.error({ err: thrown, url: request.url }, 'request failed');
      if (response.headersSent) response.destroy();
      else answer(response, status, { error: message });
    });
  });

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const route = routeOf(request.method, request.url ?? '');
    switch (route.kind) {
      case 'live':
      case 'ready':
        return answer(response, 200);
      case 'index':
        request.resume();
        return answer(response, 200, processes.index());
      case 'load':
      case 'unload':
        throw new NotReadyError('each version has a process of its own, which starts with its first request');
      case 'server_metadata':
        return answer(response, 200, { name: 'bonsai', extensions: [] });
      case 'all_statistics':
        throw new HttpError(501, 'statistics are those of one model: /v2/models/NAME/versions/N/stats');
      default: {
        const version = versionOf(tasks, route.model, route.version);
        const { httpUrl } = await processes.get(route.model, version);
        forward(request, response, httpUrl, agent);
      }
    }
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      const inUse = systemCodeOf(cause) === 'EADDRINUSE';
      const message = `Cannot listen on ${host}, port ${httpPort}: ${messageOf(cause)}`;
      reject(
        inUse
          ? new BonsaiError('port_in_use', `${message}. Choose another port (0: any free one).`, { cause })
          : new InvalidArgumentError(message, { cause }),
      );
    });
    server.listen(httpPort, host, resolve);
  });
  const { port } = server.address() as AddressInfo; // It listens on TCP.
  return {
    httpUrl: `http://${host.includes(':') ? `[${host}]` : host}:${port}`,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeIdleConnections();
      await processes.close();
      server.closeAllConnections();
      agent.destroy();
      await closed;
    },
  };
}

/** The processes by task and version, each started once however many wait for it. */
class ProcessTable {
  readonly #options: ProcessProxyOptions;
  readonly #processes = new Map<string, { readonly ready: Promise<ModelProcess>; isReady: boolean }>();
  readonly #tasks: ReadonlyMap<string, readonly StoredVersion[]>;
  #isClosed = false;

  constructor(options: ProcessProxyOptions, tasks: ReadonlyMap<string, readonly StoredVersion[]>) {
    this.#options = options;
    this.#tasks = tasks;
  }

  /** @throws BonsaiError `shutting_down`; what `startProcess` throws, and then the next request tries again */
  get(task: string, version: number): Promise<ModelProcess> {
    if (this.#isClosed)
      return Promise.reject(new BonsaiError('shutting_down', 'The server is stopping; send it to another.'));
    const key = `${task}/${version}`;
    const known = this.#processes.get(key);
    if (known !== undefined) return known.ready;
    const { clock, logger, startProcess } = this.#options;
    const beginMs = clock.nowMs();
    const entry = { ready: startProcess(task, version), isReady: false };
    this.#processes.set(key, entry);
    entry.ready.then(
      ({ exited }) => {
        entry.isReady = true;
        logger.info(
          { model: task, version, startMs: Math.round(clock.nowMs() - beginMs) },
          'process of a version started',
        );
        void exited.then(() => this.#processes.delete(key));
      },
      () => this.#processes.delete(key),
    );
    return entry.ready;
  }

  /** As the repository index has it: a version is READY while its process runs. */
  index(): readonly object[] {
    return [...this.#tasks].flatMap(([name, versions]) =>
      versions.map(({ version }) => ({
        ...{ name, version: String(version) },
        ...this.#stateOf(`${name}/${version}`),
      })),
    );
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(
      [...this.#processes.values()].map(({ ready }) =>
        ready.then(
          (process) => process.close(),
          () => undefined,
        ),
      ),
    );
  }

  #stateOf(key: string): { state: string; reason?: string } {
    const entry = this.#processes.get(key);
    if (entry === undefined) return { state: 'UNAVAILABLE', reason: 'its process starts on first request' };
    return { state: entry.isReady ? 'READY' : 'LOADING' };
  }
}

/**
 * The version that a request means; where it names none, the most accurate, or the highest where accuracies are unknown.
 * @throws ModelNotFoundError, VersionNotFoundError
 */
function versionOf(
  tasks: ReadonlyMap<string, readonly StoredVersion[]>,
  task: string,
  asked: number | undefined,
): number {
  const versions = tasks.get(task);
  if (versions === undefined) throw new ModelNotFoundError(task);
  const numbers = versions.map(({ version }) => version);
  if (asked !== undefined) {
    if (numbers.includes(asked)) return asked;
    throw new VersionNotFoundError(task, asked, numbers);
  }
  const accuracyOf = ({ variant }: StoredVersion) => variant?.accuracy.test ?? 0;
  const best = versions.toSorted((a, b) => accuracyOf(b) - accuracyOf(a) || b.version - a.version)[0];
  if (best === undefined) throw new NotReadyError(`'${task}' has no version that can be served`);
  return best.version;
}

/** Hands a request on as it comes, and its answer back. */
function forward(request: IncomingMessage, response: ServerResponse, httpUrl: string, agent: Agent): void {
  const { hostname, port } = new URL(httpUrl);
  const { method, url: path, headers } = request;
  const onward = send({ agent, host: hostname, port, method, path, headers }, (reply) => {
    response.writeHead(reply.statusCode ?? 502, reply.headers);
    reply.pipe(response);
  });
  onward.on('error', (cause) => {
    if (response.headersSent) response.destroy();
    else answer(response, 503, { error: `the process of the version was lost: ${messageOf(cause)}` });
  });
  response.once('close', () => onward.destroy()); // Who has gone needs no answer.
  request.pipe(onward);
}

function answer(response: ServerResponse, status: number, value?: unknown): void {
  const body = value === undefined ? '' : JSON.stringify(value);
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(body),
  });
  response.end(body);
}
