import type { Dispatch } from '../src/policy/dispatch.ts';
import type { Policy, PolicyState, TaskState } from '../src/policy/policy.ts';
import { bonsaiPolicy } from '../src/policy/work-mdp/bonsai.ts';
import { geometricChain, simulatedVariant } from '../src/simulate/chain.ts';
import { builtInDemand, type TwitterDemand, twitterDemand } from '../src/simulate/demand.ts';
import { oracleSummary } from '../src/simulate/oracle-bounds.ts';
import { makeScenario } from '../src/simulate/scenario.ts';
import { simulate } from '../src/simulate/simulate.ts';
import { drawWorkload, scaledDemand } from '../src/simulate/workload.ts';

/**
 * What a decision of the bonsai policy costs: a look at the demand (tick) and a dispatch (pick), at the usual load and
 * at 2.5 times as much; and how planning anew grows with servers and tasks. Times of one thread. Bars: tick ≤ 2 ms; pick p99 ≤ 0.5 ms, ≤ 1 ms in
 * overload; 1,000 servers × 50 tasks in ≤ 1 s, no worse than linear. Run:
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/policy.js [TRACE]
 * TRACE: the recorded Twitter stream that `twitterDemand` reads; without it, bursts alone.
 */
const SEED = 1;
const [, , tracePath] = process.argv;

function quantile(times: readonly number[], q: number): number {
  return times.toSorted((a, b) => a - b)[Math.floor(q * (times.length - 1))]!;
}

function row(cells: readonly (string | number)[]): void {
  process.stdout.write(`${cells.map((cell) => String(cell).padEnd(14)).join('')}\n`);
}

/** The policy with its calls timed, in ms. */
function timed(policy: Policy): { policy: Policy; ticks: number[]; picks: number[]; queued: number[] } {
  const ticks: number[] = [];
  const picks: number[] = [];
  const queued: number[] = [];
  const inner = policy.dispatch!;
  const dispatch: Dispatch = {
    name: inner.name,
    pick(state) {
      const start = performance.now();
      const decision = inner.pick(state);
      picks.push(performance.now() - start);
      queued.push(state.queue.length);
      return decision;
    },
  };
  const decide = (state: PolicyState) => {
    const start = performance.now();
    const decision = policy.decide(state);
    ticks.push(performance.now() - start);
    return decision;
  };
  return { policy: { ...policy, dispatch, decide }, ticks, picks, queued };
}

async function demandOf(name: TwitterDemand | 'burst3') {
  return name === 'burst3' ? builtInDemand(name) : twitterDemand(name, tracePath!);
}

async function costs(
  name: TwitterDemand | 'burst3',
  scale: number,
  residency: number | 'all',
): Promise<void> {
  const demand = (await demandOf(name)).map((profile) => scaledDemand(profile, scale));
  const tasks = demand.map((_, k) => ({
    task: `task${k}`,
    sloMs: 400,
    weight: 1,
    variants: geometricChain(),
  }));
  const scenario = makeScenario({ tasks, residency });
  const workload = drawWorkload(demand, { seed: SEED });
  // Once over the whole for the compiler: a server's first minute is not its usual one.
  simulate({ scenario, workload, policy: bonsaiPolicy() });
  const { policy, ticks, picks, queued } = timed(bonsaiPolicy());
  simulate({ scenario, workload, policy });
  row([
    name,
    `x${scale}`,
    residency,
    picks.length,
    (queued.reduce((sum, count) => sum + count, 0) / queued.length).toFixed(1),
    (1000 * quantile(picks, 0.5)).toFixed(0),
    (1000 * quantile(picks, 0.99)).toFixed(0),
    quantile(ticks, 0.5).toFixed(2),
    quantile(ticks, 0.99).toFixed(2),
  ]);
}

/** CPU seconds for one decision on each of so many servers, median of some rounds. */
function replan(servers: number, taskCount: number): number {
  const frontier = Array.from({ length: 12 }, (_, i) =>
    simulatedVariant({ version: i + 1, accuracy: 1 - 0.4 * (i / 11) ** 2.2, throughputRps: 4.3 * 1.3 ** i }),
  );
  const policy = bonsaiPolicy();
  const memories: unknown[] = new Array(servers).fill(undefined);
  const rounds: number[] = [];
  for (let round = 1; round <= 7; round++) {
    const nowMs = round * 1000;
    let usedMs = 0;
    for (let server = 0; server < servers; server++) {
      const tasks = Array.from({ length: taskCount }, (_, k): TaskState => {
        const demandRps = (20 / taskCount) * (1 + 0.3 * Math.sin(k + server + round));
        const demand = Array.from({ length: 20 }, (_, i) => ({ atMs: nowMs - (19 - i) * 1000, demandRps }));
        return {
          task: `task${k}`,
          weight: 1,
          sloMs: 400,
          servingVersion: 12,
          demand,
          frontier,
          resident: [5, 8, 12],
          loading: [],
          residencyLimit: 3,
        };
      });
      const memory = memories[server];
      const start = process.cpuUsage();
      memories[server] = policy.decide({ nowMs, tasks, cpu: [], cpuBudget: 1, memory }).memory;
      usedMs += process.cpuUsage(start).user / 1000;
    }
    // The first rounds compile and start cold.
    if (round > 2) rounds.push(usedMs / 1000);
  }
  return quantile(rounds, 0.5);
}

row([
  'demand',
  'scale',
  'resident',
  'picks',
  'queue',
  'pick p50 µs',
  'pick p99 µs',
  'tick p50 ms',
  'tick p99 ms',
]);
for (const name of tracePath === undefined ? (['burst3'] as const) : (['tw3', 'burst3'] as const)) {
  await costs(name, 1, 'all');
  await costs(name, 1, 3);
  await costs(name, 2.5, 'all');
}
row([]);
row(['servers', 'tasks', 'seconds']);
for (const [servers, tasks] of [
  [125, 50],
  [250, 50],
  [500, 50],
  [1000, 50],
  [1000, 25],
  [1000, 3],
] as const) {
  row([servers, tasks, replan(servers, tasks).toFixed(2)]);
}
row([]);
row(['oracle', 'requests', 'seconds']);
{
  const demand = await demandOf(tracePath === undefined ? 'burst3' : 'tw3');
  const tasks = demand.map((_, k) => ({
    task: `task${k}`,
    sloMs: 400,
    weight: 1,
    variants: geometricChain(),
  }));
  const workload = drawWorkload(demand, { seed: SEED });
  const start = performance.now();
  oracleSummary(makeScenario({ tasks }), workload, 'feasible');
  row(['feasible', workload.arrivalMs.length, ((performance.now() - start) / 1000).toFixed(2)]);
}
