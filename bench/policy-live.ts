import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { processContext } from '../src/cli/context.ts';
import { labelledInputs } from '../src/cli/inputs.ts';
import { oracleOn, SERVICE_CV, simulatedOn } from '../src/experiment/live/expected.ts';
import { LIVE_CONNECTIONS } from '../src/experiment/live/run-live.ts';
import { overloadRates, serverScenario, THESIS_SLO_MS } from '../src/experiment/live/scenario.ts';
import { windowsOf } from '../src/experiment/traces.ts';
import { type DemandProfile, dueTimes } from '../src/load/arrivals.ts';
import { runJointLoop, type TaskLoad } from '../src/load/joint-loop.ts';
import type { LabelledInputs } from '../src/load/labelled-inputs.ts';
import { percentilesOf, type RequestRecord, recordsToCsv } from '../src/load/records.ts';
import { readTrace } from '../src/load/trace.ts';
import { withTrend } from '../src/load/trend.ts';
import { v2Server } from '../src/orchestrate/adapters/v2-server.ts';
import { dataModule } from '../src/port/data/registry.ts';
import { listTasks, modelPathOf, readManifest, writeTask } from '../src/repository/store.ts';
import type { TaskManifest } from '../src/repository/types.ts';
import { oracleSummary } from '../src/simulate/oracle-bounds.ts';
import { recordedWorkload } from '../src/simulate/recorded-workload.ts';
import {
  makeScenario,
  type Scenario,
  type VersionFigures,
  versionFigures,
} from '../src/simulate/scenario.ts';
import { CLIENT_CPU, clock, cpuSecondsOf, pinTo, say, sleep, startServer } from './serve-harness.ts';

/**
 * The thesis' co-allocation test (section 5.4.2), live: three tasks on one CPU (server on CPU 0, clients on CPU 1), windows of
 * the Twitter stream of April 2018 with a macro trend and Poisson arrivals within the seconds, scaled so that the most
 * accurate versions would need twice the CPU; each policy by `bonsai serve --policy` on the same arrivals, with real
 * images. Beside each figure stands its bar; what was recorded is given to the oracle and to the simulator. Run:
 * npm run build && npx tsc -p tsconfig.json --noEmit false --outDir dist/bench
 * node dist/bench/bench/policy-live.js --trace TRACE.csv --data cifar10=cifar10:PATH --data cifar100=cifar100:PATH --data hymenoptera=images:PATH,size=48
 *   [--repository DIR] [--copy NEW=OLD] [--duration 600] [--warm-up 20] [--overload 2] [--seed 1] [--json FILE] [--out DIR]
 *   [--dry: what simulator and oracle expect, without a server] [--policies trivial,bonsai,bonsai:0.9] [--swing 0.5]
 * Those tasks of the repository (zoo/models by default) are asked that `--data` names. Its profiles should be of this machine (`bonsai profile DIR --task NAME --cpus 0
 * --again`), for they scale the demand and are what is predicted from.
 */
const { values: options } = parseArgs({
  options: {
    trace: { type: 'string' },
    data: { type: 'string', multiple: true, default: [] },
    repository: { type: 'string', default: join('zoo', 'models') },
    copy: { type: 'string', multiple: true },
    policies: { type: 'string', default: 'trivial,bonsai' },
    duration: { type: 'string', default: '600' },
    'warm-up': { type: 'string', default: '20' },
    overload: { type: 'string', default: '2' },
    swing: { type: 'string', default: '0.5' },
    seed: { type: 'string', default: '1' },
    dry: { type: 'boolean', default: false },
    'no-reaction': { type: 'boolean', default: false },
    json: { type: 'string' },
    out: { type: 'string' },
  },
});
const SLO_MS = THESIS_SLO_MS;
const TIMEOUT_MS = 10 * SLO_MS;
const durationMs = 1000 * Number(options.duration);
const seed = Number(options.seed);
/** Before what is counted demand climbs from 0, as in the thesis: connections are made and code is compiled. */
const warmUpMs = 1000 * Number(options['warm-up']);
const lengthMs = warmUpMs + durationMs;
/** From the server's readiness to the first request: what it loads at the start is loaded. */
const SETTLE_MS = 8_000;
const CONNECTIONS = LIVE_CONNECTIONS;
const BARS = { violations: 0.001, gap: 0.75, cpu: [0.8, 0.95], accuracyError: 0.015, violationError: 0.003 };

