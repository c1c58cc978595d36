import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { availableParallelism, cpus as listCpus, tmpdir, totalmem } from 'node:os';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import { makeProcessFolder } from '../base/process-folder.ts';
import { describeTarget } from '../engine/target.ts';
import type { AnyExperiment } from '../experiment/experiment.ts';
import type { Lab, LabTask } from '../experiment/lab.ts';
import { calibrate, calibrationSteps } from '../experiment/measuring/calibrate.ts';
import { type Scale, spread } from '../experiment/scale.ts';
import { folderOf, storedPart, writeText } from '../experiment/store.ts';
import { checkTraces, THESIS_TRACE } from '../experiment/traces.ts';
import type { LabelledInputs } from '../load/labelled-inputs.ts';
import { profileLatency } from '../port/profile/latency.ts';
import { frontierOf } from '../repository/frontier.ts';
import { updateProfiles } from '../repository/profiles.ts';
import { listTasks, modelPathOf, readManifest, writeTask } from '../repository/store.ts';
import { type Profile, profileOf, type TaskManifest } from '../repository/types.ts';
import { bindThisProcess, hasTaskset, startCommandProcess } from './command-process.ts';
import type { Context } from './context.ts';
import { existingCpus } from './cpus.ts';
import { digestOfFiles } from './digest-of-files.ts';
import type { ExperimentOptions } from './experiment.ts';
import { labelledInputs } from './inputs.ts';
import { loadData } from './options.ts';
import { seededInputs } from './seeded-inputs.ts';

/** The real world of experiments. */
export interface ExperimentLab {
  /** What results depend on: those of another one are not mixed with these. */
  readonly identity: string;
  /** Makes the tasks ready that are measured: a repository of its own, with profiles of this machine. */
  prepare(): Promise<void>;
  /** The lab as one experiment sees it. */
  of(experiment: AnyExperiment, onProgress?: (note: string) => void): Lab;
  /** Name and value: how results were made. */
  made(experiment: string): readonly (readonly [string, string])[];
  close(): Promise<void>;
}

/** What the command was given, its scale and folder settled. */
type LabOptions = Omit<ExperimentOptions, 'scale' | 'out'> & {
  readonly scale: Scale;
  readonly out: string;
  /** By default commands are run by the program that this file was compiled with. */
  readonly start?: Lab['start'];
};

/** Experiments of several tasks have as many as the thesis'. */
const TASK_COUNT = 3;

/** A family with fewer versions on its frontier leaves nothing to choose. */
const FEWEST_VERSIONS = 3;

/** The thesis' single task, where the repository has it. */
const MAIN_TASK = 'cifar10';

