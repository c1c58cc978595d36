import { Command, Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import { describeTarget } from '../engine/target.ts';
import { CLOSED_LOOP_DEFAULTS, findMaximalThroughput, measureThroughput } from '../load/closed-loop.ts';
import type { LabelledInputs } from '../load/labelled-inputs.ts';
import { v2Server } from '../orchestrate/adapters/v2-server.ts';
import type { Throughput } from '../port/pipeline.ts';
import { profileLatency } from '../port/profile/latency.ts';
import { repeatUntilStable, untilAnswered } from '../port/profile/throughput.ts';
import { listTasks, modelPathOf, readManifest, updateProfiles } from '../repository/store.ts';
import type { Profile, Target, TaskManifest } from '../repository/types.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { checkCpus } from './cpus.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { labelledInputs } from './inputs.ts';
import { dataOption, jsonOption, loadData, seedOption, workOption } from './options.ts';
import { parseCpus, parseInteger } from './parse.ts';
import { familyTable } from './repo.ts';
import { startServerProcess } from './server-process.ts';

interface ProfileOptions {
  readonly task?: string;
  readonly data: string;
  readonly cpus: number[];
  readonly server?: string;
  readonly metrics?: string;
  readonly runs: number;
  readonly seed: number;
  readonly work: string;
  readonly json?: boolean;
}

/** CPUs that a server gets where none are named. */
export const DEFAULT_CPUS = [0];

export function cpusOption(): Option {
  return new Option('--cpus <list>', 'CPUs that the server is given, such as 0 or 0-1')
    .argParser(parseCpus)
    .default(DEFAULT_CPUS, '0');
}

export function profileCommand(): Command {
  return new Command('profile')
    .description('Measure latency and maximal throughput of every variant on a target.')
    .argument('<repository>', 'the model repository; profiles are written into it')
    .option('--task <name>', 'only this task (default: the only one)')
    .addOption(dataOption())
    .addOption(cpusOption())
    .option(
      '--server <url>',
      'measure throughput on this running server of the same repository (default: one is started)',
    )
    .option('--metrics <url>', 'the metrics of --server')
    .addOption(
      new Option('--runs <n>', 'single inferences for the latency').argParser(parseInteger(10)).default(1000),
    )
    .addOption(seedOption())
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Example:
  $ bonsai profile models --data mnist --cpus 0

Throughput is measured through the server's own protocol: requests under way are doubled until throughput
stops rising; then the measurement is repeated until three in a row agree within 15 %.
${EXIT_CODE_HELP}`,
    )
    .action(async (repository: string, options: ProfileOptions) => {
      const context = processContext(options);
      // A server that runs elsewhere has CPUs of its own.
      if (options.server === undefined) checkCpus(options.cpus);
      const manifest = await readManifest(repository, options.task ?? (await onlyTask(repository)));
      const dataset = await loadData(context, options);
      const target: Target = describeTarget({ cpus: options.cpus.length });
      const inputs = labelledInputs(dataset, dataset.test, manifest);
      const profiles = new Map<number, Profile>();
      const bar = context.progress.task('Profiling', manifest.variants.length);
      const profileAll = async () => {
        const bench = await openThroughputBench(context, { ...options, repository, manifest, inputs });
        try {
          for (const [index, variant] of manifest.variants.entries()) {
            bar.update(index, `version ${variant.version}`);
            const latencyMs = await profileLatency(modelPathOf(repository, manifest.task, variant.version), {
              runs: options.runs,
              seed: options.seed,
              signal: context.signal,
            });
            const throughput = await bench.measure(variant.version);
            profiles.set(variant.version, {
              target,
              measuredAt: new Date(context.clock.epochMs()).toISOString(),
              latencyMs,
              ...throughput,
            });
          }
        } finally {
          await bench.close();
        }
      };
      await interruptible(
        context.signal,
        'No profile was written; start it again to measure anew.',
        profileAll,
      );
      const profiled = await updateProfiles(repository, manifest.task, profiles);
      bar.done(`${profiles.size} variants on ${target.cpuModel}, ${target.cpus} CPU`);
      context.result(profiled, familyTable(profiled));
    });
}

export async function onlyTask(repository: string): Promise<string> {
  const tasks = await listTasks(repository);
  if (tasks.length === 1) return tasks[0]!;
  throw new InvalidArgumentError(
    tasks.length === 0
      ? `There is no task in the repository ${repository}.`
      : `The repository ${repository} has the tasks ${tasks.join(', ')}: name one with --task.`,
  );
}

export interface ThroughputBench {
  measure(version: number): Promise<Throughput>;
  close(): Promise<void>;
}

/** A quick rise finds the concurrency; the repeats that count are longer. */
const RISE_DURATION_MS = 400;
const RISE_WARMUP_MS = 100;
/** A slot holds one inference and its successor; more only fills the queue. Beyond that, for servers with many slots. */
const RISE_CONCURRENCIES = [2, 4, 8, 16, 32];

/** A server (started or given) on which one version after the other is put and driven to its maximum. */
export async function openThroughputBench(
  context: Context,
  options: {
    readonly repository: string;
    readonly manifest: TaskManifest;
    readonly inputs: LabelledInputs;
    readonly cpus: readonly number[];
    readonly seed: number;
    readonly server?: string;
    readonly metrics?: string;
    readonly durationMs?: number;
  },
): Promise<ThroughputBench> {
  const { repository, manifest, inputs, seed } = options;
  const own =
    options.server === undefined
      ? await startServerProcess({ repository, cpus: options.cpus, initial: 'smallest' })
      : undefined;
  const url = own?.httpUrl ?? options.server!;
  const adapter = v2Server({
    url,
    metricsUrl: own?.metricsUrl ?? options.metrics ?? url,
    clock: context.clock,
  });
  const shared = { url, model: manifest.task, inputs, clock: context.clock, seed, signal: context.signal };
  return {
    async measure(version) {
      await adapter.switchVersion(manifest.task, version, context.signal);
      const what = `version ${version} of "${manifest.task}"`;
      const { concurrency } = await untilAnswered(
        what,
        (factor) =>
          findMaximalThroughput({
            ...shared,
            repeats: 1,
            concurrencies: RISE_CONCURRENCIES,
            warmupMs: RISE_WARMUP_MS,
            durationMs: factor * RISE_DURATION_MS,
          }),
        context.signal,
      );
      const durationMs = options.durationMs ?? CLOSED_LOOP_DEFAULTS.durationMs;
      const measureOnce = () =>
        untilAnswered(
          what,
          (factor) => measureThroughput({ ...shared, concurrency, durationMs: factor * durationMs }),
          context.signal,
        );
      const throughputRps = await repeatUntilStable(async () => (await measureOnce()).throughputRps, {
        signal: context.signal,
      });
      return { throughputRps, concurrency };
    },
    async close() {
      await adapter.close();
      await own?.close();
    },
  };
}