interface LiveTask {
  readonly manifest: TaskManifest;
  readonly inputs: LabelledInputs;
  readonly seed: number;
}

/** One policy's run: by task in the order of the tasks. */
interface Live {
  readonly policy: string;
  readonly records: readonly (readonly RequestRecord[])[];
  /** Those that were due earlier belong to the warm-up. */
  readonly countedFromMs: number;
  readonly cpu: number;
  readonly loads: number;
  readonly changes: number;
  /** Service times that the server's dispatch reckoned with in the end, by task and version. */
  readonly measuredMs: ReadonlyMap<string, ReadonlyMap<number, number>>;
}

/** Normalised accuracy by task and version; also of versions off the frontier, which may answer at the start. */
const normalised = new Map<string, ReadonlyMap<number, number>>();

async function main(): Promise<void> {
  if (options.trace === undefined) throw new Error('--trace names the file of the Twitter stream');
  const root = await mkdtemp(join(tmpdir(), 'bonsai-live-'));
  try {
    await measure(root, options.trace);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

async function measure(root: string, tracePath: string): Promise<void> {
  const tasks = await prepare(root);
  const scenario = serverScenario(
    tasks.map(({ manifest }) => manifest),
    SLO_MS,
  );
  const rates = overloadRates(scenario, Number(options.overload));
  const demand = await demandOf(tracePath, rates);
  const due = demand.map((profile, k) => dueTimes(profile, { spacing: 'poisson', seed: seed * 100 + k }));
  for (const [k, { manifest }] of tasks.entries()) {
    const [largest] = versionFigures(scenario.tasks[k]!, scenario);
    say(
      `${manifest.task}: ${rates[k]!.toFixed(0)} requests/s, ${due[k]!.length} in all; version ${largest!.version} takes ${largest!.serviceMs.toFixed(2)} ms`,
    );
  }
  if (options.dry) {
    foretell(scenario, due);
    return;
  }
  pinTo(CLIENT_CPU);
  const lives: Live[] = [];
  for (const policy of options.policies!.split(','))
    lives.push(await live(root, policy, policy, tasks, due, warmUpMs));
  const results = lives.map((each) => report(each, lives, scenario));
  const reaction = options['no-reaction']
    ? undefined
    : await reactionOf(root, tasks, scenario, overloadRates(scenario, 2));
  if (options.json !== undefined) {
    const description = { durationMs, seed, sloMs: SLO_MS, rates, repository: options.repository };
    await writeFile(options.json, `${JSON.stringify({ ...description, results, reaction }, null, 2)}\n`);
  }
}

/** The tasks of the repository in a folder of their own, with the copies. */
async function prepare(root: string): Promise<LiveTask[]> {
  const source = options.repository!;
  const specs = new Map(options.data!.map((text) => pair(text)));
  const copies = (options.copy ?? []).map((text) => pair(text));
  const names = (await listTasks(source)).filter((name) => specs.has(name));
  if (names.length === 0)
    throw new Error(`--data TASK=SPEC names the tasks of ${source} to ask, and their images`);
  const wanted: (readonly [name: string, of: string])[] = [
    ...names.map((name) => [name, name] as const),
    ...copies,
  ];
  const context = processContext({ quiet: true });
  const inputs = new Map<string, LabelledInputs>();
  const tasks: LiveTask[] = [];
  for (const [name, of] of wanted) {
    const manifest = { ...(await readManifest(source, of)), task: name };
    const best = Math.max(...manifest.variants.map(({ accuracy }) => accuracy.test));
    normalised.set(
      name,
      new Map(manifest.variants.map(({ version, accuracy }) => [version, accuracy.test / best])),
    );
    const models = new Map(
      manifest.variants.map(({ version }) => [version, modelPathOf(source, of, version)]),
    );
    await writeTask(root, manifest, models);
    const spec = specs.get(of);
    if (spec === undefined)
      throw new Error(`--data ${of}=SPEC says where the images of ${of}, which is copied, are`);
    if (!inputs.has(of)) {
      const dataset = await dataModule(spec).load({ seed, signal: context.signal });
      inputs.set(of, await labelledInputs(dataset, dataset.test, manifest));
    }
    tasks.push({ manifest, inputs: inputs.get(of)!, seed: seed + tasks.length });
  }
  return tasks;
}

function pair(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw new Error(`expected NAME=VALUE, got ${text}`);
  return [text.slice(0, at), text.slice(at + 1)];
}

/** A window of the stream for each task, one after the other, each with a trend of its own. */
async function demandOf(path: string, rates: readonly number[]): Promise<DemandProfile[]> {
  const trace = await readTrace(path);
  return windowsOf(trace, rates, lengthMs).map((window, k) =>
    withTrend(window, { seed: seed * 10 + k, swing: Number(options.swing), warmUpMs }),
  );
}

async function live(
  root: string,
  policy: string,
  name: string,
  tasks: readonly LiveTask[],
  due: readonly ArrayLike<number>[],
  countedFromMs: number,
): Promise<Live> {
  const log: string[] = [];
  const flags = ['--policy', policy, '--slo', `${SLO_MS}ms`, '--grpc-port', 'off', '--log-level', 'info'];
  flags.push('--max-connections', String(2 * CONNECTIONS));
  const server = await startServer(root, flags, undefined, (line) => log.push(line));
  const adapter = v2Server({ url: server.url, metricsUrl: server.metricsUrl, clock });
  try {
    await sleep(SETTLE_MS);
    const before = log.length;
    const loads: TaskLoad[] = tasks.map(({ manifest, inputs, seed: order }, k) => ({
      model: manifest.task,
      inputs,
      dueTimesMs: due[k]!,
      seed: order,
    }));
    let startCpu = Number.NaN;
    const records = await runJointLoop({
      url: server.url,
      tasks: loads,
      connections: CONNECTIONS,
      maxOutstanding: 16_384,
      timeoutMs: TIMEOUT_MS,
      sloMs: SLO_MS,
      clock,
      onStart: () => {
        setTimeout(() => {
          startCpu = cpuSecondsOf(server.pid);
        }, countedFromMs).unref();
      },
    });
    const endCpu = cpuSecondsOf(server.pid);
    const endMs = Math.max(
      ...records.flatMap((own) => own.slice(-1).map(({ dueMs, latencyMs }) => dueMs + latencyMs)),
    );
    const { planned } = await adapter.observe(AbortSignal.timeout(5_000));
    const measuredMs = new Map(
      [...(planned ?? [])].map(([task, versions]) => [
        task,
        new Map(versions.map(({ version, serviceMs }) => [version, serviceMs])),
      ]),
    );
    const during = log.slice(before);
    const counted = (text: string) => during.filter((line) => line.includes(text)).length;
    if (options.out !== undefined) await write(join(options.out, name), tasks, records, log);
    return {
      policy,
      records,
      cpu: (endCpu - startCpu) / ((endMs - countedFromMs) / 1000),
      countedFromMs,
      loads: counted('version loaded'),
      changes: counted('serves version') + counted('has in memory versions'),
      measuredMs,
    };
  } finally {
    await adapter.close();
    await server.close();
  }
}

async function write(
  folder: string,
  tasks: readonly LiveTask[],
  records: readonly (readonly RequestRecord[])[],
  log: readonly string[],
): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'server.log'), `${log.join('\n')}\n`);
  for (const [k, { manifest }] of tasks.entries())
    await writeFile(join(folder, `${manifest.task}.csv`), recordsToCsv(records[k]!));
}

