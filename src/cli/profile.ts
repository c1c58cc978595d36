import { join } from 'node:path';
import { Command, Option } from 'commander';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import type { TargetDescription } from '../engine/target.ts';
import type { Contestant } from '../load/contest.ts';
import type { LabelledInputs } from '../load/labelled-inputs.ts';
import { latencyDefaults, profileLatency } from '../port/profile/latency.ts';
import { profileMemory } from '../port/profile/memory.ts';
import {
  mergeContested,
  missingParts,
  type ProfilePart,
  type WantedProfile,
} from '../port/profile/profile-parts.ts';
import { keptShare } from '../port/profile/relative-throughput.ts';
import { repeatDefaults } from '../port/profile/throughput.ts';
import type { MeasuredProfile } from '../repository/profiles.ts';
import { listTasks, modelPathOf, readTask } from '../repository/store.ts';
import type { ContestedThroughput, Profile, TaskManifest, Variant } from '../repository/types.ts';
import { bindThisProcess, hasTaskset } from './command-process.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { allotCpus, checkCpus, type MeasuringCpus, usableCpus } from './cpus.ts';
import { endWithChannel } from './end-with-channel.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { labelledInputs } from './inputs.ts';
import { dataOption, jsonOption, loadData, readToken, seedOption, workOption } from './options.ts';
import { parseCpus, parseDurationMs, parseInteger, parseServerUrl } from './parse.ts';
import { type MeasuredThroughput, openServerBench, type ServerBench, type Subject } from './profile-bench.ts';
import { openProfileRepository, type ProfileRepository, readFamily } from './profile-repository.ts';
import { percentText, profileTables, targetText } from './profile-table.ts';
import { fetchTask } from './remote-task.ts';
import { seededInputs } from './seeded-inputs.ts';
import {
  addWorkerOptions,
  isStartedWorker,
  partOf,
  runWorkers,
  type Share,
  type WorkerOptions,
  workerName,
} from './workers.ts';

interface ProfileOptions extends WorkerOptions {
  readonly task?: string;
  readonly data?: string;
  readonly cpus: number[];
  readonly target?: string;
  readonly targetName?: string;
  readonly tokenFile?: string;
  readonly contest?: ContestSpec;
  readonly contestShare: number[];
  readonly again?: boolean;
  readonly runs: number;
  readonly repeats: number;
  readonly window: number;
  readonly seed: number;
  readonly work: string;
  readonly json?: boolean;
}

/** CPUs that a server gets where none are named. */
export const DEFAULT_CPUS = [0];

/** The folder that the examples of all commands write families into. */
export const DEFAULT_REPOSITORY = 'models';

/** The thesis' shares (Table 5.1). */
export const DEFAULT_CONTEST_SHARES = [0.25, 0.5];

/** One second holds 100 answers of a network of 10 ms: counting errs by 1 % at most. */
export const DEFAULT_WINDOW_MS = 1000;

export function cpusOption(): Option {
  return new Option('--cpus <list>', 'CPUs that the server is given, such as 0 or 0-1')
    .argParser(parseCpus)
    .default(DEFAULT_CPUS, '0');
}

export function windowOption(): Option {
  return new Option('--window <duration>', 'length of one throughput measurement')
    .argParser(parseDurationMs)
    .default(DEFAULT_WINDOW_MS, `${DEFAULT_WINDOW_MS}ms`);
}

