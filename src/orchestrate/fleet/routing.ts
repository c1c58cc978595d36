import { messageOf } from '../../base/errors.ts';
import { differenceOf, type Routes, routesOf } from '../../policy/placement/routes.ts';
import type { RoutedServer, Routing } from '../balancer.ts';
import { described } from '../watch.ts';
import { choosesVersions, cpusOf, decide, type Fleet, fleetDefaults, isDrained } from './state.ts';

function routesNow(fleet: Fleet): Routes {
  const nodes = [...fleet.nodes.values()];
  // One with a policy of its own answers by faster versions while it loads: its requests would only crowd the others.
  const lowered = new Set(
    nodes
      .filter((node) => node.change !== undefined && !choosesVersions(node))
      .map(({ member }) => member.name),
  );
  // What is replaced does not serve in between.
  const servers = fleet.state!.servers.map((server) => {
    const node = fleet.nodes.get(server.name);
    if (node === undefined) return server;
    const { [node.change?.kind === 'replace' ? node.change.task : '']: _, ...present } = node.present;
    return { ...server, isUp: node.health === 'up', present };
  });
  return routesOf({ ...fleet.state!, servers }, fleet.plan!, lowered);
}

/** Brings routes to the balancer where they changed. */
export async function route(fleet: Fleet): Promise<void> {
  const { balancer } = fleet.options;
  if (balancer === undefined) {
    fleet.applied = routesNow(fleet);
    return;
  }
  // What changes that just began asked for comes first, and may be all that there is to do.
  await fleet.applying.catch(() => {});
  if (fleet.signal.aborted) return;
  const isDue = fleet.clock.nowMs() - fleet.appliedMs >= fleetDefaults.weightsPeriodMs;
  const difference = differenceOf(fleet.applied, routesNow(fleet));
  const hasFailed = fleet.balancerError !== undefined;
  const isLost = isDue && !hasFailed && fleet.applied !== undefined && !(await balancer.isRunning());
  if (isLost) {
    decide(fleet, { kind: 'balancer', text: `${balancer.kind} has ended: it is started again.` });
    fleet.applied = undefined;
  }
  const isUrgent = difference === 'servers' && !hasFailed;
  if (isUrgent || (isDue && (hasFailed || isLost || difference === 'weights')))
    await applyRoutes(fleet).catch(() => {});
}

/** @throws what the balancer threw, which has been told */
export function applyRoutes(fleet: Fleet): Promise<void> {
  const { balancer } = fleet.options;
  if (balancer === undefined) return Promise.resolve();
  const work = fleet.applying
    .catch(() => {})
    .then(async () => {
      const routes = routesNow(fleet);
      if (differenceOf(fleet.applied, routes) === 'none' && fleet.balancerError === undefined) return;
      fleet.appliedMs = fleet.clock.nowMs();
      try {
        await balancer.apply(routingOf(fleet, routes), fleet.signal);
        fleet.applied = routes;
        if (fleet.balancerError !== undefined)
          decide(fleet, { kind: 'balancer', text: `${balancer.kind} routes again.` });
        fleet.balancerError = undefined;
      } catch (error) {
        if (!fleet.signal.aborted && fleet.balancerError !== messageOf(error)) {
          fleet.balancerError = messageOf(error);
          fleet.logger.error(described(error), messageOf(error));
          decide(fleet, { kind: 'balancer', text: messageOf(error) });
        }
        throw error;
      }
    });
  fleet.applying = work;
  // Whoever called hears of a failure; nobody else has to.
  work.catch(() => {});
  return work;
}

function routingOf(fleet: Fleet, routes: Routes): Routing {
  const routed = (name: string, weight: number): RoutedServer[] => {
    const member = fleet.nodes.get(name)?.member;
    return member === undefined ? [] : [{ name, http: member.http, grpc: member.grpc, weight }];
  };
  const nodes = [...fleet.nodes.values()];
  const running = nodes.filter(({ health }) => health === 'up');
  const willing = running.filter(({ member }) => !isDrained(fleet, member.name));
  const up = willing.length > 0 ? willing : running;
  // By cores: which of its tasks a request is about is not known here.
  const everyone = up.length > 0 ? up : nodes;
  const most = Math.max(...everyone.map((node) => cpusOf(node) * node.member.weight));
  return {
    tasks: [...routes].map(([task, list]) => ({
      task,
      servers: list.flatMap(({ server, weight }) => routed(server, weight)),
    })),
    all: everyone.flatMap((node) =>
      routed(node.member.name, Math.max(1, Math.round((100 * cpusOf(node) * node.member.weight) / most))),
    ),
  };
}