interface Figures {
  readonly violations: number;
  /** By the versions' test accuracies, normalised, over answers. */
  readonly accuracy: number;
  /** Right answers / answers. */
  readonly scored: number;
  readonly p99Ms: number;
  readonly late: number;
  readonly refused: number;
  readonly failed: number;
}

function figuresOf(records: readonly (readonly RequestRecord[])[], scenario: Scenario): Figures {
  let [offered, answered, right, accuracy, late, refused, failed] = [0, 0, 0, 0, 0, 0, 0];
  const latencies: number[] = [];
  for (const [k, own] of records.entries()) {
    const accuracies = normalised.get(scenario.tasks[k]!.task)!;
    for (const { outcome, latencyMs, version, correct } of own) {
      offered++;
      if (outcome === 'refused') refused++;
      else if (outcome !== 'ok') failed++;
      if (outcome !== 'ok') continue;
      answered++;
      latencies.push(latencyMs);
      if (latencyMs > SLO_MS) late++;
      if (correct) right++;
      accuracy += accuracies.get(Number(version)) ?? Number.NaN;
    }
  }
  return {
    violations: (late + refused + failed) / offered,
    accuracy: accuracy / answered,
    scored: right / answered,
    p99Ms: percentilesOf(latencies).p99,
    late,
    refused,
    failed,
  };
}

