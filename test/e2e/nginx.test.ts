import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server, type ServerResponse } from 'node:http';
import {
  connect,
  createServer as createHttp2Server,
  createSecureServer as createSecureHttp2Server,
  type Http2SecureServer,
  type Http2Server,
  type Http2ServerResponse,
} from 'node:http2';
import { createServer as createSecureServer, type Server as SecureServer } from 'node:https';
import type { AddressInfo, Server as NetServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { Pool } from 'undici';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import {
  type NginxBalancer,
  type NginxOptions,
  nginxBalancer,
} from '../../src/orchestrate/adapters/nginx.ts';
import { TASK_HEADER } from '../../src/orchestrate/adapters/nginx-config.ts';
import type { RoutedServer, Routing } from '../../src/orchestrate/balancer.ts';
import { type Certificate, certificate, hasOpenssl } from './certificates.fixture.ts';

const hasNginx = spawnSync('nginx', ['-v']).error === undefined;
const why = hasNginx ? '' : ' (left out: there is no nginx here; Debian: apt-get install nginx-light)';
const never = new AbortController().signal;

/** As gRPC frames it. */
const EMPTY_MESSAGE = Buffer.alloc(5);

/** Says its name, over HTTP and as a gRPC server would. */
class Upstream {
  readonly name: string;
  count = 0;
  readonly http: Server | SecureServer;
  readonly grpc: Http2Server | Http2SecureServer;

  constructor(name: string, tls?: { readonly cert: Buffer; readonly key: Buffer }) {
    this.name = name;
    const overHttp = (_: unknown, response: ServerResponse) => {
      this.count++;
      response.end(name);
    };
    const overGrpc = (_: unknown, response: Http2ServerResponse) => {
      this.count++;
      response.writeHead(200, { 'content-type': 'application/grpc', 'x-name': name });
      response.addTrailers({ 'grpc-status': '0' });
      response.end(EMPTY_MESSAGE);
    };
    this.http = tls === undefined ? createServer(overHttp) : createSecureServer(tls, overHttp);
    this.grpc = tls === undefined ? createHttp2Server(overGrpc) : createSecureHttp2Server(tls, overGrpc);
  }

  close(): void {
    this.http.closeAllConnections();
    this.http.close();
    this.grpc.close();
  }

  async listen(): Promise<void> {
    for (const server of [this.http, this.grpc]) await listening(server);
  }

  routed(weight: number): RoutedServer {
    return { name: this.name, http: addressOf(this.http), grpc: addressOf(this.grpc), weight };
  }
}

async function listening(server: NetServer | Http2Server | Http2SecureServer): Promise<void> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
}

