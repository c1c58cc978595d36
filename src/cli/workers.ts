import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type Command, Option } from 'commander';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import type { Context } from './context.ts';
import { parseInteger } from './parse.ts';

/** One of several shares of a command's work: pieces `index`, `index + count`, … of an ordered list, or as the command cuts it. */
export interface Share {
  /** From 0. */
  readonly index: number;
  readonly count: number;
}

/** What of its work a command does itself. */
export type Part =
  | { readonly kind: 'whole' }
  /** One share; others do the others, at another time or place. */
  | { readonly kind: 'share'; readonly share: Share }
  /** All shares at once, each in a process of its own. */
  | { readonly kind: 'together'; readonly count: number };

export interface WorkerOptions {
  readonly workers?: number;
  readonly workerIndex?: number;
}

/** More than any machine has CPUs or any Job pods. */
const MAX_WORKERS = 10_000;

/** Set by Kubernetes in the pods of indexed Jobs. https://kubernetes.io/docs/concepts/workloads/controllers/job/ */
const INDEX_VARIABLE = 'JOB_COMPLETION_INDEX';

/** @param what the pieces that the work is cut into, as in "versions" */
export function addWorkerOptions(command: Command, what: string): Command {
  return command
    .addOption(
      new Option(
        '--workers <n>',
        `share the ${what} among so many processes at once, each on CPUs of its own; with --worker-index, of which this is one`,
      ).argParser(parseInteger(1, MAX_WORKERS)),
    )
    .addOption(
      new Option(
        '--worker-index <i>',
        `do only this share, from 0 (default: ${INDEX_VARIABLE}, as in the pods of an indexed Job of Kubernetes)`,
      ).argParser(parseInteger(0, MAX_WORKERS - 1)),
    );
}

/**
 * @param variable what Kubernetes has set
 * @throws InvalidArgumentError for an index that is none, or that none of so many workers has
 */
export function partOf(
  { workers, workerIndex }: WorkerOptions,
  { progress }: Pick<Context, 'progress'>,
  variable: string | undefined = process.env.JOB_COMPLETION_INDEX,
): Part {
  if (workers === undefined) {
    if (workerIndex !== undefined)
      throw new InvalidArgumentError(
        `--worker-index ${workerIndex} says which worker this is, but not of how many: add --workers.`,
      );
    if (variable !== undefined)
      progress.say(
        `${INDEX_VARIABLE} is ${variable}, but without --workers all of the work is done here. In an indexed Job, give its completions: --workers N.`,
      );
    return { kind: 'whole' };
  }
  const [name, index] =
    workerIndex !== undefined || variable === undefined
      ? ['--worker-index', workerIndex]
      : [INDEX_VARIABLE, indexOf(variable)];
  if (index === undefined) return workers === 1 ? { kind: 'whole' } : { kind: 'together', count: workers };
  if (index >= workers)
    throw new InvalidArgumentError(
      `${name} is ${index}, but of ${workers} workers the last one has ${workers - 1}: give as many --workers as the Job has completions.`,
    );
  return { kind: 'share', share: { index, count: workers } };
}

function indexOf(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new InvalidArgumentError(`${INDEX_VARIABLE} is "${text}"; expected the number of a pod, from 0.`);
}

/** `worker 2 of 4`: people count from 1. */
export function workerName({ index, count }: Share): string {
  return `worker ${index + 1} of ${count}`;
}

/** @returns the command line of one worker: that of this process, with more options, which override those before them */
export function workerArguments(
  own: readonly string[],
  index: number,
  more: readonly string[],
): readonly string[] {
  const end = own.includes('--') ? own.indexOf('--') : own.length;
  return [...own.slice(0, end), '--worker-index', String(index), ...more, ...own.slice(end)];
}

/** Between `runWorkers` and those that it starts: the number of its process. Others may start commands with a channel, too. */
const PARENT_VARIABLE = 'BONSAI_WORKER_PARENT';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

/**
 * Does the command that runs here in several processes, one for each share, and waits for all of them; one that fails keeps
 * no other from its work.
 * @param workers by index: what the command line has beyond this one's, and the CPUs to bind the process to
 * @returns what each printed as JSON
 * @throws BonsaiError `worker_lost` with what the first one that failed said
 */
export async function runWorkers(
  { progress, signal }: Context,
  workers: readonly { readonly more: readonly string[]; readonly boundTo?: readonly number[] }[],
): Promise<unknown[]> {
  const count = workers.length;
  const ended = await Promise.all(
    workers.map(async ({ more, boundTo }, index) => {
      const words = [
        ...(boundTo === undefined ? [] : ['taskset', '-c', boundTo.join(',')]),
        ...[process.execPath, ...process.execArgv, MAIN],
        ...workerArguments(process.argv.slice(2), index, [...more, '--json']),
      ];
      // The channel says nothing: a worker whose parent is gone sees it close, and ends.
      const child = spawn(words[0]!, words.slice(1), {
        stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
        env: { ...process.env, [PARENT_VARIABLE]: String(process.pid) },
      });
      const stop = () => child.kill('SIGTERM');
      signal.addEventListener('abort', stop);
      let last = '';
      createInterface({ input: child.stderr! }).on('line', (line) => {
        last = line;
        progress.say(`[${index + 1}/${count}] ${line}`);
      });
      const chunks: Buffer[] = [];
      child.stdout!.on('data', (chunk: Buffer) => chunks.push(chunk));
      try {
        const [code, killedBy] = (await once(child, 'close')) as [number | null, string | null];
        return {
          code,
          reason: last || (killedBy ?? `exit code ${code}`),
          text: Buffer.concat(chunks).toString(),
        };
      } catch (thrown) {
        throw new BonsaiError('worker_lost', `A worker cannot be started: ${String(thrown)}`, {
          cause: thrown,
        });
      } finally {
        signal.removeEventListener('abort', stop);
      }
    }),
  );
  signal.throwIfAborted();
  const failed = ended.flatMap(({ code }, index) => (code === 0 ? [] : [index]));
  if (failed.length > 0)
    throw new BonsaiError(
      'worker_lost',
      `${failed.length} of ${count} workers failed; the first, ${workerName({ index: failed[0]!, count })}: ${ended[failed[0]!]!.reason}. What was finished is kept: the same command does the rest.`,
    );
  return ended.map(({ text }) => JSON.parse(text) as unknown);
}

/** Whether this is a worker that `runWorkers` has started: it has told it which CPUs to use, and joins the results. */
export function isStartedWorker(): boolean {
  return process.send !== undefined && process.env[PARENT_VARIABLE] === String(process.ppid);
}