/** What the simulator and the oracle expect of a run, without one. */
function foretell(scenario: Scenario, due: readonly ArrayLike<number>[]): void {
  for (const policy of options.policies!.split(',')) {
    const { meanAccuracy, violationRatio, cpuUtilization } = simulatedOn(policy, scenario, {
      due,
      countedFromMs: warmUpMs,
      lengthMs,
      seed,
    });
    say(
      `${policy} simulated: accuracy ${percent(meanAccuracy)}, violations ${percent(violationRatio, 3)}, CPU ${percent(cpuUtilization, 1)}`,
    );
  }
  const { meanAccuracy, violationRatio } = oracleOn(scenario, {
    due,
    countedFromMs: warmUpMs,
    lengthMs,
    seed,
  });
  say(`oracle: accuracy ${percent(meanAccuracy)}, drops ${percent(violationRatio, 3)}`);
}

/** The requests that count, and those of the warm-up. */
function parted({ records, countedFromMs }: Live) {
  return {
    counted: records.map((own) => own.filter(({ dueMs }) => dueMs >= countedFromMs)),
    warmUp: records.map((own) => own.filter(({ dueMs }) => dueMs < countedFromMs)),
  };
}

/** With or without a share of the CPU that is to stay idle. */
function isOurs(policy: string): boolean {
  return policy === 'bonsai' || policy.startsWith('bonsai:');
}