/** @throws BonsaiError of the repository; InvalidArgumentError where it has no family to measure */
export async function openExperimentLab(context: Context, options: LabOptions): Promise<ExperimentLab> {
  const { clock, signal } = context;
  const { scale, seed, out, cpus, clientCpus } = options;
  const specs = new Map((options.data ?? []).map(pair));
  const families = await familiesOf(options.repository);
  checkTasks([...specs.keys()], families);
  const demand = options.traces === undefined ? undefined : await checkTraces(options.traces);
  const target = describeTarget({ cpus: cpus.length });
  const isBound = hasTaskset();
  const identity = digestOf({
    scale,
    seed,
    cpus,
    clientCpus,
    target,
    traces: demand && (await digestOfFiles(demand.files)),
    data: await Promise.all([...specs].map(async ([task, spec]) => [task, spec, await digestOfData(spec)])),
    families: families.map(({ task, variants }) => [task, variants.map(({ digest }) => digest)]),
  });
  const root = await makeProcessFolder(tmpdir(), 'bonsai-experiment-');
  let tasks: readonly LabTask[] = [];

  const labOf = (folder: string, onProgress: (note: string) => void = () => {}): Lab => ({
    repository: root,
    tasks,
    families,
    scale,
    seed,
    cpus,
    clientCpus,
    machineCpus: existingCpus().length,
    isBound,
    ...(options.traces !== undefined && { traces: options.traces }),
    hasNginx: spawnSync('nginx', ['-v'], { stdio: 'ignore' }).error === undefined,
    clock,
    signal,
    say: onProgress,
    async part(key, measure) {
      signal.throwIfAborted();
      onProgress(key);
      return storedPart(folder, key, identity, measure);
    },
    keep: (file, text) => writeText(folder, file, text),
    start: options.start ?? startCommandProcess,
    latency: (task, version, runs) =>
      profileLatency(modelPathOf(root, task, version), { runs, seed, signal }),
  });

  return {
    identity,
    async prepare() {
      if (isBound) bindThisProcess(clientCpus);
      tasks = await chooseTasks(context, options, families, specs);
      for (const { source, manifest } of tasks) {
        const models = manifest.variants.map(
          ({ version }) => [version, modelPathOf(options.repository, source, version)] as const,
        );
        await writeTask(root, manifest, new Map(models));
      }
      const distinct = tasks.filter(({ name, source }) => name === source);
      const isKnown = distinct.every(({ manifest }) =>
        manifest.variants.every((variant) => profileOf(variant, target.fingerprint) !== undefined),
      );
      // Profiles of this very machine serve for a quick look; a full run trusts none but its own.
      if (scale.name !== 'full' && isKnown) return;
      const lab = labOf(folderOf(out, 'profiles'));
      const bar = context.progress.task('Profiling', calibrationSteps(lab, distinct));
      const profiles = await calibrate(lab, distinct, {
        target,
        onMeasuring: (done, task, version) => bar.update(done, `version ${version} of ${task}`),
      });
      bar.done('done');
      tasks = await Promise.all(
        tasks.map(async (task) => {
          const own = Object.entries(profiles[task.source]!).map(([version, profile]): [number, Profile] => [
            Number(version),
            profile,
          ]);
          return { ...task, manifest: await updateProfiles(root, task.name, new Map(own)) };
        }),
      );
    },
    of: (experiment, onProgress) => labOf(folderOf(out, experiment.name), onProgress),
    made: (experiment) => [
      ['Command', commandLine(experiment, options)],
      ['Seed', String(seed)],
      ['Lengths', scale.name],
      [
        'CPU',
        `${listCpus()[0]?.model.trim() ?? 'unknown'}, ${availableParallelism()} available; server on ${cpus.join(',')}, client on ${clientCpus.join(',')}${isBound ? '' : ' (not bound: there is no taskset here)'}`,
      ],
      ['Fingerprint', target.fingerprint],
      ['Memory', `${(totalmem() / 2 ** 30).toFixed(1)} GiB`],
      [
        'Software',
        `ONNX Runtime ${target.runtimeVersion}, Node.js ${process.version}, ${process.platform} ${process.arch}`,
      ],
      [
        'Tasks',
        tasks
          .map(
            ({ name, source, isLabelled }) =>
              `${name}${name === source ? '' : ` (the family of ${source} under a second name)`}${isLabelled ? '' : ', random inputs'}`,
          )
          .join('; ') || families.map(({ task }) => task).join('; '),
      ],
      ['Demand', demandOf(demand?.names)],
    ],
    close: () => rm(root, { recursive: true, force: true }),
  };
}

async function familiesOf(repository: string): Promise<TaskManifest[]> {
  // A clone of Bonsai has families to measure; the package has none.
  const names = existsSync(repository) ? await listTasks(repository) : [];
  if (names.length === 0) {
    throw new BonsaiError(
      'model_not_found',
      `There is no task in the repository ${repository}. Name one with --repository; bonsai port makes one, and so does bonsai demo.`,
    );
  }
  return Promise.all(names.map((name) => readManifest(repository, name)));
}

/** @throws InvalidArgumentError for labelled images of a task that is not there */
function checkTasks(named: readonly string[], families: readonly TaskManifest[]): void {
  const names = families.map(({ task }) => task);
  const unknown = named.find((task) => !names.includes(task));
  if (unknown !== undefined) {
    throw new InvalidArgumentError(
      `--data names the task "${unknown}", which the repository does not have. It has ${names.join(', ')}.`,
    );
  }
}

