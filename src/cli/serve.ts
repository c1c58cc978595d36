import { Command, Option } from 'commander';
import { BonsaiError, InvalidArgumentError, messageOf } from '../base/errors.ts';
import { v2Server } from '../orchestrate/adapters/v2-server.ts';
import { runLoop } from '../orchestrate/loop.ts';
import { POLICY_NAMES, policyByName } from '../policy/registry.ts';
import { ModelNotFoundError } from '../repository/errors.ts';
import { listFolders, listTasks, readTask } from '../repository/store.ts';
import type { TaskManifest } from '../repository/types.ts';
import { DEFAULT_LIMITS } from '../serve/limits.ts';
import type { InitialVersions } from '../serve/model-registry.ts';
import {
  DEFAULT_HOST,
  DEFAULT_HTTP_PORT,
  DEFAULT_METRICS_PORT,
  type RunningServer,
  startServer,
} from '../serve/server.ts';
import { processContext } from './context.ts';
import { checkCpus } from './cpus.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { stderrLogger } from './logger.ts';
import { readToken } from './options.ts';
import { parseCpus, parseDurationMs, parseInteger, parseNumber } from './parse.ts';
import type { ReadyLine } from './server-process.ts';

interface ServeOptions {
  readonly host: string;
  readonly port: number;
  readonly metricsPort: number;
  readonly cpus?: number[];
  readonly initial: string;
  readonly policy?: string;
  readonly timeScale: number;
  readonly slo?: number;
  readonly maxQueue: number;
  readonly maxWait: number;
  readonly maxBody: number;
  readonly tokenFile?: string;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
  readonly exitWithParent?: boolean;
  readonly json?: boolean;
}

