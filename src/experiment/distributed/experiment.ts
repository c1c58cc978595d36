import { setTimeout as sleep } from 'node:timers/promises';
import type { Experiment } from '../experiment.ts';
import type { Lab } from '../lab.ts';
import { volatileDemand } from '../live/demand.ts';
import type { LiveRun } from '../live/live-run.ts';
import { LIVE_CONNECTIONS } from '../live/run-live.ts';
import { fileName, runTasks } from '../live/run-tasks.ts';
import { feasibleOverload, overloadRates, serverScenario, THESIS_SLO_MS } from '../live/scenario.ts';
import { servedRunMs } from '../live/serve-policy.ts';
import { drawDistributed } from './draw.ts';
import { type Fleet, type FleetServerPlan, startFleet } from './fleet.ts';

export interface DistributedResults {
  /** Whether each server had a CPU of its own, or all shared one. */
  readonly hasOwnCpus: boolean;
  readonly servers: readonly string[];
  readonly loads: readonly {
    readonly kind: 'low' | 'high';
    readonly meansRps: readonly number[];
    readonly runs: readonly (LiveRun & {
      /** Versions changed on servers, by the orchestrator's own count. */
      readonly changes: number;
    })[];
  }[];
}

export const SERVERS = 3;

/** In the thesis, two servers serve each task. */
export const REPLICAS = 2;

/** High load is as much for each server as one has in the co-allocation test; low load a third of it. */
export const LOADS = { low: 1 / 3, high: 1 } as const;

/** NGINX holds two for each request, one to the client and one to a server, of 4,096 in all; where files are limited to 1,024, it has fewer. */
export const FLEET_CONNECTIONS = 480;

/** Each server's own; the fleet plans then which tasks are where. */
const SERVER_POLICY = 'bonsai';

/** `plan` is the fleet's own planner; the thesis' policy decides for each server alone. */
const POLICIES = ['static:largest', 'trivial', 'plan', SERVER_POLICY] as const;

/** Figures 5.19 and 5.20: three tasks over three servers behind NGINX. */
export const distributed: Experiment<DistributedResults> = {
  name: 'distributed',
  thesis: 'Fig. 5.19, 5.20, A.5, Tables 5.3, 5.4',
  question:
    'Three servers behind NGINX, two for each task: do three times the CPUs carry three times the load?',
  obstacle: ({ hasNginx, machineCpus }) => {
    if (!hasNginx)
      return 'It was left out: there is no NGINX on this machine. Install one (Debian: apt-get install nginx-light) and run the same command again.';
    if (machineCpus < 2)
      return 'It was left out: servers and clients need a CPU each, and this machine has only one.';
    return undefined;
  },
  estimateMs: (lab) =>
    (['low', 'high'] as const).reduce((sum, kind) => sum + policiesOf(lab, kind).length, 0) *
    servedRunMs(lab, lab.scale.distributedMs + lab.scale.warmUpMs + 8_000),
  async run(lab) {
    const plans = serverPlans(lab);
    const cpus = plans.reduce((sum, { cpuBudget }) => sum + cpuBudget, 0);
    const scenario = serverScenario(
      lab.tasks.map(({ manifest }) => manifest),
      THESIS_SLO_MS,
    );
    const loads: DistributedResults['loads'][number][] = [];
    for (const kind of ['low', 'high'] as const) {
      const meansRps = overloadRates(scenario, feasibleOverload(scenario) * cpus * LOADS[kind]);
      const runs: DistributedResults['loads'][number]['runs'][number][] = [];
      for (const policy of policiesOf(lab, kind))
        runs.push(
          await lab.part(`${kind}-${fileName(policy)}`, () =>
            runFleet(lab, plans, policy, `${kind} load: ${policy}`, meansRps),
          ),
        );
      loads.push({ kind, meansRps, runs });
    }
    return { hasOwnCpus: ownCpus(lab) !== undefined, servers: plans.map(({ name }) => name), loads };
  },
  draw: drawDistributed,
};

/** Under low load the others differ little. */
function policiesOf({ scale }: Pick<Lab, 'scale'>, kind: 'low' | 'high'): readonly string[] {
  return scale.name === 'full' || kind === 'high' ? POLICIES : ['trivial', SERVER_POLICY];
}

/** A CPU for each server beside the client's; undefined where there are too few. */
function ownCpus({ clientCpus, machineCpus }: Lab): number[] | undefined {
  const free = Array.from({ length: machineCpus }, (_, cpu) => cpu).filter(
    (cpu) => !clientCpus.includes(cpu),
  );
  return free.length >= SERVERS ? free.slice(0, SERVERS) : undefined;
}

function serverPlans(lab: Lab): FleetServerPlan[] {
  const own = ownCpus(lab);
  return Array.from({ length: SERVERS }, (_, i) => ({
    name: `server-${i + 1}`,
    boundTo: own === undefined ? lab.cpus : [own[i]!],
    cpuBudget: own === undefined ? lab.cpus.length / SERVERS : 1,
  }));
}

async function runFleet(
  lab: Lab,
  servers: readonly FleetServerPlan[],
  policy: string,
  name: string,
  meansRps: readonly number[],
): Promise<LiveRun & { changes: number }> {
  const { scale, seed, signal, tasks } = lab;
  const { distributedMs: durationMs, warmUpMs } = scale;
  const demand = await volatileDemand(lab, { meansRps, durationMs, warmUpMs, seed });
  const connections = 2 * LIVE_CONNECTIONS;
  const fleet = await startFleet(lab, {
    ...(policy === SERVER_POLICY ? { policy: 'plan', serverPolicy: policy } : { policy }),
    servers,
    sloMs: THESIS_SLO_MS,
    replicas: REPLICAS,
    connections,
  });
  try {
    await sleep(scale.settleMs, undefined, { signal });
    const before = changesOf(fleet.decisions);
    const run = await runTasks(
      lab,
      { name, tasks, demand, durationMs, warmUpMs, seed },
      { url: fleet.url, watched: fleet.watched, connections: FLEET_CONNECTIONS },
    );
    return { ...run, changes: changesOf(fleet.decisions) - before };
  } finally {
    await fleet.close();
  }
}

function changesOf(decisions: Fleet['decisions']): number {
  return decisions.filter(({ kind }) => kind === 'done').length;
}
