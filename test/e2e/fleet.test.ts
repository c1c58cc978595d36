import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { Pool } from 'undici';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { seededRandom } from '../../src/base/random.ts';
import { type FleetDecision, type FleetRecord, readFleetRecord } from '../../src/orchestrate/fleet/record.ts';
import { ModelInferRequestSchema, ModelInferResponseSchema } from '../../src/serve/grpc/inference_pb.ts';
import { freePorts } from './free-ports.fixture.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const main = join(root, 'dist/cli/main.js');
const hasNginx = spawnSync('nginx', ['-v']).error === undefined;
const why = hasNginx ? '' : ' (left out: there is no nginx here; Debian: apt-get install nginx-light)';

/** Requests of the load, per second: over HTTP, and over two long-lived gRPC connections. */
const HTTP_RPS = 50;
const GRPC_RPS = 30;

const pixels = Array.from(
  { length: 784 },
  (
    (random) => () =>
      random.uniform()
  )(seededRandom(1)),
);

describe.skipIf(!hasNginx)(`a fleet behind NGINX${why}`, () => {
  let folder: string;
  let file: string;
  /** Of the example in docs/fleet.md: its ports by those that are used here. */
  let ports: Map<number, number>;
  const servers = new Map<string, ChildProcess>();
  let orchestrator: ChildProcess | undefined;
  const decisions: FleetDecision[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-fleet-'));
    await chmod(folder, 0o711);
    file = join(folder, 'fleet.yaml');
    const text = await readFile(join(root, 'docs/fleet.md'), 'utf8');
    const example = /```yaml\n(repository:[\s\S]*?)```/.exec(text)![1]!;
    const named = [...new Set([...example.matchAll(/127\.0\.0\.1:(\d+)/g)].map((match) => Number(match[1])))];
    const free = await freePorts(named.length);
    ports = new Map(named.map((port, i) => [port, free[i]!]));
    await writeFile(
      file,
      example
        .replace('zoo/models', join(root, 'zoo/models'))
        .replace(/127\.0\.0\.1:(\d+)/g, (_, port: string) => `127.0.0.1:${ports.get(Number(port))}`),
    );
    // As small as can be, so that there is something to switch.
    await Promise.all([
      serve('edge-1', 8000, '--load-model', 'mnist', '--initial', 'smallest'),
      serve('edge-2', 8010, '--load-model', 'mnist', '--initial', 'smallest'),
      serve('edge-3', 8020),
    ]);
  });

  afterAll(async () => {
    for (const child of [orchestrator, ...servers.values()]) child?.kill('SIGKILL');
    const pid = Number(await readFile(join(folder, 'fleet.nginx/nginx.pid'), 'utf8').catch(() => ''));
    if (pid > 0) process.kill(pid, 'SIGQUIT');
    await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  });

  async function serve(name: string, port: number, ...args: string[]): Promise<void> {
    const [http, grpc, metrics] = [0, 1, 2].map((offset) => String(ports.get(port + offset)));
    const child = spawn(
      process.execPath,
      [
        ...[main, 'serve', join(root, 'zoo/models'), '--json', '--log-level', 'error', '--slots', '1'],
        ...['--port', http!, '--grpc-port', grpc!, '--metrics-port', metrics!],
        ...['--model-control-mode', 'explicit', ...args],
      ],
      { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] },
    );
    servers.set(name, child);
    await once(createInterface(child.stdout!), 'line');
  }

  function orchestrate(): void {
    const child = spawn(process.execPath, [main, 'orchestrate', file, '--json', '--control-port', '0'], {
      cwd: folder,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    orchestrator = child;
    createInterface(child.stdout).on('line', (line) => decisions.push(JSON.parse(line)));
  }

  type Status = FleetRecord & { readonly orchestrator?: { readonly pid: number; readonly term: number } };

  function fleetStatus(): Status {
    return JSON.parse(
      execFileSync(process.execPath, [main, 'fleet', 'status', file, '--json', '--decisions', '200'], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }),
    );
  }

  /** The same as the orchestrator wrote it down, which costs less than a command. */
  const recorded = async () => (await readFleetRecord(join(folder, 'fleet.state.json')))!;

  /** The servers that mnist's requests go to, with the versions there. */
  const routed = ({ servers }: FleetRecord) =>
    Object.fromEntries(
      servers.flatMap(({ name, tasks }) =>
        tasks.filter(({ weight }) => weight > 0).map(({ version }) => [name, version]),
      ),
    );

  const eventually = (check: () => void | Promise<void>, timeout = 60_000) =>
    vi.waitFor(check, { timeout, interval: 250 });

  /** Requests that a server took in, by protocol together. */
  async function requestsOf(port: number): Promise<number> {
    const page = await (await fetch(`http://127.0.0.1:${ports.get(port + 2)}/metrics`)).text();
    return [...page.matchAll(/^bonsai_requests_total\{[^}]*model="mnist"[^}]*\} (\d+)/gm)].reduce(
      (sum, [, count]) => sum + Number(count),
      0,
    );
  }

  test('no request fails while versions change, NGINX reloads, a server and the orchestrator are killed', async () => {
    orchestrate();
    const http = `http://127.0.0.1:${ports.get(8080)}`;
    await eventually(async () => {
      expect((await fetch(`${http}/v2/models/mnist`)).status).toBe(200);
    });
    const load = startLoad(http, `127.0.0.1:${ports.get(8081)}`);
    try {
      // A light load: both can have the most accurate version, one after the other.
      await eventually(async () => {
        expect(routed(await recorded())).toEqual({ 'edge-1': 1, 'edge-2': 1 });
        expect(decisions.filter(({ kind }) => kind === 'done')).toHaveLength(2);
      });
      expect(overlaps(decisions)).toEqual([]);

      // An NGINX that is reloaded by somebody else as well.
      const nginx = Number(await readFile(join(folder, 'fleet.nginx/nginx.pid'), 'utf8'));
      process.kill(nginx, 'SIGHUP');

      // Its replica moves to the third server.
      servers.get('edge-2')!.kill('SIGKILL');
      await eventually(async () => expect(routed(await recorded())).toEqual({ 'edge-1': 1, 'edge-3': 1 }));
      const before = fleetStatus();
      expect(before.servers.find(({ name }) => name === 'edge-2')!.health).toBe('down');
      expect(before.decisions.some(({ text }) => /^edge-2 is down: GET /.test(text))).toBe(true);

      const answeredBefore = load.counts.ok;
      orchestrator!.kill('SIGKILL');
      await once(orchestrator!, 'exit');
      expect(fleetStatus().orchestrator).toBeUndefined();
      await serve('edge-2', 8010);
      await eventually(() => expect(load.counts.ok).toBeGreaterThan(answeredBefore + 20));

      decisions.length = 0;
      orchestrate();
      await eventually(async () => {
        const after = await recorded();
        expect(after.term).toBe(before.term + 1);
        expect(routed(after)).toEqual(routed(before));
        // What was decided before is known, and so is demand: nothing has to be learned anew.
        expect(after.decisions).toEqual(expect.arrayContaining(before.decisions.slice(-5)));
        expect(after.tasks[0]!.demandRps).toBeGreaterThan(0.5 * before.tasks[0]!.demandRps);
      });
      expect(Number(await readFile(join(folder, 'fleet.nginx/nginx.pid'), 'utf8'))).toBe(nginx);
    } finally {
      await load.stop();
    }
    console.log(
      `fleet: ${load.counts.ok} answered, refused: ${JSON.stringify(load.refusals)}, cut off: ${load.cutOff.length}`,
    );
    expect(load.failures).toEqual([]);
    expect(load.counts.ok).toBeGreaterThan(300);
    expect(load.cutOff.length).toBeLessThanOrEqual(2);
    expect(load.refusals.length).toBeLessThan(0.01 * load.counts.ok);
  }, 300_000);

  test('requests over few long-lived gRPC connections reach servers by their weights', async () => {
    await eventually(async () => expect(Object.keys(routed(await recorded()))).toEqual(['edge-1', 'edge-3']));
    const weights = (await recorded()).servers.flatMap(({ name, tasks }) =>
      tasks.filter(({ weight }) => weight > 0).map(({ weight }) => ({ name, weight })),
    );
    const port = (name: string) => 8000 + 10 * (Number(name.at(-1)) - 1);
    const before = await Promise.all(weights.map(({ name }) => requestsOf(port(name))));
    const clients = [grpcClient(`127.0.0.1:${ports.get(8081)}`), grpcClient(`127.0.0.1:${ports.get(8081)}`)];
    // One after the other: so each server's share is decided by weights alone, not by who answers sooner.
    for (let i = 0; i < 200; i++) await clients[i % clients.length]!.infer();
    for (const client of clients) client.close();
    const after = await Promise.all(weights.map(({ name }) => requestsOf(port(name))));
    const total = weights.reduce((sum, { weight }) => sum + weight, 0);
    for (const [i, { weight }] of weights.entries()) {
      const share = (after[i]! - before[i]!) / 200;
      expect(Math.abs(share - weight / total)).toBeLessThan((0.1 * weight) / total);
    }
  });

  test('where nobody answers, clients are told so', async () => {
    orchestrator!.kill('SIGKILL');
    for (const child of servers.values()) child.kill('SIGKILL');
    const answer = await fetch(`http://127.0.0.1:${ports.get(8080)}/v2/models/mnist`);
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await answer.json()).toEqual({ error: 'no server can answer this now' });
    const client = grpcClient(`127.0.0.1:${ports.get(8081)}`);
    const error = (await client.infer().catch((thrown) => thrown)) as ServiceError;
    client.close();
    expect([error.code, error.details]).toEqual([status.UNAVAILABLE, 'no server can answer this now']);
  });
});

