import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { devNull } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { BonsaiError } from '../base/errors.ts';
import { MALLOC_ENVIRONMENT } from './malloc-environment.ts';

/** A command of Bonsai in a process of its own: measured apart from who measures it. */
export interface CommandProcess {
  readonly pid: number;
  /** What the line said that `isReady` was waited for. */
  readonly ready: unknown;
  /** Resolves when it has ended, for whatever reason. */
  readonly exited: Promise<void>;
  /** Asks it to end, and kills it where it does not. */
  close(): Promise<void>;
}

export interface CommandProcessOptions {
  readonly args: readonly string[];
  /** The program; by default the one that this file was compiled with. */
  readonly main?: string;
  /** CPUs that the whole process is bound to, where the system can (`taskset`); undefined: any. */
  readonly boundTo?: readonly number[];
  /** Folder of a control group (Linux) that the process is to run in; undefined: that of this process. */
  readonly controlGroup?: string;
  readonly cwd?: string;
  /** Whether a line of its output, which is JSON, says that it is ready. */
  readonly isReady: (value: object) => boolean;
  /** Gets each line of its output that is JSON. */
  readonly onOutput?: (value: object) => void;
  /** Gets what it logs, line by line. */
  readonly onLog?: (line: string) => void;
  /** How its failure is told, as in "The server". */
  readonly name: string;
}

/** How long a command may take until it is ready: a server loads a repository. */
export const START_LIMIT_MS = 180_000;

/** How long a draining server gets before it is killed. */
export const STOP_LIMIT_MS = 10_000;

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

/** Joins the group before anything else runs: what it starts with is what it finds as its CPU budget. */
const JOIN_AND_RUN = 'echo $$ > "$0/cgroup.procs" && exec "$@"';

/** Whether processes can be bound to CPUs from outside. */
export function hasTaskset(): boolean {
  return spawnSync('taskset', ['--version'], { stdio: 'ignore' }).status === 0;
}

/** Binds this process and its threads to CPUs, where the system can. */
export function bindThisProcess(cpus: readonly number[]): void {
  spawnSync('taskset', ['-acp', cpus.join(','), String(process.pid)], { stdio: 'ignore' });
}

/** Starts a command and waits until it is ready. @throws BonsaiError `load_failed` with its complaint */
export async function startCommandProcess(options: CommandProcessOptions): Promise<CommandProcess> {
  const { args, main = MAIN, boundTo, controlGroup, cwd, onLog } = options;
  // Measurements are not to depend on what the user has configured for a server of his own.
  const words = [process.execPath, main, '--config', devNull, ...args];
  const bound =
    boundTo !== undefined && hasTaskset() ? ['taskset', '-c', boundTo.join(','), ...words] : words;
  const command = controlGroup === undefined ? bound : ['sh', '-c', JOIN_AND_RUN, controlGroup, ...bound];
  const child = spawn(command[0]!, command.slice(1), {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...MALLOC_ENVIRONMENT, ...withoutOptions(process.env) },
    ...(cwd !== undefined && { cwd }),
  });
  // A parent that ends must not leave the child behind on its CPU; one that is killed closes the child's input.
  const killWithParent = () => child.kill('SIGKILL');
  process.once('exit', killWithParent);
  child.once('exit', () => process.removeListener('exit', killWithParent));
  let complaint = '';
  createInterface({ input: child.stderr! }).on('line', (line) => {
    complaint = `${complaint}${line}\n`.slice(-4000);
    onLog?.(line);
  });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const ready = await readyLine(child, options, () => complaint);
  return { pid: child.pid!, ready, exited, close: () => stop(child) };
}

/** The environment without what would set options of the command. */
function withoutOptions(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([key]) => !key.startsWith('BONSAI_')));
}

function readyLine(
  child: ChildProcess,
  { name, isReady, onOutput }: CommandProcessOptions,
  complaint: () => string,
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const fail = (reason: string) =>
      reject(new BonsaiError('load_failed', `${name} did not start: ${reason}\n${complaint().trim()}`));
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      fail(`not ready within ${START_LIMIT_MS / 1000} s; does other work take all CPUs?`);
    }, START_LIMIT_MS);
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
      const value = line.startsWith('{') ? parsed(line) : undefined;
      if (value === undefined) return;
      onOutput?.(value);
      if (!isReady(value)) return;
      clearTimeout(timer);
      resolve(value);
    });
  });
}

function parsed(line: string): object | undefined {
  try {
    return JSON.parse(line) as object; // It begins with a brace.
  } catch {
    return undefined;
  }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_LIMIT_MS);
  await ended;
  clearTimeout(timer);
}