/** Of the files that a specification such as `cifar10:FOLDER` or `images:FOLDER,size=48` names; undefined where it names none. */
async function digestOfData(spec: string): Promise<string | undefined> {
  const [, path] = /^[a-z0-9-]+:([^,]+)/.exec(spec) ?? [];
  return digestOfFiles([path ?? spec]);
}

function demandOf(traces: readonly string[] | undefined): string {
  if (traces === undefined) return 'made-up bursts (no --traces were given)';
  const isComplete = traces.includes(THESIS_TRACE);
  return `recorded traces: ${traces.join(', ')}${isComplete ? '' : `; made-up bursts where the thesis replays ${THESIS_TRACE}, which is not among them`}`;
}

/** The thesis' single task first, then those whose most accurate versions cost most; copies where there are too few. */
async function chooseTasks(
  context: Context,
  options: LabOptions,
  families: readonly TaskManifest[],
  specs: ReadonlyMap<string, string>,
): Promise<LabTask[]> {
  const usable = families
    .filter(({ variants }) => frontierOf(variants, 'inverseThroughput').length >= FEWEST_VERSIONS)
    .toSorted(
      (a, b) => Number(b.task === MAIN_TASK) - Number(a.task === MAIN_TASK) || slowestRps(a) - slowestRps(b),
    )
    .slice(0, TASK_COUNT);
  if (usable.length === 0) {
    throw new InvalidArgumentError(
      `No task of ${options.repository} has ${FEWEST_VERSIONS} profiled versions of which each trades accuracy for throughput. Profile it: bonsai profile ${options.repository}`,
    );
  }
  const tasks: LabTask[] = [];
  for (let i = 0; i < TASK_COUNT; i++) {
    const of = usable[i % usable.length]!;
    const name = i < usable.length ? of.task : `${of.task}-${i}`;
    const spec = specs.get(of.task);
    const manifest = { ...of, task: name, variants: measuredOf(of, options.scale) };
    const inputs = await inputsOf(context, options, manifest, spec);
    tasks.push({ name, source: of.task, manifest, inputs, isLabelled: spec !== undefined });
  }
  return tasks;
}

/** Not all versions where the scale is small: what others beat, by the profiles that there are, of whichever machine, is not profiled. */
function measuredOf({ variants }: TaskManifest, { frontierSize }: Scale): TaskManifest['variants'] {
  if (frontierSize === undefined) return variants;
  const chosen = new Set(spread(frontierOf(variants, 'inverseThroughput'), frontierSize));
  return variants.filter((variant) => chosen.has(variant));
}

async function inputsOf(
  context: Context,
  options: LabOptions,
  manifest: TaskManifest,
  spec: string | undefined,
): Promise<LabelledInputs> {
  if (spec === undefined) return seededInputs(manifest, options.seed);
  const dataset = await loadData(context, { ...options, data: spec });
  return labelledInputs(dataset, dataset.test, manifest);
}

function slowestRps({ variants }: TaskManifest): number {
  return Math.min(
    ...variants.map((each) => profileOf(each)?.throughputRps.median ?? Number.POSITIVE_INFINITY),
  );
}

function pair(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1)
    throw new InvalidArgumentError(`Expected TASK=SPEC such as cifar10=cifar10:FOLDER, got "${text}".`);
  return [text.slice(0, at), text.slice(at + 1)];
}

function digestOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 16);
}

function commandLine(experiment: string, options: LabOptions): string {
  const words = ['bonsai', 'experiment', experiment];
  if (options.scale.name === 'quick') words.push('--quick');
  words.push('--repository', options.repository, '--seed', String(options.seed));
  words.push('--cpus', options.cpus.join(','), '--client-cpus', options.clientCpus.join(','));
  for (const spec of options.data ?? []) words.push('--data', spec);
  if (options.traces !== undefined) words.push('--traces', options.traces);
  return words.join(' ');
}