function report(live: Live, lives: readonly Live[], scenario: Scenario): object {
  const { counted, warmUp } = parted(live);
  const figures = figuresOf(counted, scenario);
  const workload = recordedWorkload(
    counted.map((own) => own.map(({ dueMs }) => dueMs - live.countedFromMs)),
    { durationMs, serviceCv: SERVICE_CV, seed },
  );
  const oracle = oracleSummary(scenario, workload, 'feasible');
  const measured = lives.find(({ policy }) => isOurs(policy)) ?? live;
  const oracleMeasured = oracleSummary(withTimes(scenario, measured), workload, 'feasible');
  const trivial = lives.find(({ policy }) => policy === 'trivial');
  const trivialAccuracy = trivial && figuresOf(parted(trivial).counted, scenario).accuracy;
  const gapTo = (best: number) =>
    trivialAccuracy === undefined || live === trivial
      ? undefined
      : (figures.accuracy - trivialAccuracy) / (best - trivialAccuracy);
  const due = live.records.map((own) => own.map(({ dueMs }) => dueMs));
  const arrivals = { due, countedFromMs: live.countedFromMs, lengthMs, seed };
  const predicted = simulatedOn(live.policy, scenario, arrivals);
  const isJudged = isOurs(live.policy);
  const verdict = (isMet: boolean) => (isJudged ? (isMet ? ', met' : ', MISSED') : '');
  say('');
  say(`${live.policy}: ${workload.arrivalMs.length} requests in ${durationMs / 1000} s`);
  say(
    `  violations ${percent(figures.violations, 3)} (late ${figures.late}, refused ${figures.refused}, failed ${figures.failed}); bar ≤ ${percent(BARS.violations)}${verdict(figures.violations <= BARS.violations)}`,
  );
  say(
    `  in the warm-up of ${warmUpMs / 1000} s, not counted: ${percent(figuresOf(warmUp, scenario).violations)}`,
  );
  say(
    `  accuracy ${percent(figures.accuracy)} by versions, normalised; ${percent(figures.scored)} right as scored`,
  );
  const [least, most] = BARS.cpu as [number, number];
  say(
    `  CPU ${percent(live.cpu, 1)} of the budget; bar ${percent(least, 0)} to ${percent(most, 0)}${verdict(live.cpu >= least && live.cpu <= most)}`,
  );
  say(
    `  p99 ${figures.p99Ms.toFixed(0)} ms; ${live.changes} changes of what is in memory, ${live.loads} loads`,
  );
  say(
    `  oracle on these arrivals ${percent(oracle.meanAccuracy)} (drops ${percent(oracle.violationRatio, 3)}) with profiled, ${percent(oracleMeasured.meanAccuracy)} (${percent(oracleMeasured.violationRatio, 3)}) with measured service times`,
  );
  const gap = gapTo(oracle.meanAccuracy);
  const gapMeasured = gapTo(oracleMeasured.meanAccuracy);
  if (gap !== undefined && gapMeasured !== undefined) {
    say(
      `  gap from trivial closed ${percent(gap, 1)} with profiled, ${percent(gapMeasured, 1)} with measured service times; bar ≥ ${percent(BARS.gap, 0)}${verdict(gap >= BARS.gap)}`,
    );
  }
  const accuracyError = predicted.meanAccuracy - figures.accuracy;
  const violationError = predicted.violationRatio - figures.violations;
  const isPredicted =
    Math.abs(accuracyError) <= BARS.accuracyError && Math.abs(violationError) <= BARS.violationError;
  say(
    `  simulated: accuracy ${percent(predicted.meanAccuracy)} (${signed(accuracyError)}), violations ${percent(predicted.violationRatio, 3)} (${signed(violationError)}), CPU ${percent(predicted.cpuUtilization, 1)}; bar within ${percent(BARS.accuracyError, 1)} and ${percent(BARS.violationError, 1)}, ${isPredicted ? 'met' : 'MISSED'}`,
  );
  for (const [k, { task }] of scenario.tasks.entries()) {
    say(`  ${task}: ${usageOf(counted[k]!)}`);
    say(`    measured/profiled ms: ${timesOf(scenario, k, live)}`);
  }
  return {
    policy: live.policy,
    offered: workload.arrivalMs.length,
    ...figures,
    cpu: live.cpu,
    loads: live.loads,
    changes: live.changes,
    oracle: { profiled: oracle.meanAccuracy, measured: oracleMeasured.meanAccuracy },
    ...(gap !== undefined && { gapClosed: { profiled: gap, measured: gapMeasured } }),
    simulated: {
      accuracy: predicted.meanAccuracy,
      violations: predicted.violationRatio,
      cpu: predicted.cpuUtilization,
    },
  };
}

/** The scenario with the service times that the server measured, where it did. */
function withTimes(scenario: Scenario, { measuredMs }: Live): Scenario {
  return makeScenario({
    ...scenario,
    tasks: scenario.tasks.map((task) => ({
      ...task,
      variants: task.variants.map((variant) => {
        const serviceMs = measuredMs.get(task.task)?.get(variant.version);
        if (serviceMs === undefined) return variant;
        const profiles = Object.entries(variant.profiles).map(([key, profile]) => {
          const median = (1000 * profile.target.cpus) / serviceMs;
          return [key, { ...profile, unbatchedRps: { ...profile.throughputRps, median } }];
        });
        return { ...variant, profiles: Object.fromEntries(profiles) };
      }),
    })),
  });
}

