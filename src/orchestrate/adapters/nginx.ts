import { execFile } from 'node:child_process';
import {
  chmod,
  copyFile,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  stat,
  writeFile,
} from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { request } from 'undici';
import type { Clock } from '../../base/clock.ts';
import {
  BonsaiError,
  InvalidArgumentError,
  messageOf,
  systemCodeOf,
  systemReason,
} from '../../base/errors.ts';
import type { Balancer, Routing } from '../balancer.ts';
import {
  GENERATION_PATH,
  GRPC_CONNECTION_S,
  type NginxConfigOptions,
  type NginxVersion,
  nginxConfig,
} from './nginx-config.ts';

export interface NginxOptions
  extends Pick<NginxConfigOptions, 'http' | 'grpc' | 'grpcByTask' | 'keepsConnections' | 'tls'> {
  /** Where configuration, log and process number lie; made where it is missing. Of one balancer alone. */
  readonly folder: string;
  /** The program; by default `nginx` on the path. */
  readonly program?: string;
  readonly workers?: number;
  readonly maxBodyBytes?: number;
  readonly user?: string;
  readonly clock: Clock;
}

export const nginxDefaults = {
  program: 'nginx',
  workers: 1,
  maxBodyBytes: 64 * 1024 * 1024,
  /** A configuration that is not in use after this long failed; reloads take some 50 ms. */
  reloadLimitMs: 5_000,
  pollMs: 20,
  /** A check of the configuration takes milliseconds. */
  checkLimitMs: 10_000,
} as const;

/** In which a worker that was told to end lets go of its addresses. */
const ORPHAN_GRACE_MS = 300;

export interface NginxBalancer extends Balancer {
  /** Makes sure that the program is there. @throws BonsaiError `unsupported` */
  check(): Promise<void>;
  /** Ends NGINX after the requests under way. Whoever stops only the orchestrator leaves it running. */
  stop(): Promise<void>;
}

/**
 * An NGINX of its own: started with a configuration in the folder, never the system's. Each routing is written beside
 * the one in use, checked by `nginx -t`, and taken over by a graceful reload. The process outlives the orchestrator, so that
 * requests are answered while it is down; the next one finds it by its process number and goes on with it.
 */
export function nginxBalancer(options: NginxOptions): NginxBalancer {
  const folder = resolve(options.folder);
  if (!/^[\w./@+-]+$/.test(folder)) {
    throw new InvalidArgumentError(
      `The balancer's folder is "${folder}"; its path may hold letters, digits and . / @ + - _ only, for it is written into NGINX' configuration.`,
    );
  }
  const program = options.program ?? nginxDefaults.program;
  const config = join(folder, 'nginx.conf');
  const log = join(folder, 'error.log');
  const run = (args: readonly string[]) =>
    execute(program, ['-p', folder, '-e', log, ...args], nginxDefaults.checkLimitMs);
  let version: NginxVersion | undefined;
  // Of another run there may be a configuration in use: generations of this one begin above it.
  let generation = Math.floor(options.clock.epochMs());

  return {
    // Only gRPC connections stay with workers of before.
    staleMs: options.grpc === undefined && options.grpcByTask === undefined ? 0 : 1000 * GRPC_CONNECTION_S,
    async check() {
      version = await versionOf(program);
    },
    async apply(routing: Routing, signal: AbortSignal) {
      version ??= await versionOf(program);
      generation += 1;
      await prepare(folder);
      const { tls } = options;
      const caFile = join(folder, 'servers-ca.pem');
      // A copy: its path is one that may be written into the configuration.
      if (tls !== undefined) await written(folder, () => copyFile(tls.caFile, caFile));
      const text = nginxConfig(routing, {
        folder,
        http: options.http,
        grpc: options.grpc,
        grpcByTask: options.grpcByTask,
        workers: options.workers ?? nginxDefaults.workers,
        maxBodyBytes: options.maxBodyBytes ?? nginxDefaults.maxBodyBytes,
        user: options.user,
        keepsConnections: options.keepsConnections,
        tls: tls && { ...tls, caFile },
        version,
        generation,
      });
      const candidate = `${config}.new`;
      await written(folder, () => writeFile(candidate, text));
      const check = await run(['-t', '-q', '-c', candidate]);
      if (check.code !== 0) {
        throw new BonsaiError(
          'invalid_config',
          `NGINX refuses the configuration ${candidate}; the one before stays in use: ${check.output || `exit code ${check.code}`}`,
        );
      }
      await written(folder, () => rename(candidate, config));
      const logged = await sizeOf(log);
      const pid = await pidOf(folder, config);
      if (pid === undefined) {
        await endOrphans(log);
        const start = await run(['-c', config]);
        if (start.code !== 0) throw notStarted(start.output, options);
      } else process.kill(pid, 'SIGHUP');
      await inUse(generation, log, logged, options, signal);
    },
    isRunning: async () => (await pidOf(folder, config)) !== undefined,
    async stop() {
      const pid = await pidOf(folder, config);
      if (pid === undefined) return;
      process.kill(pid, 'SIGQUIT');
      while ((await pidOf(folder, config)) !== undefined) await delay(nginxDefaults.pollMs);
    },
  };
}

/** @throws BonsaiError `unsupported` where the program is missing */
async function versionOf(program: string): Promise<NginxVersion> {
  const { output } = await execute(program, ['-v'], nginxDefaults.checkLimitMs);
  const match = /nginx\/(\d+)\.(\d+)\.(\d+)/.exec(output);
  if (match === null) {
    throw new BonsaiError('unsupported', `${program} -v says no version of NGINX: ${output.slice(0, 200)}`);
  }
  return [Number(match[1]), Number(match[2]), Number(match[3])];
}

