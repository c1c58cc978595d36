import { writeFile } from 'node:fs/promises';
import { setImmediate } from 'node:timers/promises';
import { Command, Option } from 'commander';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import { type DemandProfile, demandSteps, durationMsOf } from '../load/arrivals.ts';
import { readTrace, traceProfile, traceWindow } from '../load/trace.ts';
import type { Policy } from '../policy/policy.ts';
import { DISPATCH_POLICY_NAMES, dispatchPolicyByName, POLICY_NAMES } from '../policy/registry.ts';
import { COMPARE_COLUMNS, renderCompareReport } from '../report/compare-report.ts';
import { renderRunReport } from '../report/html.ts';
import type { RunReport } from '../report/report-types.ts';
import { alignedTable } from '../report/table.ts';
import { frontierOf } from '../repository/frontier.ts';
import { listTasks, readManifest } from '../repository/store.ts';
import type { Variant } from '../repository/types.ts';
import { geometricChain } from '../simulate/chain.ts';
import { type Comparison, compare } from '../simulate/compare.ts';
import { CONTESTANTS, type Contestant, contestantsOf, plumbingOf, served } from '../simulate/contestants.ts';
import {
  BUILT_IN_DEMANDS,
  type BuiltInDemand,
  builtInDemand,
  TWITTER_DEMANDS,
  type TwitterDemand,
  twitterDemand,
} from '../simulate/demand.ts';
import { ORACLES, oracleBounds } from '../simulate/oracle-bounds.ts';
import { runReports } from '../simulate/run-reports.ts';
import {
  makeScenario,
  type Scenario,
  type ServerFailure,
  type SimulatedTask,
  scenarioDefaults,
} from '../simulate/scenario.ts';
import { simulate } from '../simulate/simulate.ts';
import { drawWorkload, scaledDemand, type WorkloadOptions, workloadDefaults } from '../simulate/workload.ts';
import { type Context, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { checkIdleOptions, isChosen } from './idle-options.ts';
import { jsonOption, seedOption } from './options.ts';
import { parseDurationMs, parseInteger, parseNumber } from './parse.ts';
import { isPolicyFile, readPolicyFile } from './policy-file.ts';
import { parseDemand } from './stress.ts';
import { readTaskObjectives } from './task-objectives.ts';

interface SimulateOptions {
  readonly repository?: string;
  readonly chain: string;
  readonly trace?: readonly string[];
  readonly demand?: readonly string[];
  readonly duration: number;
  readonly interval: number;
  readonly mean?: readonly number[];
  readonly scale: number;
  readonly policy?: string;
  readonly compare?: string;
  readonly oracle?: boolean;
  readonly slo?: number;
  readonly cpus: number;
  readonly servers: number;
  readonly routing: Scenario['routing'];
  readonly admission: Scenario['admission'];
  readonly discipline?: Scenario['discipline'];
  readonly residency?: number | 'all';
  readonly loaderWeight?: number;
  readonly cv: number;
  readonly clumps: number;
  readonly stragglers?: { readonly ratio: number; readonly factor: number };
  readonly wrongProfile: number;
  readonly fail?: readonly ServerFailure[];
  readonly target?: string;
  readonly seeds: number;
  readonly seed: number;
  readonly html?: string;
  readonly json?: boolean;
}

/** Tasks of made-up families and of repositories that say nothing aim at the thesis' 400 ms. */
export const SIMULATED_SLO_MS = 400;

export function simulateCommand(): Command {
  const demands = [
    ...Object.entries(BUILT_IN_DEMANDS).map(([name, meaning]) => `${name} (${meaning})`),
    ...Object.entries(TWITTER_DEMANDS).map(([name, meaning]) => `${name}:FILE (${meaning})`),
  ];
  return new Command('simulate')
    .description('Run policies over servers in virtual time: hours of demand in seconds, the same each time.')
    .option('--repository <dir>', 'the tasks of a model repository, with their profiles')
    .addOption(
      new Option(
        '--chain <spec>',
        'without a repository: one made-up family for every task, as geometric:VERSIONS,SLOWEST,FASTEST,LOWEST_ACCURACY,EXPONENT',
      )
        .default('geometric:12,4.3,76,0.59,2.2')
        .conflicts('repository'),
    )
    .addOption(
      new Option(
        '--trace <name>',
        `demand: ${demands.join('; ')}; or FILE or FILE@START-END (s) of a trace, one for each task or one for all; may be repeated`,
      ).argParser(collect),
    )
    .addOption(
      new Option(
        '--demand <spec>',
        'demand as bonsai stress takes it (constant:10, sine:10:5, …); may be repeated, one for each task or one for all',
      ).argParser(collect),
    )
    .addOption(
      new Option('--duration <duration>', 'length of a --demand')
        .argParser(parseDurationMs)
        .default(600_000, '10min'),
    )
    .addOption(
      new Option('--interval <duration>', 'how long a step of --demand holds; period of sine')
        .argParser(parseDurationMs)
        .default(60_000, '1min'),
    )
    .addOption(
      new Option('--mean <list>', 'scale traces to these means in req/s, one for each task')
        .argParser(parseMeans)
        .conflicts('demand'),
    )
    .addOption(new Option('--scale <factor>', 'multiply every demand').argParser(parseNumber(0)).default(1))
    .addOption(
      new Option(
        '--policy <name>',
        `${[...POLICY_NAMES, ...DISPATCH_POLICY_NAMES].join(', ')}, or a FILE that exports one`,
      ),
    )
    .addOption(
      new Option(
        '--compare <list>',
        'many policies with the servers they are made for: all, everything (with tuned ones, minutes), or names and files with commas',
      ).conflicts('policy'),
    )
    .option(
      '--oracle',
      'also what perfect knowledge of all arrivals could have got, as two bounds (--compare all and everything have it)',
    )
    .addOption(
      new Option('--slo <duration>', "latency objective (default: the repository's, else 400ms)").argParser(
        parseDurationMs,
      ),
    )
    .addOption(
      new Option('--cpus <n>', 'CPUs of each server')
        .argParser(parseInteger(1, 1024))
        .default(scenarioDefaults.cpus),
    )
    .addOption(
      new Option('--servers <n>', 'servers')
        .argParser(parseInteger(1, 4096))
        .default(scenarioDefaults.servers),
    )
    .addOption(
      new Option('--routing <kind>', 'of requests to servers')
        .choices(['leastWork', 'roundRobin'])
        .default(scenarioDefaults.routing),
    )
    .addOption(
      new Option(
        '--admission <rule>',
        'all: every request is queued; feasible: refused at once where not all could be in time, as bonsai serve does',
      )
        .choices(['all', 'feasible'])
        .default('all'),
    )
    .addOption(
      new Option(
        '--discipline <kind>',
        "ps: a queue and a share of the CPU for each task; edf: one queue by deadline for each CPU (default: the policy's usual one)",
      ).choices(['ps', 'edf']),
    )
    .addOption(
      new Option(
        '--residency <n>',
        "versions of each task that may be in memory, or all (default: the policy's usual ones)",
      ).argParser(parseResidency),
    )
    .addOption(
      new Option('--loader-weight <w>', 'CPU share of a load, a request having 1').argParser(
        parseNumber(0.0001),
      ),
    )
    .addOption(
      new Option('--cv <cv>', 'coefficient of variation of service times')
        .argParser(parseNumber(0, 10))
        .default(workloadDefaults.serviceCv),
    )
    .addOption(
      new Option('--clumps <mean>', 'requests come in clumps of this mean size')
        .argParser(parseNumber(1, 1000))
        .default(workloadDefaults.clumpMean),
    )
    .addOption(
      new Option(
        '--stragglers <spec>',
        'requests that take longer, as 0.01x3: 1 % of them 3 times',
      ).argParser(parseStragglers),
    )
    .addOption(
      new Option('--wrong-profile <factor>', 'true service times over those of the profiles')
        .argParser(parseNumber(0.01, 100))
        .default(scenarioDefaults.profileFactor),
    )
    .addOption(
      new Option(
        '--fail <spec>',
        'a server that is gone for a time, as 1@60-90 (s); may be repeated',
      ).argParser(collectFailures),
    )
    .option('--target <fingerprint>', 'the target whose profiles count (default: the most recent)')
    .addOption(
      new Option('--seeds <n>', 'repetitions with other arrivals and service times')
        .argParser(parseInteger(1, 1000))
        .default(5),
    )
    .addOption(seedOption())
    .option('--html <file>', 'write a page with figures')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai simulate --trace burst3 --policy trivial           the thesis' policy on demand that bursts
  $ bonsai simulate --trace day.csv@0-1200 --mean 5,7,9 --policy trivial
  $ bonsai simulate --trace burst3 --compare all --html compare.html
  $ bonsai simulate --trace burst3 --policy ./mine.mjs        a policy of one's own: docs/simulate.md has one
  $ bonsai simulate --repository models --demand sine:20:15 --policy slackfit --residency 3

Violations count requests that were late, shed or failed, over all that were offered.
${EXIT_CODE_HELP}`,
    )
    .action(async (options: SimulateOptions, self: Command) => {
      if (options.policy === undefined && options.compare === undefined) {
        throw new InvalidArgumentError('Say what decides: --policy NAME, --policy FILE, or --compare all.');
      }
      checkIdleOptions(
        (['duration', 'interval'] as const).map((name) => ({
          flag: `--${name}`,
          isGiven: isChosen(self, name),
          need: '--demand',
          isMet: options.demand !== undefined,
        })),
      );
      const context = processContext(options);
      const setting = await settingOf(options, self);
      const contestants =
        options.compare === undefined
          ? [await contestantOf(options.policy!, options, setting.scenario)]
          : await comparedBy(options.compare, options, setting.scenario);
      const withOracle =
        options.oracle === true || options.compare === 'all' || options.compare === 'everything';
      const comparisons = await runAll(context, contestants, setting, withOracle);
      if (options.html !== undefined) {
        await writeFile(
          options.html,
          options.compare === undefined
            ? policyPage(contestants[0]!, setting)
            : comparePage(comparisons, setting),
        );
      }
      context.result(
        { seeds: setting.seeds, setting: Object.fromEntries(setting.told), policies: comparisons },
        describe(comparisons, setting),
      );
    });
}

/** All that is simulated, but the policy. */
interface Setting {
  readonly scenario: Scenario;
  /** What was asked for, whatever is usual for a policy. */
  readonly fixed: Partial<Scenario>;
  readonly demand: readonly DemandProfile[];
  readonly workload: Omit<WorkloadOptions, 'seed'>;
  readonly seeds: readonly number[];
  readonly told: readonly (readonly [string, string])[];
}

async function settingOf(options: SimulateOptions, self: Command): Promise<Setting> {
  const { cpus, servers, routing, discipline, residency, loaderWeight, slo, target } = options;
  const stored =
    options.repository === undefined ? undefined : await storedTasks(options.repository, options, self);
  const demand = await demandOf(options, stored?.length);
  const variants = stored === undefined ? parseChain(options.chain) : [];
  const tasks =
    stored ??
    demand.map(
      (_, k): SimulatedTask => ({
        task: `task${k + 1}`,
        sloMs: slo ?? SIMULATED_SLO_MS,
        weight: 1,
        variants,
      }),
    );
  const scenario = makeScenario({
    tasks,
    cpus,
    servers,
    routing,
    profileFactor: options.wrongProfile,
    admission: options.admission,
    fingerprint: target,
    failures: options.fail ?? [],
  });
  const fixed = {
    ...(discipline !== undefined && { discipline }),
    ...(residency !== undefined && { residency }),
    ...(loaderWeight !== undefined && { loaderWeight }),
  };
  const workload = {
    serviceCv: options.cv,
    clumpMean: options.clumps,
    ...(options.stragglers !== undefined && { stragglers: options.stragglers }),
  };
  const seeds = Array.from({ length: options.seeds }, (_, i) => options.seed + i);
  const told: [string, string][] = [
    ['Tasks', tasks.map(({ task, variants }) => `${task} (${variants.length} versions)`).join(', ')],
    ['Demand', options.trace?.join(', ') ?? options.demand?.join(', ') ?? DEFAULT_DEMAND],
    ['Servers', `${servers} of ${cpus} CPU${cpus > 1 ? 's' : ''}`],
    ['Latency SLO', [...new Set(tasks.map(({ sloMs }) => `${sloMs} ms`))].join(', ')],
    ['Seeds', seeds.length === 1 ? String(seeds[0]) : `${seeds[0]} to ${seeds.at(-1)}`],
  ];
  return { scenario, fixed, demand, workload, seeds, told };
}

async function storedTasks(
  repository: string,
  { slo }: SimulateOptions,
  self: Command,
): Promise<SimulatedTask[]> {
  const names = await listTasks(repository);
  if (names.length === 0) throw new InvalidArgumentError(`There is no task in the repository ${repository}.`);
  const objectives = await readTaskObjectives(self, names);
  return Promise.all(
    names.map(async (name): Promise<SimulatedTask> => {
      const { task, sloMs, variants } = await readManifest(repository, name);
      const own = objectives.get(task);
      return {
        task,
        sloMs: slo ?? own?.sloMs ?? sloMs ?? SIMULATED_SLO_MS,
        weight: own?.weight ?? 1,
        variants,
        ...(own?.minAccuracy !== undefined && { minAccuracy: own.minAccuracy }),
      };
    }),
  );
}

const DEFAULT_DEMAND: BuiltInDemand = 'burst3';

/** The demand of each task; one that is given alone is each task's. */
async function demandOf(options: SimulateOptions, taskCount: number | undefined): Promise<DemandProfile[]> {
  const { trace, demand, duration, interval, mean: means, scale } = options;
  if (trace !== undefined && demand !== undefined) {
    throw new InvalidArgumentError('Give --trace or --demand, not both.');
  }
  const names = trace ?? (demand === undefined ? [DEFAULT_DEMAND] : undefined);
  let profiles: DemandProfile[];
  if (names === undefined) {
    profiles = await Promise.all(demand!.map((spec) => parseDemand({ demand: spec, duration, interval })));
  } else if (names.length === 1 && names[0]! in BUILT_IN_DEMANDS) {
    profiles = builtInDemand(names[0] as BuiltInDemand, means); // One of its keys.
  } else if (names.length === 1 && twitterSpec(names[0]!) !== undefined) {
    const [name, path] = twitterSpec(names[0]!)!;
    profiles = await twitterDemand(name, path, means);
  } else {
    const count = Math.max(names.length, taskCount ?? means?.length ?? 1);
    const listed = names.length === 1 ? Array.from({ length: count }, () => names[0]!) : names;
    profiles = await Promise.all(listed.map((name, k) => fileDemand(name, meanAt(means, k, count))));
  }
  if (taskCount !== undefined && profiles.length === 1) {
    profiles = Array.from({ length: taskCount }, () => profiles[0]!);
  }
  if (taskCount !== undefined && profiles.length !== taskCount) {
    throw new InvalidArgumentError(
      `The repository has ${taskCount} tasks, the demand ${profiles.length}: give one for all or one for each.`,
    );
  }
  return scale === 1 ? profiles : profiles.map((profile) => scaledDemand(profile, scale));
}

/** `tw3:FILE`; undefined for anything else. */
function twitterSpec(spec: string): [name: TwitterDemand, path: string] | undefined {
  const [, name, path] = /^([a-z0-9]+):(.+)$/.exec(spec) ?? [];
  return name !== undefined && name in TWITTER_DEMANDS ? [name as TwitterDemand, path!] : undefined;
}

function meanAt(means: readonly number[] | undefined, k: number, count: number): number | undefined {
  if (means === undefined || means.length === 1) return means?.[0];
  if (means.length === count) return means[k];
  throw new InvalidArgumentError(
    `--mean has ${means.length} values for ${count} tasks: give one, or one for each.`,
  );
}

/** `FILE` or `FILE@START-END` in seconds. */
async function fileDemand(spec: string, meanRps: number | undefined): Promise<DemandProfile> {
  const [, file, start, end] = /^(.+)@(\d+)-(\d+)$/.exec(spec) ?? [];
  if (file === undefined) return traceProfile(await readTrace(spec), meanRps);
  const trace = traceWindow(await readTrace(file), Number(start) * 1000, Number(end) * 1000);
  return traceProfile(trace, meanRps);
}

/**
 * What `--compare` names: contestants, and any other policies or files.
 * @throws InvalidArgumentError for what is neither
 */
async function comparedBy(
  list: string,
  options: SimulateOptions,
  scenario: Scenario,
): Promise<readonly Contestant[]> {
  if (list === 'all' || list === 'everything') return contestantsOf(list);
  // Not at the commas within static:digits=3,bees=1.
  const specs = list.split(/,(?![^,:]+=)/).map((spec) => spec.trim());
  return Promise.all(
    specs.map(async (spec) => {
      if (CONTESTANTS.some(({ name }) => name === spec)) return contestantsOf(spec)[0]!;
      try {
        return await contestantOf(spec, options, scenario);
      } catch (thrown) {
        if (thrown instanceof BonsaiError && thrown.code === 'unknown_policy') contestantsOf(spec); // Says what there is.
        throw thrown;
      }
    }),
  );
}

/** A policy of a name or file, on the servers it is made for; others on a deadline queue with all versions. */
async function contestantOf(
  spec: string,
  { target }: SimulateOptions,
  scenario: Scenario,
): Promise<Contestant> {
  refuseWhatIsNotThere(spec, scenario);
  const known = CONTESTANTS.find(({ name }) => name === spec);
  // By name rather than the contestant's own, for the target's sake.
  let policy: Policy | undefined;
  if (isPolicyFile(spec)) policy = await readPolicyFile(spec);
  else if (known === undefined || target !== undefined)
    policy = dispatchPolicyByName(spec, { fingerprint: target });
  if (policy === undefined) return known!;
  const chosen = served(policy);
  return {
    name: isPolicyFile(spec) ? policy.name : spec,
    meaning: spec,
    plumbing: plumbingOf(spec),
    makePolicy: () => chosen,
  };
}

/** `static:TASK=VERSION` with a task or version that the scenario lacks would run as if nothing had been said. */
function refuseWhatIsNotThere(spec: string, { tasks, fingerprint }: Scenario): void {
  const choice = isPolicyFile(spec) ? undefined : /^static:(.+=.+)$/.exec(spec)?.[1];
  for (const pair of choice?.split(',') ?? []) {
    const [name, version] = pair.split('=');
    const task = tasks.find((one) => one.task === name);
    if (task === undefined) {
      const names = tasks.map((one) => one.task).join(', ');
      throw new InvalidArgumentError(`There is no task "${name}" for ${spec}. Tasks: ${names}.`);
    }
    const frontier = frontierOf(task.variants, 'inverseThroughput', fingerprint).map((one) => one.version);
    if (frontier.includes(Number(version))) continue;
    throw new InvalidArgumentError(
      `Version ${version} of ${name} is not on its frontier. There are: ${frontier.join(', ')}.`,
    );
  }
}

async function runAll(
  context: Context,
  contestants: readonly Contestant[],
  { scenario, fixed, demand, workload, seeds }: Setting,
  withOracle: boolean,
): Promise<Comparison[]> {
  const rows = contestants.length + (withOracle ? ORACLES.length : 0);
  const bar = context.progress.task('Simulating', rows * seeds.length);
  let done = 0;
  const onRun = async (name: string, seed: number) => {
    bar.update(++done, `${name}, seed ${seed}`);
    await setImmediate();
    context.signal.throwIfAborted();
  };
  const comparisons = await compare({ contestants, scenario, fixed, demand, workload, seeds, onRun });
  const bounds = withOracle ? await oracleBounds({ scenario, demand, workload, seeds, onRun }) : [];
  bar.done('done');
  return [...comparisons, ...bounds];
}

function describe(comparisons: readonly Comparison[], { told }: Setting): string {
  const rows = comparisons.map(({ name, meaning, intervals }) => ({ name, meaning, ...intervals }));
  const table = alignedTable([
    COMPARE_COLUMNS.map(({ heading }) => heading),
    ...rows.map((row) => COMPARE_COLUMNS.map(({ cell }) => cell(row))),
  ]);
  return `${told.map(([name, value]) => `${name}: ${value}`).join('\n')}\n\n${table}± is the 95 % confidence interval over seeds.`;
}

function comparePage(comparisons: readonly Comparison[], { told, seeds }: Setting): string {
  return renderCompareReport({
    title: 'Policies compared in simulation',
    subtitle: `${comparisons.length} policies on the same requests, ${seeds.length} seeds.`,
    policies: comparisons.map(({ name, meaning, intervals }) => ({ name, meaning, ...intervals })),
    setting: told,
  });
}

/** The run of the first seed, a figure for each task. */
function policyPage(contestant: Contestant, setting: Setting): string {
  const { demand, told, seeds } = setting;
  const scenario = makeScenario({ ...setting.scenario, ...contestant.plumbing, ...setting.fixed });
  const workload = drawWorkload(demand, { ...setting.workload, seed: seeds[0]! });
  const run = simulate({ scenario, workload, policy: contestant.makePolicy(scenario, workload) });
  const runs: RunReport[] = runReports(run).map((report, k) => ({
    ...report,
    demand: demandSteps(demand[k]!, durationMsOf(demand[k]!) / DEMAND_MARKS).filter(isMarked()),
  }));
  return renderRunReport({
    title: `${contestant.name} in simulation`,
    subtitle: contestant.meaning,
    machine: told.filter(([name]) => name !== 'Seeds' && name !== 'Latency SLO'),
    seed: seeds[0]!,
    sloMs: scenario.tasks[0]!.sloMs,
    runs,
    frontier: [],
    decisions: [],
  });
}

/** Changes of demand that a figure marks at most, about. */
const DEMAND_MARKS = 20;

/** Of changes second by second only those that differ by half from the one marked last. */
function isMarked(): (point: { readonly rps: number }) => boolean {
  let last = Number.NaN;
  return ({ rps }) => {
    const differs = !(Math.abs(rps - last) < 0.5 * Math.max(rps, last));
    if (differs) last = rps;
    return differs;
  };
}

/** `geometric:12,4.3,76,0.59,2.2`; what is left out at the end is the default. */
function parseChain(spec: string): Variant[] {
  const [kind, list = ''] = spec.split(':');
  const numbers = list === '' ? [] : list.split(',').map(Number);
  if (kind !== 'geometric' || numbers.length > 5 || numbers.some(Number.isNaN)) {
    throw new InvalidArgumentError(
      `Expected a chain such as geometric:12,4.3,76,0.59,2.2 (versions, slowest and fastest req/s, lowest accuracy, exponent), got "${spec}".`,
    );
  }
  const names = ['versions', 'slowestRps', 'fastestRps', 'lowestAccuracy', 'exponent'];
  return geometricChain(Object.fromEntries(numbers.map((number, i) => [names[i], number])));
}

function parseMeans(text: string): number[] {
  return text.split(',').map(parseNumber(0));
}

function parseResidency(text: string): number | 'all' {
  return text === 'all' ? 'all' : parseInteger(1, 1000)(text);
}

function parseStragglers(text: string): { ratio: number; factor: number } {
  const [, ratio, factor] = /^(0?\.\d+|[01])x(\d+(?:\.\d+)?)$/.exec(text) ?? [];
  if (ratio === undefined) {
    throw new InvalidArgumentError(
      `Expected stragglers such as 0.01x3 (1 % take 3 times as long), got "${text}".`,
    );
  }
  return { ratio: Number(ratio), factor: Number(factor) };
}

function collectFailures(text: string, before: ServerFailure[] | undefined): ServerFailure[] {
  const [, server, from, until] = /^(\d+)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$/.exec(text) ?? [];
  if (server === undefined) {
    throw new InvalidArgumentError(
      `Expected a failure such as 1@60-90 (server 1 from 60 to 90 s), got "${text}".`,
    );
  }
  return [
    ...(before ?? []),
    { server: Number(server), fromMs: Number(from) * 1000, untilMs: Number(until) * 1000 },
  ];
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