function addressOf(server: NetServer | Http2Server | Http2SecureServer): string {
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function freeAddress(): Promise<string> {
  const server = createServer();
  await listening(server);
  const address = addressOf(server);
  server.close();
  return address;
}

describe.skipIf(!hasNginx)(`the balancer NGINX${why}`, () => {
  const upstreams = ['a', 'b', 'c'].map((name) => new Upstream(name));
  let folder: string;
  let http: string;
  let grpc: string;
  let balancer: NginxBalancer;

  beforeAll(() => Promise.all(upstreams.map((upstream) => upstream.listen())));
  afterAll(() => {
    for (const upstream of upstreams) upstream.close();
  });
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-nginx-'));
    await chmod(folder, 0o711);
    [http, grpc] = [await freeAddress(), await freeAddress()];
    balancer = make();
    for (const upstream of upstreams) upstream.count = 0;
  });
  afterEach(async () => {
    await balancer.stop();
    await rm(folder, { recursive: true, force: true });
  });

  const make = (options: Partial<NginxOptions> = {}) =>
    nginxBalancer({ folder: join(folder, 'nginx'), http, grpc, clock: systemClock, ...options });

  /** One task with these weights. */
  const weighted = (...weights: readonly number[]): Routing => {
    const servers = weights.map((weight, i) => upstreams[i]!.routed(weight));
    return { tasks: [{ task: 'digits', servers }], all: servers };
  };

  const get = async (path: string) => (await fetch(`http://${http}${path}`)).text();

  /** The server that answers a gRPC request, by the header that names its task. */
  const grpcName = async (task?: string) => (await grpcHeaders('ModelInfer', task))['x-name'];

  async function grpcHeaders(method: string, task?: string): Promise<Record<string, unknown>> {
    const session = connect(`http://${grpc}`);
    const headers = {
      ':method': 'POST',
      ':path': `/inference.GRPCInferenceService/${method}`,
      te: 'trailers',
    };
    const stream = session.request({ ...headers, ...(task && { [TASK_HEADER]: task }) });
    stream.end();
    const [answer] = await once(stream, 'response');
    session.destroy();
    return answer;
  }

  test('sends each task to its servers, whatever its name means to NGINX', async () => {
    const tasks = ['default', 'include', 'n.1'];
    await balancer.apply(
      {
        tasks: tasks.map((task, i) => ({ task, servers: [upstreams[i]!.routed(100)] })),
        all: [upstreams[0]!.routed(100)],
      },
      never,
    );
    for (const [i, task] of tasks.entries()) {
      expect(await get(`/v2/models/${task}`)).toBe(upstreams[i]!.name);
      expect(await get(`/v2/models/${task}/versions/3/infer`)).toBe(upstreams[i]!.name);
      expect(await grpcName(task)).toBe(upstreams[i]!.name);
    }
    expect(await get('/v2')).toBe('a');
    expect(await get('/v2/models/n01')).toBe('a');
    // No server has all tasks: any may answer those who name none.
    expect(await grpcName()).toBe('a');
  });

  test('lets nobody administer servers through it', async () => {
    await balancer.apply(weighted(100), never);
    for (const path of ['repository/index', 'logging', 'trace/setting', 'systemsharedmemory/status'])
      expect(JSON.parse(await get(`/v2/${path}`))).toEqual({
        error: 'models and servers are administered by the orchestrator, not through the balancer',
      });
    expect(JSON.parse(await get('/v2/models/digits/trace/setting'))).toHaveProperty('error');
    for (const method of ['RepositoryModelUnload', 'RepositoryIndex', 'LogSettings', 'TraceSetting'])
      expect(await grpcHeaders(method, 'digits')).toMatchObject({ ':status': 200, 'grpc-status': '12' });
    expect(upstreams[0]!.count).toBe(0);
    expect(await grpcName('digits')).toBe('a');
    expect(await get('/v2/models/digits/config')).toBe('a');
  });

  /** Asks on four connections until told to stop. @returns the statuses */
  async function asked(isOver: () => boolean): Promise<number[]> {
    const pool = new Pool(`http://${http}`, { connections: 4 });
    const statuses: number[] = [];
    const client = async () => {
      while (!isOver()) {
        const options = { method: 'POST', path: '/v2/models/digits/infer', body: '{}' } as const;
        const { statusCode, body } = await pool.request(options);
        await body.text();
        statuses.push(statusCode);
      }
    };
    await Promise.all(Array.from({ length: 4 }, client));
    await pool.close();
    return statuses;
  }

  test('balances each request by weight, also over one connection', async () => {
    await balancer.apply(weighted(100, 50, 50), never);
    const shares = () => {
      const total = upstreams.reduce((sum, { count }) => sum + count, 0);
      return upstreams.map(({ count }, i) => count / total / [0.5, 0.25, 0.25][i]!);
    };
    const pool = new Pool(`http://${http}`, { connections: 1 });
    for (let i = 0; i < 400; i++)
      await (await pool.request({ method: 'GET', path: '/v2/models/digits' })).body.text();
    await pool.close();
    // A request whose answer has just left may still count as under way when the next one comes.
    for (const share of shares()) expect(Math.abs(share - 1)).toBeLessThan(0.15);
    for (const upstream of upstreams) upstream.count = 0;
    // It is asked for a new connection every 2 s meanwhile, which nobody notices.
    const client = new Client(grpc, credentials.createInsecure());
    const metadata = new Metadata();
    metadata.set(TASK_HEADER, 'digits');
    const same = (bytes: Buffer) => bytes;
    for (let i = 0; i < 400; i++) {
      await new Promise<void>((resolve, reject) => {
        client.makeUnaryRequest('/x', same, same, Buffer.alloc(0), metadata, (error) =>
          error ? reject(error) : resolve(),
        );
      });
    }
    client.close();
    for (const share of shares()) expect(Math.abs(share - 1)).toBeLessThan(0.1);
  });

  test('fails no request in reloads under load', async () => {
    await balancer.apply(weighted(100, 50, 50), never);
    let isOver = false;
    const asking = asked(() => isOver);
    for (let i = 0; i < 10; i++) await balancer.apply(weighted(100, 50 + i, 50), never);
    isOver = true;
    const statuses = await asking;
    expect(statuses.filter((code) => code !== 200)).toEqual([]);
    expect(statuses.length).toBeGreaterThan(100);
  });

  test('takes over an NGINX that is running, and starts one where it has ended', async () => {
    await balancer.apply(weighted(100), never);
    const pid = await readFile(join(folder, 'nginx/nginx.pid'), 'utf8');
    const next = make();
    expect(await next.isRunning()).toBe(true);
    await next.apply(weighted(100, 100), never);
    expect(await readFile(join(folder, 'nginx/nginx.pid'), 'utf8')).toBe(pid);
    await next.stop();
    expect(await balancer.isRunning()).toBe(false);
    await balancer.apply(weighted(100), never);
    expect(await get('/v2/models/digits')).toBe('a');
  });

  test.runIf(process.platform === 'linux')(
    'starts again where NGINX was killed and left its worker',
    async () => {
      await balancer.apply(weighted(100), never);
      const pid = Number(await readFile(join(folder, 'nginx/nginx.pid'), 'utf8'));
      process.kill(pid, 'SIGKILL');
      await vi.waitFor(async () => expect(await balancer.isRunning()).toBe(false));
      expect(await get('/v2/models/digits')).toBe('a');
      const { servers } = weighted(100, 100).tasks[0]!;
      await balancer.apply({ tasks: [{ task: 'digits', servers: servers.slice(1) }], all: servers }, never);
      expect(await get('/v2/models/digits')).toBe('b');
    },
  );

  test('leaves a process alone that is not its own NGINX', async () => {
    await mkdir(join(folder, 'nginx'));
    // Were it taken for NGINX, SIGHUP would end this test.
    await writeFile(join(folder, 'nginx/nginx.pid'), String(process.pid));
    expect(await balancer.isRunning()).toBe(false);
    await balancer.apply(weighted(100), never);
    expect(await get('/v2/models/digits')).toBe('a');
  });

  describe.skipIf(!hasOpenssl)('to servers that speak TLS', () => {
    const NAME = 'edge.example';
    const servers: Upstream[] = [];
    afterEach(() => {
      for (const server of servers.splice(0)) server.close();
    });

    async function speaking(name: string, { certFile, keyFile }: Certificate): Promise<Upstream> {
      const upstream = new Upstream(name, { cert: await readFile(certFile), key: await readFile(keyFile) });
      servers.push(upstream);
      await upstream.listen();
      return upstream;
    }

    const one = (upstream: Upstream): Routing => ({
      tasks: [{ task: 'digits', servers: [upstream.routed(100)] }],
      all: [upstream.routed(100)],
    });

    /** What a client gets over HTTP and over gRPC. */
    const answers = async () => [
      await (await fetch(`http://${http}/v2/models/digits`)).text(),
      await grpcName('digits'),
    ];

    test('sends requests on to those with a certificate of the authority for the name', async () => {
      const authority = await certificate(folder, 'authority.example');
      const right = await speaking('right', await certificate(folder, NAME, authority));
      balancer = make({ tls: { caFile: authority.certFile, name: NAME } });
      await balancer.apply(one(right), never);
      expect(await answers()).toEqual(['right', 'right']);
    });

    test('sends requests on to those whose own certificate is pinned', async () => {
      const own = await certificate(folder, NAME);
      const pinned = await speaking('pinned', own);
      balancer = make({ tls: { caFile: own.certFile, name: NAME } });
      await balancer.apply(one(pinned), never);
      expect(await answers()).toEqual(['pinned', 'pinned']);
    });

    test('gives nothing to those with a certificate of somebody else, or for another name', async () => {
      const authority = await certificate(folder, 'authority.example');
      const stranger = await speaking('stranger', await certificate(folder, NAME));
      const other = await speaking('other', await certificate(folder, 'other.example', authority));
      balancer = make({ tls: { caFile: authority.certFile, name: NAME } });
      for (const upstream of [stranger, other]) {
        await balancer.apply(one(upstream), never);
        expect(await answers()).toEqual(['{"error":"no server can answer this now"}', undefined]);
        expect(upstream.count).toBe(0);
      }
    });
  });

  test('says what is wrong by typed errors, and keeps the configuration before', async () => {
    await expect(make({ program: 'no-such-nginx' }).check()).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('apt-get install nginx-light'),
    });
    await expect(
      make({ http: addressOf(upstreams[0]!.http) }).apply(weighted(100), never),
    ).rejects.toMatchObject({
      code: 'port_in_use',
      message: expect.stringMatching(/NGINX cannot listen at .*Address already in use/i),
    });
    await balancer.apply(weighted(100), never);
    const broken = weighted(100);
    const servers = [{ ...broken.all[0]!, http: 'no-such-host.invalid:1' }];
    await expect(balancer.apply({ ...broken, all: servers }, never)).rejects.toMatchObject({
      code: 'invalid_config',
      message: expect.stringMatching(/the one before stays in use: .*host not found/),
    });
    expect(await get('/v2')).toBe('a');
    expect(() => make({ folder: '/tmp/a b; c' })).toThrow(/may hold letters/);
  });
});
