import { totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { Command, Option } from 'commander';
import { InvalidArgumentError, messageOf } from '../base/errors.ts';
import { administrators } from '../orchestrate/administrators.ts';
import type { Policy } from '../policy/policy.ts';
import {
  DISPATCH_POLICY_NAMES,
  dispatchPolicyByName,
  livePolicyName,
  POLICY_NAMES,
} from '../policy/registry.ts';
import { ModelNotFoundError } from '../repository/errors.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import type { TaskStore } from '../repository/task-store.ts';
import type { TaskManifest } from '../repository/types.ts';
import { availableCores } from '../serve/cpu-budget.ts';
import type { InferRequest } from '../serve/data-plane.ts';
import { NothingServedError } from '../serve/errors.ts';
import { DEFAULT_LIMITS } from '../serve/limits.ts';
import {
  DEFAULT_CONTROL_PORT,
  DEFAULT_GRPC_PORT,
  DEFAULT_HOST,
  DEFAULT_HTTP_PORT,
  DEFAULT_METRICS_PORT,
} from '../serve/listen.ts';
import type { ModelMeshOptions } from '../serve/model-mesh.ts';
import type { InitialVersions, ModelControl } from '../serve/model-registry.ts';
import { DEFAULT_POLL_MS, inlineBelowDefaults, type ServerOptions, startServer } from '../serve/server.ts';
import { addCacheOptions, type CacheOptions } from './cache-options.ts';
import { addCloudOptions, type CloudOptions, checkCloudOptions, openCloudSide } from './cloud-options.ts';
import { processContext } from './context.ts';
import { checkCpuQuota, checkCpus } from './cpus.ts';
import { endWithChannel } from './end-with-channel.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { stderrLogger } from './logger.ts';
import { noticeWebhookOption, webhookOf } from './notices.ts';
import { openRepository } from './open-repository.ts';
import {
  parseBytes,
  parseCpus,
  parseDurationMs,
  parseInteger,
  parseNumber,
  parseNumberWithin,
} from './parse.ts';
import { isPolicyFile, readPolicyFile } from './policy-file.ts';
import {
  addSafetyOptions,
  followCredentials,
  limitsOf,
  readCredentials,
  type SafetyOptions,
} from './serve-safety.ts';
import type { ReadyLine } from './server-process.ts';
import { suggest, wholeNames } from './suggestions.ts';
import { readTaskObjectives } from './task-objectives.ts';
import { adaptV8 } from './v8-settings.ts';

interface ServeOptions extends SafetyOptions, CacheOptions, CloudOptions {
  readonly host: string;
  readonly port: number;
  readonly grpcPort?: number | 'off';
  readonly metricsPort: number;
  readonly controlPort?: number | 'off';
  readonly cpus?: number[];
  readonly cpuQuota?: number;
  readonly slots?: number;
  readonly threads: number;
  readonly inlineBelow?: number;
  readonly initial: string;
  readonly policy?: string;
  readonly timeScale: number;
  readonly residency?: number;
  readonly noticeWebhook?: string;
  readonly slo?: number;
  readonly maxQueue: number;
  readonly maxWait: number;
  readonly maxMemory?: number;
  readonly modelControlMode?: ModelControl;
  readonly loadModel?: readonly string[];
  readonly repositoryPollSecs: number;
  readonly modelmeshModels?: string;
  readonly modelmeshCapacity?: number;
  readonly strictReadiness?: boolean;
  readonly requestLog?: boolean;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
  readonly oneModelPerProcess?: boolean;
  readonly exitWithParent?: boolean;
  readonly json?: boolean;
}

export function serveCommand(): Command {
  const command = new Command('serve')
    .description(
      'Serve a model repository over the Open Inference Protocol (REST and gRPC) with Prometheus metrics.',
    )
    .argument('<repository>', 'a folder of <task>/<version>/model.onnx, or s3://BUCKET/PREFIX')
    .addOption(
      new Option('--host <address>', 'where to listen; beyond loopback --admin-token-file is needed').default(
        DEFAULT_HOST,
      ),
    )
    .addOption(
      new Option('--port <n>', 'REST; 0 takes a free one')
        .argParser(parseInteger(0, 65_535))
        .default(DEFAULT_HTTP_PORT),
    )
    .addOption(
      new Option(
        '--grpc-port <n>',
        `gRPC; 0 takes a free one, off offers none (default: ${DEFAULT_GRPC_PORT}, or a free one if --port is 0)`,
      ).argParser((text) => (text === 'off' ? text : parseInteger(0, 65_535)(text))),
    )
    .addOption(
      new Option('--metrics-port <n>', 'Prometheus metrics; 0 takes a free one')
        .argParser(parseInteger(0, 65_535))
        .default(DEFAULT_METRICS_PORT),
    )
    .addOption(
      new Option(
        '--control-port <n>',
        `the live page; 0 takes a free one, off offers none (default: ${DEFAULT_CONTROL_PORT}, or a free one if that is in use or --port is 0)`,
      ).argParser((text) => (text === 'off' ? text : parseInteger(0, 65_535)(text))),
    )
    .addOption(
      new Option(
        '--cpus <list>',
        'the CPUs to use, such as 0 or 0-1; by default those that affinity and cgroup quota allow',
      ).argParser(parseCpus),
    )
    .addOption(
      new Option(
        '--cpu-quota <n>',
        "CPUs' worth of time that the whole server is held to, such as 0.5: inferences rest in between",
      ).argParser(
        parseNumberWithin(
          (value) => value > 0 && Number.isFinite(value),
          'a number of CPUs above 0 such as 0.5',
          'A server without CPU time answers nothing.',
        ),
      ),
    )
    .addOption(
      new Option('--threads <n>', 'threads of one inference').argParser(parseInteger(1, 256)).default(1),
    )
    .addOption(
      new Option('--slots <n>', 'inferences at a time; by default CPUs / threads').argParser(
        parseInteger(1, 256),
      ),
    )
    .addOption(
      new Option(
        '--inline-below <duration>',
        `networks of shorter inferences run in the thread that has the sockets; off for none; by default ${inlineBelowDefaults.oneSlotMs}ms where one inference runs at a time, else ${inlineBelowDefaults.manySlotsMs}ms`,
      ).argParser((text) => (text === 'off' ? 0 : parseDurationMs(text))),
    )
    .addOption(
      suggest(
        new Option(
          '--initial <version>',
          'what each task starts with: largest, smallest, a number, or TASK=NUMBER,…',
        ).default('largest'),
        ['largest', 'smallest'],
      ),
    )
    .addOption(
      suggest(
        new Option(
          '--policy <name>',
          `orchestrate in this process: ${[...POLICY_NAMES, ...DISPATCH_POLICY_NAMES].join(', ')}, or a FILE that exports one`,
        ),
        wholeNames([...POLICY_NAMES, ...DISPATCH_POLICY_NAMES]),
      ),
    )
    .addOption(
      new Option(
        '--residency <n>',
        `versions of each task that --policy may have in memory; by default as many as fit into ${DEFAULT_LIMITS.maxResidentVersions} of all tasks`,
      ).argParser(parseInteger(1, DEFAULT_LIMITS.maxResidentVersions)),
    )
    .addOption(noticeWebhookOption())
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
      new Option(
        '--max-memory <bytes>',
        'resident memory past which inference threads are replaced by fresh ones',
      ).argParser(parseInteger(1)),
    )
    .addOption(
      new Option(
        '--model-control-mode <mode>',
        'who decides what is loaded: nobody after the start, clients, or what lies in the repository. ' +
          'By default clients, and everything is loaded at the start; with explicit only --load-model is',
      ).choices(['none', 'explicit', 'poll']),
    )
    .addOption(
      new Option('--load-model <name>', 'a task to load at the start; repeatable; * for all').argParser(
        (name: string, names: readonly string[] = []) => [...names, name],
      ),
    )
    .addOption(
      new Option(
        '--repository-poll-secs <n>',
        'how often the repository is looked at in mode poll, and a bucket in every mode',
      )
        .argParser(parseNumber(0.1, 86_400))
        .default(DEFAULT_POLL_MS / 1000),
    )
    .option(
      '--modelmesh-models <dir>',
      "offer ModelMesh's service mmesh.ModelRuntime over gRPC; the folder into which its puller puts models",
    )
    .addOption(
      new Option(
        '--modelmesh-capacity <size>',
        'memory for models that ModelMesh loads, such as 2GB (default: --max-memory, else half of what the system gives)',
      ).argParser(parseBytes),
    )
    .option('--strict-readiness', 'not ready as long as any version that should serve does not')
    .option('--request-log', 'write a line for each REST request to the log')
    .addOption(new Option('--log-level <level>').choices(['debug', 'info', 'warn', 'error']).default('info'))
    .option(
      '--one-model-per-process',
      'for experiments: serve each version from a process of its own, started on its first request (REST only)',
    )
    .option('--exit-with-parent', 'drain and end when standard input closes')
    .option('--json', 'print one JSON line with the addresses when ready');
  return addCloudOptions(addCacheOptions(addSafetyOptions(command)))
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai serve models --cpus 0
  $ bonsai serve models --cpus 0 --policy bonsai --slo 400ms
  $ bonsai serve models --cpu-quota 0.5
  $ curl -s http://127.0.0.1:8000/v2/models/mnist
  $ bonsai serve models --cpus 0-3 --threads 2 --max-memory 1000000000
  $ bonsai serve s3://edge-models/fleet --model-control-mode poll --cache-limit 500MB

A repository of which nothing can be served is refused; a task that fails beside others is reported and left out.
SIGTERM or Ctrl-C drains: requests taken in are answered, then the server ends.
${EXIT_CODE_HELP}`,
    )
    .action(async (repository: string, options: ServeOptions, self: Command) => {
      adaptV8();
      const context = processContext(options);
      const logger = stderrLogger(options.logLevel);
      if (options.cpus !== undefined) checkCpus(options.cpus);
      if (options.cpuQuota !== undefined) checkCpuQuota(options.cpuQuota, options.cpus);
      const budgetCores = budgetOf(options);
      if (options.oneModelPerProcess) {
        if (isS3Url(repository))
          throw new InvalidArgumentError(
            '--one-model-per-process serves a folder; bring the bucket here: bonsai repo pull.',
          );
        const { serveProcesses } = await import('./serve-processes.ts');
        const letParentGo = options.exitWithParent ? endWithParent() : undefined;
        endWithChannel();
        await serveProcesses(repository, { ...options }, context, logger);
        letParentGo?.();
        return;
      }
      const loading = loadingOf(options);
      const credentials = await readCredentials(options);
      // A policy that cannot be should show before anything is loaded.
      const policy = options.policy === undefined ? undefined : await policyOf(options.policy, options);
      const opened = await openRepository(repository, options, context, logger);
      const { store } = opened;
      const names = await store.listTasks().catch(() => undefined);
      checkCloudOptions(self, options, names);
      const objectives = await readTaskObjectives(self, names);
      const told = administrators({
        logger,
        clock: context.clock,
        webhook: await webhookOf(options.noticeWebhook),
      });
      if (loading.mustServe) await checkServable(store);
      let limitMsOf: (request: InferRequest) => number | undefined = () => undefined;
      const cloud = await openCloudSide(options, context, logger, (request) => limitMsOf(request));
      const server = await startServer({
        repository: store,
        logger,
        clock: context.clock,
        host: options.host,
        httpPort: options.port,
        grpcPort: grpcPortOf(options),
        metricsPort: options.metricsPort,
        controlPort: controlPortOf(options),
        cpus: options.cpus,
        slots: options.slots,
        threads: options.threads,
        inlineBelowMs: options.inlineBelow,
        cpuBudgetCores: budgetCores,
        cpuQuotaCores: options.cpuQuota === undefined ? undefined : budgetCores,
        initialVersions: await initialVersions(store, options.initial),
        limits: {
          maxQueueLength: options.maxQueue,
          maxQueueWaitMs: options.maxWait,
          maxLatencyMs: options.slo,
          ...limitsOf(options),
          ...(options.maxMemory !== undefined && { maxMemoryBytes: options.maxMemory }),
        },
        ...credentials,
        ...loading,
        modelMesh: modelMeshOf(options),
        isReadinessStrict: options.strictReadiness,
        logsRequests: options.requestLog,
        review: cloud?.review,
        moreMetrics: () =>
          (policy === undefined ? '' : told.metricsText()) +
          opened.metricsText() +
          (cloud?.metricsText() ?? ''),
      });
      server.overrides.setObjectives(objectives);
      limitMsOf = ({ maxLatencyMs, model }) => maxLatencyMs ?? server.plane.objectiveMsOf(model);
      opened.watch(options.repositoryPollSecs * 1000);
      const stopFollowing = followCredentials(options, server, logger);
      const letParentGo = options.exitWithParent ? endWithParent() : undefined;
      endWithChannel();
      const ready: ReadyLine = {
        ready: true,
        http: server.httpUrl,
        ...(server.grpcAddress === undefined ? {} : { grpc: server.grpcAddress }),
        metrics: server.metricsUrl,
        ...(server.controlUrl === undefined ? {} : { control: server.controlUrl }),
      };
      process.stdout.write(
        options.json
          ? `${JSON.stringify(ready)}\n`
          : `Serving ${store.name}: REST ${server.httpUrl}, ${server.grpcAddress === undefined ? '' : `gRPC ${server.grpcAddress}, `}metrics ${server.metricsUrl}\n${server.controlUrl === undefined ? '' : `See it at ${server.controlUrl}\n`}`,
      );
      try {
        if (policy === undefined) await aborted(context.signal);
        else {
          // Most servers have no policy of their own: its client of HTTP and what it needs are not loaded then.
          const { followPolicy } = await import('./serve-policy.ts');
          const tasks = await manifestsOf(store);
          await followPolicy(server, policy, {
            objective: { tasks, sloMs: options.slo, byTask: Object.fromEntries(objectives) },
            // A policy that names one version per task would have others for nothing.
            residency: policy.dispatch === undefined ? 1 : (options.residency ?? residencyOf(tasks.length)),
            administrators: told,
            context,
            logger,
            token: (credentials.tokens.administration ?? credentials.tokens.inference)?.[0],
            isEncrypted: credentials.tls !== undefined,
          });
        }
      } finally {
        stopFollowing();
        logger.info('stopping: requests taken in are answered first');
        await server.close();
        logger.info('stopped');
        await cloud?.close();
        await opened.close();
        letParentGo?.();
      }
    });
}

/** @throws InvalidArgumentError for options that do not go together */
function modelMeshOf(options: ServeOptions): ModelMeshOptions | undefined {
  const { modelmeshModels: folder, modelmeshCapacity, maxMemory } = options;
  if (folder === undefined) {
    if (modelmeshCapacity === undefined) return undefined;
    throw new InvalidArgumentError('--modelmesh-capacity needs --modelmesh-models.');
  }
  if (options.grpcPort === 'off' || (options.modelControlMode ?? 'explicit') !== 'explicit')
    throw new InvalidArgumentError(
      '--modelmesh-models needs gRPC, and a server whose models clients load: no --grpc-port off, no --model-control-mode but explicit.',
    );
  // Of a process without a limit of its own, a number beyond any machine.
  const givenBytes = Math.min(process.constrainedMemory() || Number.POSITIVE_INFINITY, totalmem());
  return { folder, capacityBytes: modelmeshCapacity ?? maxMemory ?? Math.floor(givenBytes / 2) };
}

async function policyOf(spec: string, { timeScale }: ServeOptions): Promise<Policy> {
  return isPolicyFile(spec)
    ? await readPolicyFile(spec)
    : dispatchPolicyByName(livePolicyName(spec), { timeScale });
}

/** Versions of each of so many tasks, with room for the one that replaces another. */
function residencyOf(taskCount: number): number {
  return Math.max(1, Math.floor((DEFAULT_LIMITS.maxResidentVersions - 1) / Math.max(1, taskCount)));
}

/** CPUs given: those named, or all that this process may use; never more than a quota, be it ours or the system's. */
function budgetOf({ cpus, cpuQuota = Number.POSITIVE_INFINITY }: ServeOptions): number {
  const cores = cpus === undefined ? availableCores() : availableCores(undefined, cpus.length);
  return Math.min(cores, cpuQuota);
}

/** What is loaded at the start and who decides afterwards. @throws InvalidArgumentError for options that exclude each other */
function loadingOf(
  options: ServeOptions,
): Pick<ServerOptions, 'modelControl' | 'loadModels' | 'pollIntervalMs' | 'mustServe'> {
  const { modelControlMode: mode, loadModel: names } = options;
  if (mode !== 'explicit' && mode !== undefined && names !== undefined)
    throw new InvalidArgumentError(`--load-model needs --model-control-mode explicit, not ${mode}.`);
  if (mode !== 'explicit' && mode !== undefined && options.policy !== undefined) {
    throw new InvalidArgumentError(
      `--policy loads and unloads versions, which --model-control-mode ${mode} does not allow; leave one of them out.`,
    );
  }
  const loadModels = names?.includes('*') ? undefined : (names ?? (mode === 'explicit' ? [] : undefined));
  return {
    modelControl: mode,
    loadModels,
    pollIntervalMs: options.repositoryPollSecs * 1000,
    // An empty server may wait for what comes later.
    mustServe: mode !== 'poll' && loadModels?.length !== 0,
  };
}

/** Who lets the system choose the port of REST runs several servers, and they are not to meet on the port of gRPC. */
function grpcPortOf({ port, grpcPort }: ServeOptions): number | undefined {
  if (grpcPort === 'off') return undefined;
  return grpcPort ?? (port === 0 ? 0 : DEFAULT_GRPC_PORT);
}

function controlPortOf({ port, controlPort }: ServeOptions): number | 'default' | undefined {
  if (controlPort === 'off') return undefined;
  return controlPort ?? (port === 0 ? 0 : 'default');
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
async function checkServable(store: TaskStore): Promise<void> {
  const names = await store.listFolders().catch(() => undefined);
  if (names === undefined) return;
  const refusals: string[] = [];
  for (const name of names) {
    try {
      const { versions, problems } = await store.readTask(name);
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
  if (names.length > 0 && names.every((name) => /^[1-9]\d*$/.test(name))) {
    throw new InvalidArgumentError(
      `${store.name} is a task, with its versions; serve the repository that it lies in: bonsai serve ${isS3Url(store.name) ? dirname(store.name) : join(store.name, '..')}`,
    );
  }
  throw new NothingServedError(store.name, refusals);
}

async function manifestsOf(store: TaskStore): Promise<TaskManifest[]> {
  const tasks = await Promise.all((await store.listTasks()).map((task) => store.readTask(task)));
  return tasks.flatMap(({ manifest }) => (manifest === undefined ? [] : [manifest]));
}

async function initialVersions(store: TaskStore, spec: string): Promise<InitialVersions> {
  if (spec === 'largest' || spec === 'smallest') return spec;
  const tasks = await store.listTasks();
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
    const known = (await store.readTask(task)).versions.map((stored) => stored.version);
    if (!known.includes(version)) {
      throw new InvalidArgumentError(
        `--initial: "${task}" has no version ${version}; it has ${known.join(', ') || 'none'}.`,
      );
    }
  }
  return versions;
}