export function profileCommand(): Command {
  const data = dataOption().makeOptionMandatory(false);
  data.description += ' (default: made-up inputs)';
  const command = new Command('profile')
    .description('Measure every variant on a target: latency, maximal throughput, load time, memory.')
    .argument(
      '[repository]',
      'the model repository, a folder or s3://BUCKET/PREFIX; profiles are written into it',
      DEFAULT_REPOSITORY,
    )
    .option('--task <name>', 'only this task (default: the only one)')
    .addOption(data)
    .addOption(cpusOption())
    .addOption(
      new Option(
        '--target <url>',
        'measure on this running server of the same repository (default: one is started here)',
      ).argParser(parseServerUrl),
    )
    .option('--target-name <name>', 'what to call the target, where its server does not describe it')
    .option('--token-file <file>', 'a file with the administration token of --target')
    .addOption(
      new Option(
        '--contest <task[:version]>',
        'measure also while this model takes shares of its own maximum on the same server',
      ).argParser(parseContest),
    )
    .addOption(
      new Option('--contest-share <list>', 'these shares, in percent')
        .argParser(parsePercentages)
        .default(DEFAULT_CONTEST_SHARES, '25,50'),
    )
    .option('--again', 'measure what is known of this target already, too')
    .addOption(
      new Option('--runs <n>', 'single inferences for the latency')
        .argParser(parseInteger(10))
        .default(latencyDefaults.runs),
    )
    .addOption(
      new Option('--repeats <n>', 'throughputs in a row that have to agree')
        .argParser(parseInteger(2, 100))
        .default(repeatDefaults.repeats),
    )
    .addOption(windowOption())
    .addOption(seedOption())
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai profile models --data mnist --cpus 0
  $ bonsai profile models --task cifar10 --contest bees:2 --contest-share 25,50
  $ bonsai profile models --target http://edge-box:8000 --token-file token
  $ bonsai profile models --task cifar10 --workers 4      four versions at a time, each on CPUs of its own
  $ bonsai profile s3://edge-models/fleet --task cifar10 --workers 4 --worker-index 0

Throughput is measured through the server's own protocol: requests under way are doubled until throughput
has not risen twice; then the measurement is repeated until three in a row agree within 15 %, at most nine times.
Each variant's profile is written when it is complete; started again, the command measures what is missing.
${EXIT_CODE_HELP}`,
    )
    .action(async (repository: string, options: ProfileOptions) => {
      const context = processContext(options);
      const part = partOf(options, context);
      if (isStartedWorker()) endWithChannel();
      if (part.kind !== 'whole' && options.target !== undefined)
        throw new InvalidArgumentError(
          '--workers measure on servers of their own, and --target is one for all: give one of them.',
        );
      await interruptible(context.signal, GO_ON, () =>
        part.kind === 'together'
          ? profileTogether(context, repository, options, part.count)
          : profileHere(context, repository, options, part.kind === 'share' ? part.share : undefined),
      );
    });
  return addWorkerOptions(command, 'versions');
}

const GO_ON = 'The profiles of finished variants are kept: start it again to measure the others.';

/** Measures the versions of a share, or all, and tells what came of it. */
async function profileHere(
  context: Context,
  spec: string,
  options: ProfileOptions,
  share: Share | undefined,
): Promise<void> {
  const cpus = cpusFor(options, share);
  const token = options.tokenFile === undefined ? undefined : await readToken(options.tokenFile);
  const opened = await openProfileRepository(context, spec, {
    task: options.task,
    beside: options.contest?.task,
    workDirectory: join(options.work, 'profile', String(share?.index ?? 'all')),
  });
  const { folder, manifest } = opened;
  const variants = manifest.variants.filter((_, i) => share === undefined || i % share.count === share.index);
  if (share !== undefined && variants.length === 0) {
    const text = `Nothing to do for ${workerName(share)}: ${manifest.task} has ${manifest.variants.length} versions.`;
    context.result({ ...manifest, worker: share, profiled: [], skipped: [] }, text);
    return;
  }
  const inputs = await inputsFor(context, manifest, options);
  const bench = await openServerBench(context, {
    url: options.target,
    token,
    repository: folder,
    cpus,
    targetName: options.targetName,
    seed: options.seed,
    windowMs: options.window,
    repeats: options.repeats,
  });
  try {
    const { record } = opened;
    const profiled = await profileFamily({
      ...{ context, options, repository: folder, record, manifest, variants, inputs, bench },
    });
    tell(context, { ...profiled, ...(share && { worker: share }) });
  } finally {
    await bench.close();
  }
}

/** The CPUs of the server that is started here. @throws InvalidArgumentError for such as are not there */
function cpusFor(options: ProfileOptions, share: Share | undefined): readonly number[] {
  // A server that runs elsewhere has CPUs of its own.
  if (options.target !== undefined) return options.cpus;
  if (share === undefined || isStartedWorker()) {
    checkCpus(options.cpus);
    return options.cpus;
  }
  // A pod has its own CPUs, whatever their numbers.
  const [{ server, client }] = allotCpus(options.cpus, 1) as [MeasuringCpus];
  if (client !== undefined) bindThisProcess(client);
  return server;
}

/** All shares at once on this machine, and what they measured as one result. */
async function profileTogether(
  context: Context,
  spec: string,
  options: ProfileOptions,
  count: number,
): Promise<void> {
  const { progress } = context;
  const allotted = allotCpus(options.cpus, count);
  if (!hasTaskset())
    throw new BonsaiError(
      'unsupported',
      'Workers that measure have to be bound to CPUs of their own, and there is no taskset here (Debian: util-linux). Leave out --workers.',
    );
  for (const [i, { server, client }] of allotted.entries())
    progress.say(
      `${workerName({ index: i, count })}: server on CPU ${server.join(',')}, requests from ${client === undefined ? 'wherever there is room' : `CPU ${client.join(',')}`}`,
    );
  if (allotted[0]!.client === undefined)
    progress.say(
      `There are not CPUs enough for those that send the requests: they take some from the servers, whose figures will be too low. Better: --workers ${Math.max(1, Math.floor(usableCpus().length / (options.cpus.length + 1)))}.`,
    );
  const results = await runWorkers(
    context,
    allotted.map(({ server, client }) => ({ more: ['--cpus', server.join(',')], boundTo: client })),
  );
  const workers = results as readonly (Profiled | Omit<Profiled, 'target'>)[]; // Our own command printed them.
  const found = workers.find((result): result is Profiled => 'target' in result);
  // Each worker knows the family as it was when it wrote its last profile.
  const manifest = await readFamily(context, spec, options.task);
  const all = (key: 'profiled' | 'skipped') => workers.flatMap((result) => result[key]).sort((a, b) => a - b);
  const joined = { ...manifest, target: found!.target, profiled: all('profiled'), skipped: all('skipped') };
  tell(context, joined); // The first worker has a version at least.
}

/** A family with what was measured of it, as it is printed under `--json`. */
interface Profiled extends TaskManifest {
  readonly target: TargetDescription;
  readonly profiled: readonly number[];
  readonly skipped: readonly number[];
}

function tell(context: Context, result: Profiled): void {
  context.result(result, profileTables(result, result.target));
}

/** Another model, its version perhaps left to be chosen. */
export interface ContestSpec {
  readonly task: string;
  readonly version?: number;
}

/** `bees` or `bees:2`. */
export function parseContest(text: string): ContestSpec {
  const [, task, version] = /^([^:]+)(?::([1-9]\d{0,8}))?$/.exec(text) ?? [];
  if (task === undefined)
    throw new InvalidArgumentError(
      `Expected a task such as bees, or bees:2 with its version, got "${text}".`,
    );
  return { task, ...(version !== undefined && { version: Number(version) }) };
}

/** `25,50` → 0.25 and 0.5, ascending, without repetition. */
export function parsePercentages(text: string): number[] {
  const shares = text.split(',').map((part) => {
    const percent = Number(part);
    if (part.trim() === '' || !(percent > 0 && percent < 100))
      throw new InvalidArgumentError(`Expected percentages between 0 and 100 such as 25,50, got "${text}".`);
    return percent / 100;
  });
  return [...new Set(shares)].sort((a, b) => a - b);
}

async function inputsFor(
  context: Context,
  manifest: TaskManifest,
  options: ProfileOptions,
): Promise<LabelledInputs> {
  const { data, seed, work } = options;
  if (data === undefined) return seededInputs(manifest, seed);
  const dataset = await loadData(context, { data, seed, work });
  return labelledInputs(dataset, dataset.test, manifest);
}

/** What profiling a family needs throughout. */
interface Profiling {
  readonly context: Context;
  readonly options: ProfileOptions;
  /** A folder with the networks. */
  readonly repository: string;
  readonly record: ProfileRepository['record'];
  readonly manifest: TaskManifest;
  /** Those to measure. */
  readonly variants: readonly Variant[];
  readonly inputs: LabelledInputs;
  readonly bench: ServerBench;
}

/** Measures what is missing of each variant, and writes its profile before it goes on to the next. */
async function profileFamily(profiling: Profiling): Promise<Profiled> {
  const { context, options, record, manifest, variants, bench } = profiling;
  const { target, isOwn } = bench;
  if (options.targetName !== undefined && target.name === undefined)
    context.progress.say('The server describes its target itself; --target-name is not used.');
  const contest = await chooseContest(profiling);
  const wanted: WantedProfile = {
    latencyRuns: options.runs,
    memory: isOwn,
    load: isOwn || manifest.variants.length > 1,
    ...(contest && { contest: { by: contest.by, shares: options.contestShare } }),
  };
  const plan = variants.map((variant) => ({
    variant,
    parts: missingParts(options.again ? undefined : variant.profiles[target.fingerprint], wanted),
  }));
  const due = plan.filter(({ parts }) => parts.length > 0);
  const total = due.reduce((sum, { parts }) => sum + weightOf(parts), 0);
  const notices: string[] = [];
  let profiled = manifest;
  if (due.length > 0) {
    const bar = context.progress.task(`Profiling ${manifest.task}`, total);
    let done = 0;
    for (const { variant, parts } of due) {
      const measured = await profileVariant(profiling, variant, parts, contest, {
        notices,
        begin: (part) => {
          bar.update(done, `version ${variant.version}: ${nameOf(part)}`);
          done += weightOf([part]);
        },
      });
      profiled = await record(measured);
      if (!profiled.variants.some(({ digest }) => digest === variant.digest))
        notices.push(
          `The network that was version ${variant.version} is not in the family any more: its profile is not kept.`,
        );
    }
    bar.done(`${due.length} variants on ${targetText(target)}`);
  }
  const skipped = plan.filter(({ parts }) => parts.length === 0).map(({ variant }) => variant.version);
  if (skipped.length > 0)
    notices.push(
      `Known on this target already, not measured: ${skipped.length === 1 ? 'version' : 'versions'} ${skipped.join(', ')} (--again measures anew).`,
    );
  for (const notice of notices) context.progress.say(notice);
  return { ...profiled, target, profiled: due.map(({ variant }) => variant.version), skipped };
}

/** Rough seconds of each measurement, for the time left. */
const WEIGHTS: Readonly<Record<ProfilePart['kind'], number>> = {
  latency: 3,
  memory: 2,
  load: 3,
  throughput: 7,
  unbatched: 3,
  contested: 8,
};

function weightOf(parts: readonly ProfilePart[]): number {
  return parts.reduce((sum, { kind }) => sum + WEIGHTS[kind], 0);
}

function nameOf(part: ProfilePart): string {
  switch (part.kind) {
    case 'contested':
      return `throughput beside ${percentText(part.share)}`;
    case 'unbatched':
      return 'throughput without batches';
    default:
      return part.kind;
  }
}

/** The model beside which throughput is measured. Its own maximum is measured once, when it is first needed. */
interface Contest {
  readonly by: ContestedThroughput['by'];
  readonly contestant: Contestant;
  maximumRps?: number;
}

/**
 * Finds the contesting model: the version named, else the most accurate one, else the one that is ready.
 * @throws BonsaiError `model_not_found`, `load_failed`; InvalidArgumentError where its inputs cannot be made up
 */
async function chooseContest({ options, repository, bench }: Profiling): Promise<Contest | undefined> {
  const { contest: spec, seed } = options;
  if (spec === undefined) return undefined;
  const { task } = spec;
  const stored = await readTask(repository, task).catch(() => undefined);
  const ready = await bench.server.readyVersions(task);
  const version = spec.version ?? stored?.manifest?.variants[0]?.version ?? ready.at(-1);
  if (version === undefined) {
    throw new BonsaiError(
      'model_not_found',
      `--contest: there is no task "${task}", neither in ${repository} (${(await listTasks(repository)).join(', ')}) nor ready on ${bench.server.url}.`,
    );
  }
  await bench.ready(task, [version]);
  const inputs = seededInputs(await fetchTask(bench.server.url, task, version), seed);
  const digest = stored?.manifest?.variants.find((variant) => variant.version === version)?.digest;
  return {
    by: { task, version, ...(digest !== undefined && { digest }) },
    contestant: { task, version, inputs },
  };
}

/** Measures parts of a variant's profile; what is known of the others stays. */
async function profileVariant(
  profiling: Profiling,
  variant: Variant,
  parts: readonly ProfilePart[],
  contest: Contest | undefined,
  report: { readonly notices: string[]; readonly begin: (part: ProfilePart) => void },
): Promise<MeasuredProfile> {
  const { context, options, repository, manifest, inputs, bench } = profiling;
  const { signal } = context;
  const { task } = manifest;
  const { version } = variant;
  const path = modelPathOf(repository, task, version);
  const subject = { task, version, inputs };
  const measured: { -readonly [Key in keyof Profile]?: Profile[Key] } = {};
  const contested: ContestedThroughput[] = [];
  for (const part of parts) {
    report.begin(part);
    switch (part.kind) {
      case 'latency': {
        const { runs, seed } = options;
        if (bench.isOwn) {
          measured.latencyMs = await profileLatency(path, { runs, seed, signal });
          measured.latencySource = 'engine';
        } else {
          await bench.ready(task, [version]);
          Object.assign(measured, await bench.latency(subject, runs));
        }
        break;
      }
      case 'memory':
        measured.memoryBytes = (await profileMemory(path, { seed: options.seed, signal })).median;
        break;
      case 'load': {
        const others = manifest.variants.map((other) => other.version).filter((other) => other !== version);
        measured.loadMs = await bench.load(task, version, others);
        break;
      }
      case 'throughput': {
        await bench.ready(task, [version]);
        const { answers, noisy, ...throughput } = await bench.throughput(subject);
        Object.assign(measured, throughput);
        measured.noisy = noisy;
        if (options.data !== undefined) report.notices.push(...accuracyNotice(variant, answers));
        break;
      }
      case 'unbatched': {
        await bench.ready(task, [version]);
        // The maximum is known, or was measured just before.
        const known = { ...variant.profiles[bench.target.fingerprint], ...measured } as Profile;
        measured.unbatchedRps = await bench.unbatched(subject, known);
        break;
      }
      case 'contested':
        contested.push(...(await measureContested(profiling, subject, contest!, part.share, report.notices)));
        break;
      default:
        part satisfies never;
    }
  }
  const measuredAt = new Date(context.clock.epochMs()).toISOString();
  return {
    digest: variant.digest,
    fingerprint: bench.target.fingerprint,
    // Every part that was not known has been measured.
    merge: (known) =>
      ({
        ...known,
        ...measured,
        target: bench.target,
        measuredAt,
        ...(contested.length > 0 && { contested: mergeContested(known?.contested ?? [], contested) }),
      }) as Profile,
  };
}

/**
 * A stream that was half of the maximum is an overload once something else takes the machine: its queue explodes and the
 * measured requests get no answer. Then the maximum is measured anew, once; a share that fails again is left out, so that
 * the command measures it when it is started again.
 */
async function measureContested(
  { bench }: Profiling,
  subject: Subject,
  contest: Contest,
  share: number,
  notices: string[],
): Promise<ContestedThroughput[]> {
  const { by, contestant } = contest;
  for (let attempt = 1; attempt <= CONTEST_ATTEMPTS; attempt++) {
    if (contest.maximumRps === undefined) {
      await bench.ready(by.task, [by.version]);
      contest.maximumRps = (await bench.throughput(contestant)).throughputRps.median;
    }
    const { maximumRps } = contest;
    await readyTogether(bench, subject, by);
    try {
      const measured = await bench.contested(subject, { contestant, maximumRps, share });
      const result: ContestedThroughput = { by, share, maximumRps, ...measured };
      if (!keptShare(result)) notices.push(shortNotice(subject.version, result));
      return [result];
    } catch (thrown) {
      if (!(thrown instanceof BonsaiError) || thrown.code !== 'server_unreachable') throw thrown;
      contest.maximumRps = undefined;
    }
  }
  notices.push(
    `Version ${subject.version} got no answer beside ${percentText(share)} of ${by.task}/${by.version}: something else keeps the machine ` +
      'busier now than while its maximum was measured. Left out; the same command measures it when the machine is quiet.',
  );
  return [];
}

/** The second one knows what the machine gives now; a third would find it changed again. */
const CONTEST_ATTEMPTS = 2;

async function readyTogether(bench: ServerBench, subject: Subject, by: Contest['by']): Promise<void> {
  if (by.task === subject.task) {
    const versions = [...new Set([subject.version, by.version])].sort((a, b) => a - b);
    return bench.ready(subject.task, versions);
  }
  await bench.ready(subject.task, [subject.version]);
  await bench.ready(by.task, [by.version]);
}

function shortNotice(
  version: number,
  { by, share, maximumRps, offeredRps, answeredRps }: ContestedThroughput,
): string {
  return (
    `Beside version ${version}, ${percentText(share)} of ${by.task}/${by.version} should have been ${(share * maximumRps).toFixed(1)} requests/s; ` +
    `${offeredRps.toFixed(1)} left and ${answeredRps.toFixed(1)} were answered: ` +
    'the contested throughput is that of a smaller share.'
  );
}

/**
 * Whether the answers were as accurate as the variant is: if not, the server may hold another network under its number.
 * @returns a sentence if they were not, by more than chance explains
 */
export function accuracyNotice(
  { version, accuracy }: Pick<Variant, 'version' | 'accuracy'>,
  answers: MeasuredThroughput['answers'],
): string[] {
  const expected = accuracy.test;
  const count = Math.min(answers.count, accuracy.testCount);
  const deviation = Math.sqrt((expected * (1 - expected)) / count);
  if (Math.abs(answers.accuracy - expected) <= ACCURACY_TOLERANCE + ACCURACY_DEVIATIONS * deviation)
    return [];
  return [
    `Version ${version} gave ${(100 * answers.accuracy).toFixed(1)} % right answers; its accuracy is ${(100 * expected).toFixed(1)} %. ` +
      'Does the server hold the same repository, and are the data those of the task?',
  ];
}

/** Engines on other machines round differently. */
export const ACCURACY_TOLERANCE = 0.01;
/** Once in 16 000 by chance. */
export const ACCURACY_DEVIATIONS = 4;
