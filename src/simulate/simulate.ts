import { BonsaiError } from '../base/errors.ts';
import { periodMsOf } from '../policy/checked-decision.ts';
import type { Policy } from '../policy/policy.ts';
import { leastCommitted } from '../policy/routing.ts';
import { servingDispatch } from '../policy/serving-dispatch.ts';
import { OUTCOME, type SimulationRun } from './run.ts';
import type { Scenario } from './scenario.ts';
import { SimulatedServer } from './server.ts';
import { SimulatedRequest } from './simulated-request.ts';
import type { Workload } from './workload.ts';

export interface SimulationOptions {
  readonly scenario: Scenario;
  readonly workload: Workload;
  /** Decides for every server by itself. */
  readonly policy: Policy;
}

export const simulationDefaults = {
  /** Policies are asked this often where they do not say. */
  periodMs: 1_000,
  /** Requests that are still there so long after the last arrival count as late: the queue had exploded. */
  drainMs: 30_000,
} as const;

/**
 * Runs a workload through servers under a policy, in virtual time: events in order of time, at one time completions
 * before arrivals before the policy's ticks. The same arguments give the same run.
 * @throws BonsaiError `invalid_argument` where the policy names what is not there, returns no decision, or has no period
 */
export function simulate({ scenario, workload, policy }: SimulationOptions): SimulationRun {
  const { arrivalMs, task: taskOf, multiplier, durationMs } = workload;
  const count = arrivalMs.length;
  const run: SimulationRun = {
    scenario,
    workload,
    policy: policy.name,
    outcome: new Uint8Array(count),
    latencyMs: new Float64Array(count).fill(Number.NaN),
    versionIndex: new Int16Array(count).fill(-1),
    server: new Int16Array(count).fill(-1),
    cpu: [],
    loads: 0,
    switches: 0,
    changes: [],
    notices: 0,
  };
  const dispatch = policy.dispatch ?? servingDispatch();
  const servers = Array.from(
    { length: scenario.servers },
    (_, index) => new SimulatedServer({ index, scenario, policy, dispatch, run }),
  );
  const route = router(scenario, servers);
  const place = (request: SimulatedRequest, nowMs: number) => {
    const target = route(request.task, nowMs);
    if (target === undefined) run.outcome[request.id] = OUTCOME.error;
    else target.accept(request, nowMs);
  };

  const periodMs = periodMsOf(policy, simulationDefaults.periodMs);
  const endMs = durationMs + simulationDefaults.drainMs;
  const outages = outageEvents(scenario);
  let next = 0;
  let tick = 1;
  let outage = 0;
  for (const server of servers) server.start(0);
  for (;;) {
    let eventMs = Number.POSITIVE_INFINITY;
    let busiest: SimulatedServer | undefined;
    for (const server of servers) {
      if (server.nextMs < eventMs) {
        eventMs = server.nextMs;
        busiest = server;
      }
    }
    const nextArrivalMs = next < count ? arrivalMs[next]! : Number.POSITIVE_INFINITY;
    const nextTickMs = tick * periodMs;
    const nextOutageMs = outages[outage]?.atMs ?? Number.POSITIVE_INFINITY;
    const isOver = next >= count && nextTickMs > durationMs && servers.every((server) => server.isIdle);
    const nowMs = Math.min(eventMs, nextArrivalMs, nextTickMs, nextOutageMs);
    if (isOver || nowMs > endMs) break;

    if (nowMs === eventMs && busiest !== undefined) {
      busiest.complete(nowMs);
    } else if (nowMs === nextOutageMs) {
      const { server, isDown } = outages[outage++]!;
      if (isDown) for (const request of servers[server]!.fail(nowMs)) place(request, nowMs);
      else servers[server]!.recover(nowMs);
    } else if (nowMs === nextArrivalMs) {
      const task = scenario.tasks[taskOf[next]!];
      if (task === undefined) {
        throw new BonsaiError(
          'invalid_argument',
          `The workload has a task ${taskOf[next]} that the scenario lacks.`,
        );
      }
      place(new SimulatedRequest(next, taskOf[next]!, task, nowMs, multiplier[next]!), nowMs);
      next++;
    } else {
      for (const server of servers) server.tick(nowMs, periodMs);
      tick++;
    }
  }
  return run;
}

/** Chooses the server of a request; undefined where no server can take it. */
function router(
  { routing }: Scenario,
  servers: readonly SimulatedServer[],
): (task: number, nowMs: number) => SimulatedServer | undefined {
  if (servers.length === 1) {
    const [server] = servers;
    return () => (server!.isUp ? server : undefined);
  }
  let turn = 0;
  return (task, nowMs) => {
    const up = servers.filter((server) => server.isUp);
    if (routing === 'roundRobin') {
      const able = up.filter((server) => server.residentCount(task) > 0);
      const open = able.length > 0 ? able : up;
      return open.length === 0 ? undefined : open[turn++ % open.length];
    }
    const places = up.map((server) => ({
      server,
      committedMs: server.committedMs(task, nowMs),
      residentVersions: server.residentCount(task),
    }));
    return leastCommitted(places)?.server;
  };
}

function outageEvents({ failures }: Scenario): { atMs: number; server: number; isDown: boolean }[] {
  return failures
    .flatMap(({ server, fromMs, untilMs }) => [
      { atMs: fromMs, server, isDown: true },
      { atMs: untilMs, server, isDown: false },
    ])
    .sort((a, b) => a.atMs - b.atMs);
}