async function prepare(folder: string): Promise<void> {
  await written(folder, async () => {
    await mkdir(join(folder, 'temp'), { recursive: true });
    // Workers of an NGINX that root starts run under another account and must get to their temporary files.
    if (process.getuid?.() === 0)
      await Promise.all([chmod(folder, 0o711), chmod(join(folder, 'temp'), 0o711)]);
  });
}

/** The number of the master process that runs with this configuration; undefined: none does. */
async function pidOf(folder: string, config: string): Promise<number | undefined> {
  const pid = Number(await readFile(join(folder, 'nginx.pid'), 'utf8').catch(() => ''));
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  try {
    process.kill(pid, 0);
  } catch {
    return undefined;
  }
  // The number may have gone to another process since; where there is no procfs, the file has to do.
  const title = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch((error) =>
    systemCodeOf(error) === 'ENOENT' ? config : '',
  );
  return title.includes(config) ? pid : undefined;
}

/**
 * Workers of an NGINX of ours whose master was killed keep its addresses, and its routes of then. They write to our log, by which
 * they are known (Linux). They finish what they have, but let the addresses go at once.
 */
async function endOrphans(log: string): Promise<void> {
  const pids = (await readdir('/proc').catch(() => [])).filter((name) => /^\d+$/.test(name));
  let isEnded = false;
  for (const pid of pids) {
    const title = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (!title.startsWith('nginx: worker process')) continue;
    const files = await readdir(`/proc/${pid}/fd`).catch(() => []);
    const links = await Promise.all(files.map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')));
    if (!links.includes(log)) continue;
    process.kill(Number(pid), 'SIGQUIT');
    isEnded = true;
  }
  if (isEnded) await delay(ORPHAN_GRACE_MS);
}

/** Waits until the configuration of this generation answers. @throws BonsaiError `port_in_use`, `server_unreachable` */
async function inUse(
  generation: number,
  log: string,
  logged: number,
  options: NginxOptions,
  signal: AbortSignal,
): Promise<void> {
  const url = `http://${reachable(options.http)}${GENERATION_PATH}`;
  const { clock } = options;
  const endMs = clock.nowMs() + nginxDefaults.reloadLimitMs;
  while (clock.nowMs() < endMs) {
    signal.throwIfAborted();
    try {
      // A connection of its own each time: one that is kept belongs to the old workers.
      const answer = await request(url, {
        reset: true,
        signal: AbortSignal.any([signal, AbortSignal.timeout(nginxDefaults.reloadLimitMs)]),
      });
      if ((await answer.body.text()) === String(generation)) return;
    } catch {
      // Not yet there.
    }
    const complaint = await errorsAfter(log, logged);
    if (complaint !== undefined) throw notStarted(complaint, options);
    await delay(nginxDefaults.pollMs);
  }
  throw new BonsaiError(
    'server_unreachable',
    `NGINX does not use its new configuration after ${nginxDefaults.reloadLimitMs} ms; ${url} does not answer it. See ${log}.`,
  );
}

/** What NGINX wrote of errors that keep it from working, after the first bytes of its log. */
async function errorsAfter(log: string, bytes: number): Promise<string | undefined> {
  const text = (await readFile(log).catch(() => Buffer.alloc(0))).subarray(bytes).toString('utf8');
  return text
    .split('\n')
    .filter((line) => line.includes('[emerg]'))
    .at(-1);
}

function notStarted(output: string, { http, grpc }: NginxOptions): BonsaiError {
  const addresses = [http, grpc].filter((address) => address !== undefined).join(' and ');
  if (/Address already in use/i.test(output)) {
    return new BonsaiError(
      'port_in_use',
      `NGINX cannot listen at ${addresses}: ${output.trim()}. End what listens there, or choose other addresses.`,
    );
  }
  return new BonsaiError('server_unreachable', `NGINX does not run: ${output.trim() || 'it says nothing'}`);
}

async function sizeOf(file: string): Promise<number> {
  return (await stat(file).catch(() => undefined))?.size ?? 0;
}

/** @throws BonsaiError `unwritable_path` */
async function written(folder: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (cause) {
    throw new BonsaiError(
      'unwritable_path',
      `The balancer's folder ${folder} cannot be written: ${systemReason(cause)}.`,
      { cause },
    );
  }
}

interface Ended {
  readonly code: number;
  /** Both outputs, without line breaks at the end. */
  readonly output: string;
}

/** @throws BonsaiError `unsupported` where the program is missing, `server_unreachable` where it does not end */
function execute(program: string, args: readonly string[], limitMs: number): Promise<Ended> {
  return new Promise((settle, fail) => {
    execFile(program, [...args], { timeout: limitMs }, (error, stdout, stderr) => {
      const code = systemCodeOf(error);
      if (code === 'ENOENT' || code === 'EACCES') {
        const why = `The balancer needs NGINX, and ${program} cannot be started (${code}).`;
        const help =
          'Install it (Debian: apt-get install nginx-light), or give balancer.program, or balancer: none.';
        fail(new BonsaiError('unsupported', `${why} ${help}`, { cause: error }));
      } else if (error?.killed) {
        fail(
          new BonsaiError(
            'server_unreachable',
            `${program} ${args.join(' ')} did not end: ${messageOf(error)}`,
          ),
        );
      } else settle({ code: Number(error?.code ?? 0), output: `${stdout}${stderr}`.trim() });
    });
  });
}

/** Where this machine reaches a socket that listens everywhere. */
function reachable(address: string): string {
  return address.replace(/^(0\.0\.0\.0|\*)(?=:)/, '127.0.0.1').replace(/^\[::\](?=:)/, '[::1]');
}
