import { join } from 'node:path';
import { Argument, Command, Option } from 'commander';
import { formatSeconds } from '../base/duration.ts';
import { BonsaiError, InvalidArgumentError, messageOf } from '../base/errors.ts';
import { takeProcessLock } from '../base/process-lock.ts';
import type { AnyExperiment } from '../experiment/experiment.ts';
import { drawn, reportPage } from '../experiment/page.ts';
import { SCALES, type Scale, type ScaleName } from '../experiment/scale.ts';
import {
  folderOf,
  RESULTS_SCHEMA_VERSION,
  readResults,
  type StoredResults,
  writeResults,
  writeText,
} from '../experiment/store.ts';
import { EXPERIMENTS } from '../experiment/table.ts';
import { alignedTable } from '../report/table.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { checkCpus, existingCpus } from './cpus.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { type ExperimentLab, openExperimentLab } from './experiment-lab.ts';
import { jsonOption, seedOption, WORK_DIRECTORY, workOption } from './options.ts';
import { parseCpus } from './parse.ts';
import { readCpuTicks, stolenRatio } from './stolen-cpu.ts';
import { suggest } from './suggestions.ts';
import { checkWritableFolder } from './writable.ts';

export interface ExperimentOptions {
  readonly quick?: boolean;
  readonly scale?: ScaleName;
  readonly out?: string;
  readonly repository: string;
  readonly data?: readonly string[];
  readonly traces?: string;
  readonly seed: number;
  readonly cpus: readonly number[];
  readonly clientCpus: readonly number[];
  readonly again?: boolean;
  readonly redraw?: string;
  readonly work: string;
  readonly json?: boolean;
}

/** The bar moves with time: measurements take about as long as they are meant to. */
const PROGRESS_MS = 1_000;

const REPORT_FILE = 'report.html';
const LOCK_FILE = '.running';

