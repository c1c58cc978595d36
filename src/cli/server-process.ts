import { type ChildProcess, spawn } from 'node:child_process';
import { devNull } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { BonsaiError } from '../base/errors.ts';
import { MALLOC_ENVIRONMENT } from './malloc-environment.ts';

export interface ServerProcessOptions {
  readonly repository: string;
  /** Undefined: those that this process may use. */
  readonly cpus?: readonly number[];
  /** `largest`, `smallest`, a version number of every task, or TASK=VERSION. */
  readonly initial: string;
  /** The one task that is loaded; undefined: all. */
  readonly task?: string;
  readonly sloMs?: number;
}

/** A Bonsai server in a process of its own, as `bonsai serve` starts it: measured apart from who measures it. */
export interface ServerProcess {
  readonly httpUrl: string;
  readonly metricsUrl: string;
  /** Resolves when it has ended, for whatever reason. */
  readonly exited: Promise<void>;
  /** Drains and ends the server. */
  close(): Promise<void>;
}

/** The line that `bonsai serve --json` prints when it is ready. */
export interface ReadyLine {
  readonly ready: true;
  readonly http: string;
  /** HOST:PORT of the gRPC service, where it is offered. */
  readonly grpc?: string;
  readonly metrics: string;
  /** Of the live page, where it is offered. */
  readonly control?: string;
}

/** How long a server may take to load a repository before it counts as failed. */
export const SERVER_START_LIMIT_MS = 60_000;

/** How long a draining server gets before it is killed. */
export const SERVER_STOP_LIMIT_MS = 10_000;

/** Starts `bonsai serve` on free ports and waits until it is ready. @throws BonsaiError `load_failed` with its complaint */
export async function startServerProcess(options: ServerProcessOptions): Promise<ServerProcess> {
  const main = fileURLToPath(new URL('./main.js', import.meta.url));
  const child = spawn(
    process.execPath,
    [
      main,
      // Measurements are not to depend on what the user has configured for a server of his own.
      '--config',
      devNull,
      'serve',
      '--exit-with-parent',
      options.repository,
      '--json',
      '--port',
      '0',
      '--grpc-port',
      'off',
      '--metrics-port',
      '0',
      '--control-port',
      'off',
      ...(options.cpus === undefined ? [] : ['--cpus', options.cpus.join(',')]),
      ...(options.task === undefined
        ? []
        : ['--model-control-mode', 'explicit', '--load-model', options.task]),
      '--initial',
      options.initial,
      ...(options.sloMs === undefined ? [] : ['--slo', `${options.sloMs}ms`]),
    ],
    {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...MALLOC_ENVIRONMENT, ...withoutOptions(process.env) },
    },
  );
  // A parent that ends must not leave the child behind on its CPU; one that is killed closes the child's input.
  const killWithParent = () => child.kill('SIGKILL');
  process.once('exit', killWithParent);
  child.once('exit', () => process.removeListener('exit', killWithParent));
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-4000);
  });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const ready = await readyLine(child, () => complaint);
  return {
    httpUrl: ready.http,
    metricsUrl: ready.metrics,
    exited,
    close: () => stop(child),
  };
}

/** The environment without what would set options of the server. */
function withoutOptions(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !name.startsWith('BONSAI_')));
}

function readyLine(child: ChildProcess, complaint: () => string): Promise<ReadyLine> {
  return new Promise((resolve, reject) => {
    const fail = (reason: string) =>
      reject(new BonsaiError('load_failed', `The server did not start: ${reason}\n${complaint().trim()}`));
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      fail(`not ready within ${SERVER_START_LIMIT_MS / 1000} s.`);
    }, SERVER_START_LIMIT_MS);
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      fail(`it ended with ${signal ?? `code ${code}`}.`);
    });
    child.once('error', (error) => {
      clearTimeout(timer);
      fail(error.message);
    });
    const lines = createInterface({ input: child.stdout! });
    lines.on('line', (line) => {
      if (!line.startsWith('{"ready":true')) return;
      clearTimeout(timer);
      resolve(JSON.parse(line) as ReadyLine); // Written by our own serve command.
    });
  });
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), SERVER_STOP_LIMIT_MS);
  await ended;
  clearTimeout(timer);
}
