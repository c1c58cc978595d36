import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { BonsaiError, InvalidArgumentError, messageOf } from '../base/errors.ts';
import { makeFolder } from '../base/make-folder.ts';
import { type DemandProfile, dueTimes, durationMsOf } from '../load/arrivals.ts';
import { runOpenLoop } from '../load/open-loop.ts';
import { type LoadSummary, recordsToCsv, runToJson, summarizeRecords } from '../load/records.ts';
import { readTrace, traceProfile } from '../load/trace.ts';
import { type Context, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { labelledInputs } from './inputs.ts';
import { dataOption, jsonOption, loadData, seedOption, workOption } from './options.ts';
import { parseDurationMs, parseInteger, parseNumber } from './parse.ts';
import { fetchTask } from './remote-task.ts';
import { checkWritableFolder } from './writable.ts';

interface StressOptions {
  readonly url: string;
  readonly model: string;
  readonly modelVersion?: number;
  readonly data: string;
  readonly demand: string;
  readonly duration: number;
  readonly interval: number;
  readonly mean?: number;
  readonly spacing: 'even' | 'poisson';
  readonly slo: number;
  readonly timeout?: number;
  readonly seed: number;
  readonly out?: string;
  readonly work: string;
  readonly json?: boolean;
}

/** Requests are given up after so many objectives, unless `--timeout` says otherwise. */
export const TIMEOUT_SLOS = 10;

export function stressCommand(): Command {
  return new Command('stress')
    .description('Send labelled inputs to a server at a chosen demand and score every answer.')
    .addOption(new Option('--url <url>', 'the server').default('http://127.0.0.1:8000'))
    .addOption(new Option('--model <name>', 'the task to ask').makeOptionMandatory())
    .addOption(
      new Option('--model-version <n>', 'ask for one version (default: the server chooses)').argParser(
        parseInteger(1),
      ),
    )
    .addOption(dataOption())
    .addOption(
      new Option(
        '--demand <spec>',
        'constant:RPS, linear:FROM:STEP, exponential:FROM, sine:MEAN:AMPLITUDE, ramp:RPS,RPS,… or trace:FILE',
      ).default('constant:10'),
    )
    .addOption(
      new Option('--duration <duration>', 'length of the run (constant, sine, ramp, linear, exponential)')
        .argParser(parseDurationMs)
        .default(30_000, '30s'),
    )
    .addOption(
      new Option('--interval <duration>', 'how long a step of linear and exponential holds; period of sine')
        .argParser(parseDurationMs)
        .default(10_000, '10s'),
    )
    .addOption(new Option('--mean <rps>', 'scale a trace to this mean demand').argParser(parseNumber(0)))
    .addOption(
      new Option('--spacing <kind>', 'of the requests within the demand')
        .choices(['even', 'poisson'])
        .default('poisson'),
    )
    .addOption(
      new Option('--slo <duration>', 'latency objective').argParser(parseDurationMs).default(400, '400ms'),
    )
    .addOption(
      new Option(
        '--timeout <duration>',
        `give a request up (default: ${TIMEOUT_SLOS} × the objective)`,
      ).argParser(parseDurationMs),
    )
    .addOption(seedOption())
    .option('--out <dir>', 'write requests.csv and run.json here')
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai stress --model mnist --data mnist --demand ramp:20,200,20 --duration 60s --slo 100ms
  $ bonsai stress --model mnist --data mnist --demand exponential:1 --interval 30s --out run1

Requests leave when they are due, whatever has come back; latency counts from the due time.
${EXIT_CODE_HELP}`,
    )
    .action(async (options: StressOptions) => {
      const context = processContext(options);
      const profile = await parseDemand(options);
      const dueTimesMs = dueTimes(profile, { spacing: options.spacing, seed: options.seed });
      if (dueTimesMs.length === 0)
        throw new InvalidArgumentError(`The demand ${options.demand} offers no request.`);
      const task = await fetchTask(options.url, options.model, options.modelVersion);
      if (options.out !== undefined) await checkWritableFolder(options.out);
      const dataset = await loadData(context, options);
      const inputs = await labelledInputs(dataset, dataset.test, task);
      const records = await withProgress(context, durationMsOf(profile), (onProgress) =>
        runOpenLoop({
          url: options.url,
          model: options.model,
          version: options.modelVersion?.toString(),
          inputs,
          dueTimesMs,
          sloMs: options.slo,
          timeoutMs: options.timeout ?? TIMEOUT_SLOS * options.slo,
          seed: options.seed,
          clock: context.clock,
          signal: context.signal,
          onProgress,
        }),
      );
      const summary = summarizeRecords(records, options.slo);
      if (options.out !== undefined) {
        await writeFiles(options.out, {
          'requests.csv': recordsToCsv(records),
          'run.json': runToJson({ description: { ...options, profile }, summary, records }),
        });
      }
      context.result({ seed: options.seed, ...summary }, describeSummary(summary, options.slo));
    });
}

type OnProgress = NonNullable<Parameters<typeof runOpenLoop>[0]['onProgress']>;

async function withProgress<T>(
  context: Context,
  durationMs: number,
  run: (onProgress: OnProgress) => Promise<T>,
): Promise<T> {
  const bar = context.progress.task('Sending', durationMs);
  const result = await run((progress) => {
    bar.update(
      Math.min(progress.elapsedMs, durationMs),
      `${progress.sent} sent, ${progress.violations} late or failed`,
    );
  });
  bar.done('done');
  return result;
}

/** The demand that a `--demand` spec means. */
export async function parseDemand(options: {
  readonly demand: string;
  readonly duration: number;
  readonly interval: number;
  readonly mean?: number;
}): Promise<DemandProfile> {
  const [kind, ...rest] = options.demand.split(':');
  const { duration: durationMs, interval: intervalMs } = options;
  const steps = Math.max(1, Math.round(durationMs / intervalMs));
  const figures = rest.join(':').split(/[:,]/).map(Number);
  const need = (count: number) => {
    if (figures.length < count || figures.some((figure) => !Number.isFinite(figure))) {
      throw new InvalidArgumentError(
        `The demand "${options.demand}" needs ${count} number(s), as in constant:10.`,
      );
    }
  };
  switch (kind) {
    case 'constant':
      need(1);
      return { kind, rps: figures[0]!, durationMs };
    case 'linear':
      need(2);
      return { kind, startRps: figures[0]!, stepRps: figures[1]!, intervalMs, steps };
    case 'exponential':
      need(1);
      return { kind, startRps: figures[0]!, intervalMs, steps };
    case 'sine':
      need(2);
      return { kind, meanRps: figures[0]!, amplitudeRps: figures[1]!, periodMs: intervalMs, durationMs };
    case 'ramp':
      need(2);
      return {
        kind,
        points: figures.map((rps, i) => ({ atMs: (i * durationMs) / (figures.length - 1), rps })),
      };
    case 'trace':
      return traceProfile(await readTrace(rest.join(':')), options.mean);
    default:
      throw new InvalidArgumentError(
        `There is no demand "${options.demand}". Known: constant:RPS, linear:FROM:STEP, exponential:FROM, sine:MEAN:AMPLITUDE, ramp:RPS,RPS,…, trace:FILE.`,
      );
  }
}

export async function writeFiles(folder: string, files: Readonly<Record<string, string>>): Promise<void> {
  try {
    await makeFolder(folder);
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  } catch (cause) {
    throw new BonsaiError('unwritable_path', `Cannot write into ${folder}: ${messageOf(cause)}`, { cause });
  }
}

/** A ratio for people: `97.25 %`, or `-` where nothing was counted. */
export function formatPercent(ratio: number, digits = 2): string {
  return Number.isFinite(ratio) ? `${(100 * ratio).toFixed(digits)} %` : '-';
}

const OUTCOME_NAMES = { refused: 'refused', error: 'failed', timeout: 'given up' } as const;

/** A run in a few lines; `-` stands where nothing was answered. */
export function describeSummary(summary: LoadSummary, sloMs: number): string {
  const percent = (ratio: number) => formatPercent(ratio);
  const ms = (value: number) => (Number.isFinite(value) ? value.toFixed(1) : '-');
  const { latencyMs } = summary;
  return [
    `offered ${summary.offered}, answered ${summary.answered}, refused ${summary.refused}, failed ${summary.errors}, given up ${summary.timeouts}`,
    ...summary.failures.map(
      ({ outcome, status, reason, count }) =>
        `  ${count} × ${OUTCOME_NAMES[outcome]}${status > 0 ? ` (${status})` : ''}: ${reason}`,
    ),
    `not in time (> ${sloMs} ms, refused or failed): ${percent(summary.lateRatio)}`,
    `accuracy of the answers ${percent(summary.meanAccuracy)}, right and in time ${percent(summary.effectiveAccuracy)}`,
    `latency ms: p50 ${ms(latencyMs.p50)}, p90 ${ms(latencyMs.p90)}, p99 ${ms(latencyMs.p99)}, max ${ms(latencyMs.max)}`,
    ...summary.versions.map(
      (share) =>
        `  version ${share.version || '?'}: ${percent(share.ratio)} of the answers, accuracy ${percent(share.accuracy)}`,
    ),
  ].join('\n');
}