export function experimentCommand(): Command {
  const last = existingCpus().at(-1) ?? 0;
  return new Command('experiment')
    .description("Run the thesis' evaluation again: one report with its figures and ours.")
    .addArgument(
      suggest(
        new Argument(
          '[names...]',
          `${EXPERIMENTS.map(({ name }) => name).join(', ')}, or all; without a name: lists them`,
        ),
        ['all', ...EXPERIMENTS.map(({ name }) => name)],
      ),
    )
    .option('--quick', 'everything within a quarter of an hour: fewer repetitions, shorter runs')
    .addOption(new Option('--scale <name>').choices(Object.keys(SCALES)).hideHelp())
    .option(
      '--out <dir>',
      `results and report (default: ${join(WORK_DIRECTORY, 'experiments')}/full or /quick)`,
    )
    .option('--repository <dir>', 'the families to measure', join('zoo', 'models'))
    .addOption(
      new Option(
        '--data <task=spec>',
        'labelled images of a task, so that answers are scored (default: random inputs); may be repeated',
      ).argParser((text: string, before: readonly string[] = []) => [...before, text]),
    )
    .option(
      '--traces <dir>',
      'recorded demand (docs/experiments.md names the files); without it, made-up bursts',
    )
    .addOption(
      new Option('--cpus <list>', 'CPUs of the server under test').argParser(parseCpus).default([0], '0'),
    )
    .addOption(
      new Option('--client-cpus <list>', 'CPUs of who sends the requests')
        .argParser(parseCpus)
        .default([last], String(last)),
    )
    .addOption(seedOption())
    .option('--again', 'measure again what has results already')
    .option('--redraw <dir>', 'draw the figures of stored results again, without measuring')
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai experiment                              what there is
  $ bonsai experiment all --quick                  every figure in a quarter of an hour
  $ bonsai experiment coallocation --traces traces --out results
  $ bonsai experiment all --redraw results         the report of stored results again

Interrupt it whenever you like: what is finished is kept, and the same command goes on from there.
${EXIT_CODE_HELP}`,
    )
    .action(async (names: readonly string[], options: ExperimentOptions) => {
      const context = processContext(options);
      if (names.length === 0 && options.redraw === undefined) {
        list(context);
        return;
      }
      if (options.redraw !== undefined) await redraw(context, names, options.redraw, options.out);
      else await measure(context, chosenOf(names), options);
    });
}

function list(context: Context): void {
  const rows = EXPERIMENTS.map(({ name, thesis, question }) => ({ name, thesis, question }));
  context.result(
    rows,
    alignedTable(
      [['name', 'thesis', 'question'], ...rows.map(({ name, thesis, question }) => [name, thesis, question])],
      () => true,
    ).trimEnd(),
  );
}

function chosenOf(names: readonly string[]): AnyExperiment[] {
  if (names.includes('all')) return [...EXPERIMENTS];
  return names.map((name) => {
    const found = EXPERIMENTS.find((experiment) => experiment.name === name);
    if (found !== undefined) return found;
    throw new InvalidArgumentError(
      `There is no experiment "${name}". Known: all, ${EXPERIMENTS.map((each) => each.name).join(', ')}.`,
    );
  });
}

/** Draws everything that is stored, and nothing else. */
async function redraw(
  context: Context,
  names: readonly string[],
  from: string,
  to: string | undefined,
): Promise<void> {
  const chosen = chosenOf(names.length === 0 ? ['all'] : names);
  const entries = await storedOf(chosen, from);
  if (entries.length === 0) {
    throw new BonsaiError(
      'missing_file',
      `${from} has no results of ${chosen.map(({ name }) => name).join(', ')}: expected files such as ${join(from, chosen[0]!.name, 'results.json')}.`,
    );
  }
  const out = to ?? from;
  const absent = names.filter(
    (name) => name !== 'all' && entries.every(({ experiment }) => experiment.name !== name),
  );
  if (absent.length > 0) context.progress.say(`${from} has no results of ${absent.join(', ')}.`);
  await checkWritableFolder(out);
  for (const { experiment, stored } of entries) await writeTables(out, experiment, stored);
  await writeText(out, REPORT_FILE, reportPage(entries));
  tell(context, entries, out);
}

async function measure(
  context: Context,
  chosen: readonly AnyExperiment[],
  options: ExperimentOptions,
): Promise<void> {
  checkCpus([...options.cpus, ...options.clientCpus]);
  const scale = SCALES[options.scale ?? (options.quick ? 'quick' : 'full')];
  const out = options.out ?? join(options.work, 'experiments', scale.name);
  await checkWritableFolder(out);
  const letGo = await takeProcessLock(join(out, LOCK_FILE), 'experiments');
  try {
    await measureInto(out, context, chosen, { ...options, scale });
  } finally {
    await letGo();
  }
}

async function measureInto(
  out: string,
  context: Context,
  chosen: readonly AnyExperiment[],
  options: Omit<ExperimentOptions, 'scale'> & { readonly scale: Scale },
): Promise<void> {
  const lab = await openExperimentLab(context, { ...options, out });
  let failures = 0;
  try {
    await interruptible(
      context.signal,
      `What is finished lies in ${out}; the same command goes on from there.`,
      async () => {
        const left = await unfinished(chosen, out, lab, options.again ?? false);
        if (left.some(({ readsOnly }) => !readsOnly)) await lab.prepare();
        const totalMs = left.reduce((sum, experiment) => sum + experiment.estimateMs(lab.of(experiment)), 0);
        const bar = context.progress.task('Experiments', Math.max(1, totalMs));
        let doneMs = 0;
        for (const experiment of left) {
          const startMs = context.clock.nowMs();
          let note = '';
          const own = lab.of(experiment, (said) => {
            note = said;
          });
          const show = () =>
            bar.update(
              doneMs + Math.min(context.clock.nowMs() - startMs, experiment.estimateMs(own)),
              `${experiment.name}: ${note}`,
            );
          const timer = setInterval(show, PROGRESS_MS);
          const stored = await runOne(context, experiment, lab, own).finally(() => clearInterval(timer));
          if (stored.results === undefined) failures += stored.absent!.startsWith(FAILED) ? 1 : 0;
          await writeResults(out, stored);
          await writeTables(out, experiment, stored);
          await writeText(out, REPORT_FILE, reportPage(await storedOf(EXPERIMENTS, out)));
          doneMs += experiment.estimateMs(own);
          bar.update(doneMs, experiment.name);
          context.progress.say(
            `${experiment.name}: ${stored.absent ?? `done in ${formatSeconds(stored.tookMs / 1000)}`}`,
          );
        }
        bar.done(`done, ${left.length} measured`);
      },
    );
  } finally {
    await lab.close();
  }
  const entries = await storedOf(EXPERIMENTS, out);
  await writeText(out, REPORT_FILE, reportPage(entries));
  tell(
    context,
    entries.filter(({ experiment }) => chosen.includes(experiment)),
    out,
  );
  if (failures > 0) process.exitCode = 1;
}

/** How the text of an experiment that broke begins; one that cannot be run here says what is missing. */
const FAILED = 'It failed: ';

/** Those without results of the same setting. @throws InvalidArgumentError where there are some of another one */
async function unfinished(
  chosen: readonly AnyExperiment[],
  out: string,
  lab: ExperimentLab,
  again: boolean,
): Promise<AnyExperiment[]> {
  const left: AnyExperiment[] = [];
  for (const experiment of chosen) {
    const stored = await readResults(out, experiment.name);
    if (again || stored?.results === undefined) left.push(experiment);
    else if (stored.identity !== lab.identity) {
      throw new InvalidArgumentError(
        `${folderOf(out, experiment.name)} has results that were measured otherwise (another seed, length, CPUs, data or networks). ` +
          'Choose another --out, or say --again to replace them.',
      );
    }
  }
  return left;
}

/** @throws BonsaiError `aborted`; everything else becomes a part of the report */
async function runOne(
  context: Context,
  experiment: AnyExperiment,
  lab: ExperimentLab,
  own: ReturnType<ExperimentLab['of']>,
): Promise<StoredResults> {
  const { clock, signal } = context;
  const startMs = clock.nowMs();
  const startTicks = await readCpuTicks();
  const stored = async (rest: Pick<StoredResults, 'results' | 'absent'>): Promise<StoredResults> => ({
    schemaVersion: RESULTS_SCHEMA_VERSION,
    experiment: experiment.name,
    identity: lab.identity,
    measuredAt: new Date(clock.epochMs()).toISOString(),
    tookMs: Math.round(clock.nowMs() - startMs),
    made: [...lab.made(experiment.name), ...stolenSince(startTicks, await readCpuTicks())],
    ...rest,
  });
  const obstacle = experiment.obstacle?.(own);
  if (obstacle !== undefined) return stored({ absent: obstacle });
  try {
    return await stored({ results: await experiment.run(own) });
  } catch (thrown) {
    if (signal.aborted) throw thrown;
    return stored({ absent: `${FAILED}${messageOf(thrown)}` });
  }
}

/** A reader has to know what else the host of a virtual machine was busy with. */
function stolenSince(...looks: Parameters<typeof stolenRatio>): [string, string][] {
  const ratio = stolenRatio(...looks);
  return ratio === undefined
    ? []
    : [['Taken by the host', `${(100 * ratio).toFixed(1)} % of all CPU time meanwhile`]];
}

async function storedOf(
  experiments: readonly AnyExperiment[],
  out: string,
): Promise<{ experiment: AnyExperiment; stored: StoredResults }[]> {
  const entries: { experiment: AnyExperiment; stored: StoredResults }[] = [];
  for (const experiment of experiments) {
    const stored = await readResults(out, experiment.name);
    if (stored !== undefined) entries.push({ experiment, stored });
  }
  return entries;
}

async function writeTables(out: string, experiment: AnyExperiment, stored: StoredResults): Promise<void> {
  for (const [file, text] of Object.entries(drawn(experiment, stored)?.files ?? {}))
    await writeText(folderOf(out, experiment.name), file, text);
}

function tell(
  context: Context,
  entries: readonly { readonly experiment: AnyExperiment; readonly stored: StoredResults }[],
  out: string,
): void {
  const headlines = entries.flatMap(({ experiment, stored }) => drawn(experiment, stored)?.headlines ?? []);
  const absent = entries.filter(({ stored }) => stored.absent !== undefined);
  const report = join(out, REPORT_FILE);
  context.result(
    {
      report,
      experiments: entries.map(({ stored: { experiment, measuredAt, tookMs, absent: reason } }) => ({
        experiment,
        measuredAt,
        tookMs,
        ...(reason !== undefined && { absent: reason }),
      })),
      headlines,
    },
    [
      ...(headlines.length === 0
        ? []
        : [
            alignedTable(
              [
                ['what', 'thesis', 'here'],
                ...headlines.map(({ what, thesis, ours }) => [what, thesis, ours]),
              ],
              () => true,
            ),
          ]),
      ...absent.map(({ stored: { experiment, absent: reason } }) => `${experiment}: ${reason}`),
      `Report: ${report}`,
    ].join('\n'),
  );
}
