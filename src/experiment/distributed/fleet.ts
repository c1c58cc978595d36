import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { request } from 'undici';
import { BonsaiError } from '../../base/errors.ts';
import type { FleetDecision } from '../../orchestrate/fleet/record.ts';
import type { Lab, LabProcess } from '../lab.ts';
import type { WatchedProcess } from '../live/run-live.ts';
import { startTestedServer, type TestedServer } from '../measuring/server.ts';

/** Servers behind NGINX, with the orchestrator that runs them as one. */
export interface Fleet {
  /** Of the balancer. */
  readonly url: string;
  readonly watched: readonly WatchedProcess[];
  /** In the order of the plans. */
  readonly servers: readonly TestedServer[];
  /** All of the orchestrator so far; it goes on growing. */
  readonly decisions: readonly FleetDecision[];
  close(): Promise<void>;
}

export interface FleetOptions {
  /** `plan`, or a policy by which the orchestrator chooses the version on each server. */
  readonly policy: string;
  /** Policy that each server has of its own; the orchestrator only says then which tasks are where. */
  readonly serverPolicy?: string;
  readonly servers: readonly FleetServerPlan[];
  readonly sloMs: number;
  /** On so many servers each task is served. */
  readonly replicas: number;
  readonly connections: number;
}

export interface FleetServerPlan {
  readonly name: string;
  readonly boundTo: readonly number[];
  /** CPUs that it may count on; less than it is bound to where it shares them. */
  readonly cpuBudget: number;
  /** Folder of the control group that holds it to its budget; undefined: nothing does. */
  readonly controlGroup?: string;
}

/** How long until every task answers through the balancer: servers load what they are told to. */
const READY_LIMIT_MS = 90_000;

/** Starts servers, orchestrator and NGINX. @throws BonsaiError `load_failed` */
export async function startFleet(lab: Lab, options: FleetOptions): Promise<Fleet> {
  const folder = await mkdtemp(join(tmpdir(), 'bonsai-fleet-'));
  // NGINX' workers have an account of their own.
  await chmod(folder, 0o711);
  const file = join(folder, 'fleet.yaml');
  const open: LabProcess[] = [];
  const watched: WatchedProcess[] = [];
  const servers: TestedServer[] = [];
  const decisions: FleetDecision[] = [];
  const close = async () => {
    for (const each of open.toReversed()) await each.close();
    await quitNginx(join(folder, 'fleet.nginx', 'nginx.pid'));
    await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  };
  try {
    const members: string[] = [];
    for (const { name, boundTo, cpuBudget, controlGroup } of options.servers) {
      const server = await startTestedServer(lab, {
        cpus: boundTo,
        controlGroup,
        flags: [
          ...['--model-control-mode', 'explicit', '--slots', '1', '--slo', `${options.sloMs}ms`],
          ...['--max-connections', String(options.connections), '--log-level', 'error'],
          ...(options.serverPolicy === undefined ? [] : ['--policy', options.serverPolicy]),
        ],
      });
      open.push(server);
      servers.push(server);
      watched.push({ name, pid: server.pid, cpuBudget });
      members.push(
        `  - { name: ${name}, url: "${server.url}", metrics: "${server.metricsUrl}", cpus: ${cpuBudget.toFixed(3)} }`,
      );
    }
    const port = await freePort();
    await writeFile(
      file,
      [
        `repository: ${JSON.stringify(resolve(lab.repository))}`,
        `policy: ${JSON.stringify(options.policy)}`,
        `balancer: { kind: nginx, http: "127.0.0.1:${port}" }`,
        'servers:',
        ...members,
        'tasks:',
        ...lab.tasks.map(
          ({ name }) => `  - { name: ${name}, slo: ${options.sloMs}ms, replicas: ${options.replicas} }`,
        ),
        '',
      ].join('\n'),
    );
    open.push(
      await lab.start({
        name: 'The orchestrator',
        args: ['orchestrate', file, '--json', '--control-port', 'off'],
        boundTo: lab.clientCpus,
        cwd: folder,
        isReady: () => true,
        onOutput: (value) => decisions.push(value as FleetDecision), // It prints nothing else.
      }),
    );
    const url = `http://127.0.0.1:${port}`;
    for (const { name } of lab.tasks) await untilServed(lab, `${url}/v2/models/${name}`);
    return { url, watched, servers, decisions, close };
  } catch (thrown) {
    await close();
    throw thrown;
  }
}

async function untilServed({ clock, signal }: Lab, url: string): Promise<void> {
  const startMs = clock.nowMs();
  for (;;) {
    signal.throwIfAborted();
    const status = await request(url)
      .then(async ({ statusCode, body }) => {
        await body.dump();
        return statusCode;
      })
      .catch(() => 0); // NGINX is not there yet.
    if (status === 200) return;
    if (clock.nowMs() - startMs > READY_LIMIT_MS) {
      throw new BonsaiError(
        'load_failed',
        `The fleet does not serve ${url} after ${READY_LIMIT_MS / 1000} s (status ${status}).`,
      );
    }
    await sleep(200, undefined, { signal });
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as { port: number }; // It listens on TCP.
  await new Promise((done) => server.close(done));
  return port;
}

/** The orchestrator leaves its balancer running: the next one would go on with it. */
async function quitNginx(pidFile: string): Promise<void> {
  const pid = Number(await readFile(pidFile, 'utf8').catch(() => ''));
  if (pid > 0) process.kill(pid, 'SIGQUIT');
}
