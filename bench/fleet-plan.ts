import { seededRandom } from '../src/base/random.ts';
import { nextChanges } from '../src/policy/placement/changes.ts';
import type { PlacementPlan, PlacementState } from '../src/policy/placement/placement.ts';
import { planPlacement } from '../src/policy/placement/plan.ts';
import { routesOf } from '../src/policy/placement/routes.ts';

/**
 * How long one decision about a large fleet takes: 1,000 servers of four kinds, 50 tasks with 8 versions each, by default.
 * Wanted: at most 1 s. Measured are the first plan (nothing is anywhere), the changes of one tick, the routes, a plan when
 * all is in place and demand moved by a fifth, and one after a tenth of the servers failed.
 * npx tsc -p tsconfig.json --noEmit false --outDir dist/bench && node dist/bench/bench/fleet-plan.js [servers] [tasks]
 */
const [serverCount = 1000, taskCount = 50] = process.argv.slice(2).map(Number);
const REPEATS = 5;
const KINDS = [
  { cpus: 1, memoryBytes: 512e6 },
  { cpus: 2, memoryBytes: 1e9 },
  { cpus: 4, memoryBytes: 4e9 },
  { cpus: 8, memoryBytes: 8e9 },
];

const random = seededRandom(1);
const servers = Array.from({ length: serverCount }, (_, s) => ({
  name: `server-${s}`,
  weight: 1,
  isUp: true,
  canLoad: true,
  present: {},
  ...KINDS[s % KINDS.length]!,
}));
const tasks = Array.from({ length: taskCount }, (_, k) => {
  const cpuMs = 5 * 4 ** random.uniform();
  return {
    task: `task-${k}`,
    weight: 1,
    // Together the smallest versions take a fifth of the fleet, the largest more than there is.
    demandRps: ((serverCount * 3.75) / taskCount) * (60 + 160 * random.uniform()),
    replicas: 2,
    // A third may run on half of the servers only.
    ...(k % 3 === 0 && { servers: servers.filter((_, s) => (s + k) % 2 === 0).map(({ name }) => name) }),
    versions: Array.from({ length: 8 }, (_, i) => ({
      version: i + 1,
      normalisedAccuracy: 1 - 0.3 * (i / 7) ** 2,
      cpuSeconds: (cpuMs * 0.65 ** i) / 1000,
      memoryBytes: 60e6 * 0.75 ** i,
    })),
  };
});
const empty: PlacementState = { nowMs: 0, servers, tasks };

function inPlace(plan: PlacementPlan): PlacementState {
  const present = new Map(servers.map(({ name }) => [name, {} as Record<string, { version: number }>]));
  for (const { server, task, version } of plan.cells) present.get(server)![task] = { version };
  return { ...empty, servers: servers.map((each) => ({ ...each, present: present.get(each.name)! })) };
}

const first = measure('first plan', () => planPlacement(empty));
measure('changes of a tick', () => nextChanges(empty, first, []));
const settled = inPlace(first);
measure('routes', () => routesOf(settled, first, new Set()));
measure('plan again, nothing changed', () => planPlacement(settled));
const moved = {
  ...settled,
  tasks: tasks.map((task, k) => ({ ...task, demandRps: task.demandRps * (k % 2 ? 1.2 : 0.8) })),
};
const second = measure('plan after demand moved', () => planPlacement(moved));
measure('changes of a tick', () => nextChanges(moved, second, []));
const failed = { ...settled, servers: settled.servers.map((each, s) => ({ ...each, isUp: s % 10 !== 0 })) };
measure('plan after a tenth failed', () => planPlacement(failed));

function measure<T>(name: string, work: () => T): T {
  const times: number[] = [];
  const cpus: number[] = [];
  let result!: T;
  for (let i = 0; i < REPEATS; i++) {
    const begin = performance.now();
    const cpu = process.cpuUsage();
    result = work();
    times.push(performance.now() - begin);
    cpus.push(process.cpuUsage(cpu).user / 1000);
  }
  const told = isPlan(result) ? `  ${result.cells.length} cells; ${result.reason}` : '';
  const most = Math.max(...times).toFixed(0);
  const middle = (list: number[]) => list.sort((a, b) => a - b)[REPEATS >> 1]!.toFixed(0);
  process.stdout.write(
    `${name.padEnd(28)} median ${middle(times).padStart(5)} ms (CPU ${middle(cpus)} ms), most ${most.padStart(5)} ms${told}\n`,
  );
  return result;
}

function isPlan(value: unknown): value is PlacementPlan {
  return typeof value === 'object' && value !== null && 'cells' in value;
}