function timesOf(scenario: Scenario, k: number, { measuredMs }: Live): string {
  const task = scenario.tasks[k]!;
  return versionFigures(task, scenario)
    .map(({ version, serviceMs }: VersionFigures) => {
      const own = measuredMs.get(task.task)?.get(version);
      return `${version}: ${own === undefined ? '-' : own.toFixed(2)}/${serviceMs.toFixed(2)}`;
    })
    .join(', ');
}

/** Shares of the answers by version. */
function usageOf(records: readonly RequestRecord[]): string {
  const counts = new Map<string, number>();
  for (const { outcome, version } of records) {
    if (outcome === 'ok') counts.set(version ?? '?', (counts.get(version ?? '?') ?? 0) + 1);
  }
  const shares = [...counts].sort(([a], [b]) => Number(a) - Number(b));
  return shares.map(([version, count]) => `v${version} ${percent(count / records.length, 0)}`).join(', ');
}

const QUIET_MS = 10_000;
const STEP_MS = 4_000;
/** What a task was answered by before the step, is looked at for so long. */
const LOOK_MS = 3_000;

/** From a demand of a fifth to all of it, twice what the most accurate versions can take: when is the first request given to a smaller version than any shortly before? */
async function reactionOf(
  root: string,
  tasks: readonly LiveTask[],
  scenario: Scenario,
  rates: readonly number[],
): Promise<object> {
  const due = rates.map((rps, k) => {
    const profile: DemandProfile = {
      kind: 'steps',
      points: [
        { atMs: 0, rps: rps / 5 },
        { atMs: QUIET_MS, rps },
      ],
      durationMs: QUIET_MS + STEP_MS,
    };
    return dueTimes(profile, { spacing: 'poisson', seed: seed * 100 + k });
  });
  const { records, measuredMs } = await live(root, 'bonsai', 'reaction', tasks, due, 0);
  let firstMs = Number.POSITIVE_INFINITY;
  let longestMs = 0;
  for (const [k, own] of records.entries()) {
    const task = scenario.tasks[k]!;
    const figures = versionFigures(task, scenario);
    longestMs = Math.max(longestMs, figures[0]!.serviceMs);
    const placeOf = (version: string | undefined) =>
      figures.findIndex((each) => each.version === Number(version));
    const before = own.filter(({ dueMs }) => dueMs >= QUIET_MS - LOOK_MS && dueMs < QUIET_MS);
    const smallest = Math.max(0, ...before.map(({ version }) => placeOf(version)));
    for (const { dueMs, latencyMs, version, outcome } of own) {
      const place = placeOf(version);
      if (outcome !== 'ok' || place <= smallest || dueMs + latencyMs < QUIET_MS) continue;
      const tookMs = measuredMs.get(task.task)?.get(Number(version)) ?? figures[place]!.serviceMs;
      firstMs = Math.min(firstMs, Math.max(0, dueMs + latencyMs - tookMs - QUIET_MS));
    }
  }
  const after = records.flatMap((own) => own.filter(({ dueMs }) => dueMs >= QUIET_MS));
  const violations = after.filter(({ outcome, latencyMs }) => outcome !== 'ok' || latencyMs > SLO_MS).length;
  say('');
  say(
    `reaction to 5 × the demand: first smaller version after ${firstMs.toFixed(1)} ms; bar: one service time, ${longestMs.toFixed(1)} ms, ${firstMs <= longestMs ? 'met' : 'MISSED'}; violations in the ${STEP_MS / 1000} s behind it ${percent(violations / after.length, 3)}`,
  );
  return { firstSmallerMs: firstMs, serviceMs: longestMs, violations: violations / after.length };
}

function percent(ratio: number, digits = 2): string {
  return `${(100 * ratio).toFixed(digits)} %`;
}

function signed(ratio: number): string {
  return `${ratio < 0 ? '−' : '+'}${Math.abs(100 * ratio).toFixed(2)}`;
}

await main();
