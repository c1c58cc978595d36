import { type DemandProfile, demandSteps, dueTimes, durationMsOf } from '../../load/arrivals.ts';
import { CLOSED_LOOP_DEFAULTS, findMaximalThroughput } from '../../load/closed-loop.ts';
import type { Experiment } from '../experiment.ts';
import type { Lab } from '../lab.ts';
import { type LiveRun, liveRunOf } from '../live/live-run.ts';
import { runLive } from '../live/run-live.ts';
import { THESIS_SLO_MS } from '../live/scenario.ts';
import { patiently } from '../measuring/patiently.ts';
import { startTestedServer, type TestedServer } from '../measuring/server.ts';
import { maximumOf } from '../measuring/versions.ts';
import { drawInfaas } from './draw.ts';
import { THESIS_INFAAS } from './thesis.ts';

export interface InfaasResults {
  readonly task: string;
  /** The smallest version, which INFaaS serves where no accuracy is asked for. */
  readonly version: number;
  readonly stacks: readonly {
    readonly kind: Stack;
    /** 20 requests a second to a stack that has just been started. */
    readonly coldStart: LiveRun;
    /** From the first request to the first answer in time after which all are. */
    readonly coldMs: number;
    readonly growth: LiveRun;
    readonly steps: readonly { readonly atMs: number; readonly rps: number }[];
    /** Maximal throughput when all of the stack's CPU goes to this one version, requests per second, repeated. */
    readonly throughputsRps: readonly number[];
  }[];
}

/** `per-model`: each version in a process of its own behind a proxy, started by its first request; `one-server`: ours. */
export type Stack = 'per-model' | 'one-server';

const COLD_MS = { full: 10_000, quick: 6_000, tiny: 2_000 } as const;

/** Figure 5.5 and its text: 1, 3, 5, … 513 requests a second. */
const GROWTH_STEPS = 10;

/** INFaaS does not refuse: what it cannot do in time comes late or fails. */
const TIMEOUT_MS = 20_000;

/** A stack starts and ends, and its two runs are made ready. */
const STACK_MS = 9_000;

const REPEATS = { full: 10, quick: 3, tiny: 1 } as const;

/** Figures 5.4 and 5.5: one model in one server against many in one. */
export const infaas: Experiment<InfaasResults> = {
  name: 'infaas',
  thesis: 'Fig. 5.4, 5.5',
  question:
    'What does it cost to serve each model from a server of its own, started when it is first asked for?',
  estimateMs: ({ scale }) =>
    2 *
    (COLD_MS[scale.name] +
      GROWTH_STEPS * scale.growthStepMs +
      REPEATS[scale.name] * 4 * scale.windowMs +
      STACK_MS),
  async run(lab) {
    const [task] = lab.tasks;
    const fastest = task!.manifest.variants.toSorted((a, b) => maximumOf(b) - maximumOf(a))[0]!;
    const stacks: InfaasResults['stacks'][number][] = [];
    for (const kind of ['per-model', 'one-server'] as const)
      stacks.push(await lab.part(kind, () => measureStack(lab, kind, fastest.version)));
    return { task: task!.name, version: fastest.version, stacks };
  },
  draw: drawInfaas,
};

async function measureStack(
  lab: Lab,
  kind: Stack,
  version: number,
): Promise<InfaasResults['stacks'][number]> {
  const { scale } = lab;
  const growth: DemandProfile = {
    kind: 'exponential',
    startRps: 1,
    intervalMs: scale.growthStepMs,
    steps: GROWTH_STEPS,
  };
  const cold: DemandProfile = {
    kind: 'constant',
    rps: THESIS_INFAAS.coldRps,
    durationMs: COLD_MS[scale.name],
  };
  const server = await startStack(lab, kind, version);
  try {
    lab.say(`${kind}: cold start`);
    const coldStart = await runOn(lab, server, kind, version, cold, 'cold start');
    lab.say(`${kind}: growth`);
    const grown = await runOn(lab, server, kind, version, growth, 'growth');
    lab.say(`${kind}: maximal throughput`);
    return {
      kind,
      coldStart,
      coldMs: coldMsOf(coldStart),
      growth: grown,
      steps: demandSteps(growth, durationMsOf(growth)),
      throughputsRps: await throughputsOf(lab, server, version),
    };
  } finally {
    await server.close();
  }
}

function startStack(lab: Lab, kind: Stack, version: number): Promise<TestedServer> {
  const [task] = lab.tasks;
  return startTestedServer(lab, {
    cpus: lab.cpus,
    flags: [
      '--log-level',
      'error',
      ...(kind === 'per-model'
        ? ['--one-model-per-process']
        : ['--initial', `${task!.name}=${version}`, '--max-queue', '100000', '--max-wait', '1h']),
    ],
  });
}

async function runOn(
  lab: Lab,
  server: TestedServer,
  kind: Stack,
  version: number,
  demand: DemandProfile,
  what: string,
): Promise<LiveRun> {
  const [task] = lab.tasks;
  const { seed, clock, signal, cpus } = lab;
  const raw = await runLive({
    url: server.url,
    tasks: [
      {
        task: task!.name,
        version: String(version),
        inputs: task!.inputs,
        dueTimesMs: dueTimes(demand, { spacing: 'even', seed }),
        seed,
      },
    ],
    watched: [{ name: kind, pid: server.pid, cpuBudget: cpus.length }],
    sloMs: THESIS_SLO_MS,
    timeoutMs: TIMEOUT_MS,
    // As many as the proxy has to one process.
    connections: 256,
    clock,
    signal,
  });
  return liveRunOf(raw, {
    name: `${kind}, ${what}`,
    sloMs: THESIS_SLO_MS,
    durationMs: durationMsOf(demand),
    countedFromMs: 0,
    manifests: [task!.manifest],
    isLabelled: [task!.isLabelled],
    serverNames: [kind],
  });
}

/** When the last request that was due early enough to suffer from the start was due: until then, not everything came in time. */
export function coldMsOf({ tasks: [task], sloMs }: Pick<LiveRun, 'tasks' | 'sloMs'>): number {
  const { dueMs, latencyMs, outcome } = task!.dots;
  let last = 0;
  for (const [i, due] of dueMs.entries())
    if (outcome[i] !== 0 || latencyMs[i]! > sloMs) last = Math.max(last, due);
  return last;
}

async function throughputsOf(lab: Lab, server: TestedServer, version: number): Promise<number[]> {
  const [task] = lab.tasks;
  const { clock, signal, seed, scale } = lab;
  const rates: number[] = [];
  for (let i = 0; i < REPEATS[scale.name]; i++) {
    const { throughputRps } = await patiently(scale.windowMs, (durationMs) =>
      findMaximalThroughput({
        url: server.url,
        model: task!.name,
        version: String(version),
        inputs: task!.inputs,
        clock,
        signal,
        seed: seed + i,
        concurrencies: [8, 16],
        repeats: 1,
        warmupMs: Math.min(CLOSED_LOOP_DEFAULTS.warmupMs, scale.windowMs),
        durationMs,
      }),
    );
    rates.push(throughputRps.median);
  }
  return rates;
}