export function serveCommand(): Command {
  return new Command('serve')
    .description('Serve a model repository over the Open Inference Protocol (REST) with Prometheus metrics.')
    .argument('<repository>', 'a folder of <task>/<version>/model.onnx')
    .addOption(
      new Option('--host <address>', 'where to listen; beyond loopback --token-file is needed').default(
        DEFAULT_HOST,
      ),
    )
    .addOption(
      new Option('--port <n>', 'REST; 0 takes a free one')
        .argParser(parseInteger(0, 65_535))
        .default(DEFAULT_HTTP_PORT),
    )
    .addOption(
      new Option('--metrics-port <n>', 'Prometheus metrics; 0 takes a free one')
        .argParser(parseInteger(0, 65_535))
        .default(DEFAULT_METRICS_PORT),
    )
    .addOption(
      new Option(
        '--cpus <list>',
        'the CPUs to use, such as 0 or 0-1; one inference at a time on each',
      ).argParser(parseCpus),
    )
    .addOption(
      new Option(
        '--initial <version>',
        'what each task starts with: largest, smallest, a number, or TASK=NUMBER,…',
      ).default('largest'),
    )
    .addOption(new Option('--policy <name>', `orchestrate in this process: ${POLICY_NAMES.join(', ')}`))
    .addOption(
      new Option('--time-scale <factor>', 'factor on the time constants of --policy')
        .argParser(parseNumber(0.001, 1000))
        .default(1),
    )
    .addOption(
      new Option(
        '--slo <duration>',
        'latency objective: what cannot be answered within it is refused at once',
      ).argParser(parseDurationMs),
    )
    .addOption(
      new Option('--max-queue <n>', 'requests that may wait')
        .argParser(parseInteger(1))
        .default(DEFAULT_LIMITS.maxQueueLength),
    )
    .addOption(
      new Option('--max-wait <duration>', 'how long a request may wait at most')
        .argParser(parseDurationMs)
        .default(DEFAULT_LIMITS.maxQueueWaitMs, `${DEFAULT_LIMITS.maxQueueWaitMs}ms`),
    )
    .addOption(
      new Option('--max-body <bytes>', 'of a request')
        .argParser(parseInteger(1))
        .default(DEFAULT_LIMITS.maxBodyBytes),
    )
    .option('--token-file <file>', 'a file with the bearer token for loading and unloading')
    .addOption(new Option('--log-level <level>').choices(['debug', 'info', 'warn', 'error']).default('info'))
    .option('--exit-with-parent', 'drain and end when standard input closes')
    .option('--json', 'print one JSON line with the addresses when ready')
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai serve models --cpus 0
  $ bonsai serve models --cpus 0 --policy trivial --slo 400ms
  $ curl -s http://127.0.0.1:8000/v2/models/mnist

A repository of which nothing can be served is refused; a task that fails beside others is reported and left out.
SIGTERM or Ctrl-C drains: requests taken in are answered, then the server ends.
${EXIT_CODE_HELP}`,
    )
    .action(async (repository: string, options: ServeOptions) => {
      const context = processContext(options);
      const logger = stderrLogger(options.logLevel);
      if (options.cpus !== undefined) checkCpus(options.cpus);
      const adminToken = options.tokenFile === undefined ? undefined : await readToken(options.tokenFile);
      // A policy that cannot be should show before anything is loaded.
      const policy =
        options.policy === undefined
          ? undefined
          : policyByName(options.policy, { timeScale: options.timeScale });
      await checkServable(repository);
      const server = await startServer({
        repository,
        logger,
        clock: context.clock,
        host: options.host,
        httpPort: options.port,
        metricsPort: options.metricsPort,
        cpus: options.cpus,
        initialVersions: await initialVersions(repository, options.initial),
        limits: {
          maxQueueLength: options.maxQueue,
          maxQueueWaitMs: options.maxWait,
          maxLatencyMs: options.slo,
          maxBodyBytes: options.maxBody,
        },
        adminToken,
      });
      await checkServing(server, repository);
      const letParentGo = options.exitWithParent ? endWithParent() : undefined;
      const ready: ReadyLine = { ready: true, http: server.httpUrl, metrics: server.metricsUrl };
      process.stdout.write(
        options.json
          ? `${JSON.stringify(ready)}\n`
          : `Serving ${repository}: REST ${server.httpUrl}, metrics ${server.metricsUrl}\n`,
      );
      try {
        if (policy === undefined) await aborted(context.signal);
        else {
          const adapter = v2Server({
            url: server.httpUrl,
            metricsUrl: server.metricsUrl,
            clock: context.clock,
            token: adminToken,
          });
          try {
            await runLoop({
              servers: [adapter],
              policy,
              objective: { tasks: await manifestsOf(repository), sloMs: options.slo },
              clock: context.clock,
              signal: context.signal,
              logger,
            });
          } finally {
            await adapter.close();
          }
        }
      } finally {
        await server.close();
        letParentGo?.();
      }
    });
}

/**
 * Stops this process when the one that holds the other end of its input ends.
 * @returns stops listening: an input that is read keeps a process alive that has nothing left to do
 */
function endWithParent(): () => void {
  const stop = () => process.kill(process.pid, 'SIGTERM');
  process.stdin.resume().once('close', stop);
  return () => process.stdin.off('close', stop).destroy();
}

/** Resolves at the first signal to stop. */
function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/**
 * Refuses a repository that holds nothing to serve before a port is opened. One that is not there is for the server
 * to report, after what is wrong with its options.
 */
async function checkServable(repository: string): Promise<void> {
  const names = await listFolders(repository).catch(() => undefined);
  if (names === undefined) return;
  const refusals: string[] = [];
  for (const name of names) {
    try {
      const { versions, problems } = await readTask(repository, name);
      if (versions.length > 0) return;
      refusals.push(
        `${name}: ${problems.map(({ error }) => error.message).join(' ') || 'it has no version.'}`,
      );
    } catch (thrown) {
      refusals.push(
        thrown instanceof ModelNotFoundError
          ? `${name}: not a task (neither bonsai.json nor VERSION/model.onnx).`
          : `${name}: ${messageOf(thrown)}`,
      );
    }
  }
  throw nothingToServe(repository, refusals);
}

/** Closes a server none of whose networks could be loaded. */
async function checkServing(server: RunningServer, repository: string): Promise<void> {
  const entries = await server.models.index();
  if (entries.some(({ state }) => state === 'READY')) return;
  await server.close();
  throw nothingToServe(
    repository,
    entries.map(
      ({ name, version, reason }) =>
        `${name}${version === undefined ? '' : `/${version}`}: ${reason ?? 'it was not loaded.'}`,
    ),
  );
}

/** So many refusals are told one by one; the rest is counted. */
export const MAX_REFUSALS_SHOWN = 20;

/** @param refusals what was found, and why it cannot be served; a line each */
function nothingToServe(repository: string, refusals: readonly string[]): BonsaiError {
  const shown = refusals.slice(0, MAX_REFUSALS_SHOWN);
  const rest = refusals.length - shown.length;
  return new BonsaiError(
    'load_failed',
    `Nothing in ${repository} can be served${refusals.length === 0 ? ': it is empty.' : ':'}\n` +
      shown.map((line) => `  ${line}\n`).join('') +
      (rest > 0 ? `  and ${rest} more\n` : '') +
      `Check it with "bonsai repo verify ${repository}", or write a task: bonsai port MODEL.onnx --data … --out ${repository}`,
  );
}

async function manifestsOf(repository: string): Promise<TaskManifest[]> {
  const tasks = await Promise.all((await listTasks(repository)).map((task) => readTask(repository, task)));
  return tasks.flatMap(({ manifest }) => (manifest === undefined ? [] : [manifest]));
}

async function initialVersions(repository: string, spec: string): Promise<InitialVersions> {
  if (spec === 'largest' || spec === 'smallest') return spec;
  const tasks = await listTasks(repository);
  const versions: Record<string, number> = /^[1-9]\d*$/.test(spec)
    ? Object.fromEntries(tasks.map((task) => [task, Number(spec)]))
    : Object.fromEntries(
        spec.split(',').map((part) => {
          const [, task, version] = /^(.+)=([1-9]\d*)$/.exec(part) ?? [];
          if (task === undefined) {
            throw new InvalidArgumentError(
              `--initial should be largest, smallest, a version, or TASK=VERSION,…; got "${spec}".`,
            );
          }
          return [task, Number(version)];
        }),
      );
  for (const [task, version] of Object.entries(versions)) {
    const known = (await readTask(repository, task)).versions.map((stored) => stored.version);
    if (!known.includes(version)) {
      throw new InvalidArgumentError(
        `--initial: "${task}" has no version ${version}; it has ${known.join(', ') || 'none'}.`,
      );
    }
  }
  return versions;
}