/** Begun and not done, for two servers of one task at a time. */
function overlaps(decisions: readonly FleetDecision[]): string[] {
  const open = new Map<string, string>();
  const found: string[] = [];
  for (const { kind, task, server, text } of decisions) {
    if (kind === 'begin') {
      if (open.has(task!)) found.push(`${text} while ${open.get(task!)} changes`);
      open.set(task!, server!);
    } else if (kind === 'done' || kind === 'failed') open.delete(task!);
  }
  return found;
}

/** How a gRPC server says that it did not compute a request. */
const REFUSALS: ReadonlySet<number> = new Set([
  status.UNAVAILABLE,
  status.RESOURCE_EXHAUSTED,
  status.DEADLINE_EXCEEDED,
]);

interface Load {
  readonly counts: { ok: number };
  /** Answers that say that the request was not computed. */
  readonly refusals: string[];
  /** gRPC answers that had begun when their server was killed: NGINX can neither take them back nor repeat them. */
  readonly cutOff: string[];
  /** Whatever is neither an answer nor an explicit refusal. */
  readonly failures: string[];
  stop(): Promise<void>;
}

function startLoad(http: string, grpc: string): Load {
  const counts = { ok: 0 };
  const failures: string[] = [];
  const refusals: string[] = [];
  const cutOff: string[] = [];
  const pool = new Pool(http, { connections: 4, pipelining: 1 });
  const clients = [grpcClient(grpc), grpcClient(grpc)];
  const body = JSON.stringify({
    inputs: [{ name: 'image', datatype: 'FP32', shape: [1, 1, 28, 28], data: pixels }],
  });
  const open = new Set<Promise<void>>();
  const track = (work: Promise<void>) => {
    const tracked = work.finally(() => open.delete(tracked));
    open.add(tracked);
  };
  const overHttp = async () => {
    try {
      const answer = await pool.request({ method: 'POST', path: '/v2/models/mnist/infer', body });
      const text = await answer.body.text();
      if (answer.statusCode === 200) counts.ok++;
      else if (answer.statusCode === 503 || answer.statusCode === 429) refusals.push(text);
      else failures.push(`HTTP ${answer.statusCode}: ${text.slice(0, 200)}`);
    } catch (error) {
      failures.push(`HTTP: ${String(error)}`);
    }
  };
  let next = 0;
  const overGrpc = async () => {
    try {
      await clients[next++ % clients.length]!.infer();
      counts.ok++;
    } catch (error) {
      const { code } = error as ServiceError;
      if (REFUSALS.has(code)) refusals.push(String(error));
      else if (code === status.INTERNAL && /RST_STREAM with code 2/.test(String(error)))
        cutOff.push(String(error));
      else failures.push(`gRPC: ${String(error)}`);
    }
  };
  const timers = [
    setInterval(() => track(overHttp()), 1000 / HTTP_RPS),
    setInterval(() => track(overGrpc()), 1000 / GRPC_RPS),
  ];
  return {
    counts,
    refusals,
    cutOff,
    failures,
    async stop() {
      timers.forEach(clearInterval);
      await Promise.all(open);
      for (const client of clients) client.close();
      await pool.close();
    },
  };
}

/** One connection that stays. */
function grpcClient(address: string): { infer(): Promise<string>; close(): void } {
  const client = new Client(address, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
  const request = create(ModelInferRequestSchema, {
    modelName: 'mnist',
    inputs: [
      { name: 'image', datatype: 'FP32', shape: [1n, 1n, 28n, 28n], contents: { fp32Contents: pixels } },
    ],
  });
  const metadata = new Metadata();
  metadata.set('bonsai-task', 'mnist');
  return {
    infer: () =>
      new Promise((resolve, reject) => {
        client.makeUnaryRequest(
          '/inference.GRPCInferenceService/ModelInfer',
          (value: typeof request) => Buffer.from(toBinary(ModelInferRequestSchema, value)),
          (bytes: Buffer) => fromBinary(ModelInferResponseSchema, bytes),
          request,
          metadata,
          (error, response) => (error ? reject(error) : resolve(response!.modelVersion)),
        );
      }),
    close: () => client.close(),
  };
}
