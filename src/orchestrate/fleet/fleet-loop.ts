import { messageOf } from '../../base/errors.ts';
import type { PresentVersion } from '../../policy/placement/placement.ts';
import { learnDemand } from '../../policy/work-mdp/forecast.ts';
import { described, observeServer, servingVersionOf } from '../watch.ts';
import { begin } from './changing.ts';
import { differencesOf } from './overrides.ts';
import { plan } from './planning.ts';
import { save } from './recording.ts';
import { route } from './routing.ts';
import {
  choosesVersions,
  decide,
  type Fleet,
  type FleetOptions,
  fleetDefaults,
  type Node,
  newFleet,
  setMembers,
  watchingOf,
} from './state.ts';
import { checkTensors } from './strangers.ts';

/**
 * The control loop over a fleet: look at every server, plan, change one step, route; once every period until the signal
 * aborts. Nothing that a server, the balancer or a policy does ends it.
 */
export async function runFleet(options: FleetOptions): Promise<void> {
  const fleet = newFleet(options);
  const { clock, signal, periodMs, sleep } = fleet;
  const startMs = clock.nowMs();
  try {
    for (let tick = 1; !signal.aborted; tick++) {
      await adoptMembers(fleet);
      await adoptOverrides(fleet);
      await look(fleet);
      if (signal.aborted) break;
      learn(fleet);
      plan(fleet);
      begin(fleet);
      await route(fleet);
      await save(fleet);
      tick = Math.max(tick, Math.floor((clock.nowMs() - startMs) / periodMs) + 1);
      const waitMs = startMs + tick * periodMs - clock.nowMs();
      if (!signal.aborted) await sleep(waitMs, signal);
    }
    await Promise.allSettled(fleet.acting);
    await save(fleet);
  } finally {
    await Promise.all([...fleet.nodes.values()].map(({ watch }) => watch.server.close()));
  }
}

async function adoptMembers(fleet: Fleet): Promise<void> {
  try {
    const members = await fleet.options.reread?.();
    fleet.membersError = undefined;
    if (members === undefined) return;
    const { joined, left } = setMembers(fleet, members);
    fleet.options.onMembers?.(members);
    const parts = [
      joined.length > 0 ? `${joined.join(', ')} joined` : '',
      left.length > 0 ? `${left.join(', ')} left` : '',
    ].filter((part) => part !== '');
    decide(fleet, {
      kind: 'members',
      text: `The fleet was described anew: ${parts.join('; ') || 'the same servers'}.`,
    });
  } catch (error) {
    // Half-written by an editor, perhaps: the fleet stays as it is, and the file is read again.
    const message = messageOf(error);
    if (fleet.membersError !== message)
      fleet.logger.error(described(error), `The fleet stays as it was: ${message}`);
    fleet.membersError = message;
  }
}

async function adoptOverrides(fleet: Fleet): Promise<void> {
  try {
    const overrides = await fleet.options.overrides?.();
    fleet.overridesError = undefined;
    if (overrides === undefined) return;
    const changes = differencesOf(fleet.overrides, overrides);
    fleet.overrides = overrides;
    for (const text of changes) decide(fleet, { kind: 'override', text: `By hand: ${text}` });
  } catch (error) {
    const message = messageOf(error);
    if (fleet.overridesError !== message)
      fleet.logger.error(described(error), `What was set by hand stays as it was: ${message}`);
    fleet.overridesError = message;
  }
}

/** Looks at all servers, a limited number at a time. */
async function look(fleet: Fleet): Promise<void> {
  const waiting = [...fleet.nodes.values()];
  const worker = async () => {
    for (let node = waiting.pop(); node !== undefined && !fleet.signal.aborted; node = waiting.pop())
      await lookAt(fleet, node);
  };
  await Promise.all(Array.from({ length: Math.min(fleetDefaults.looksAtOnce, waiting.length) }, worker));
}

async function lookAt(fleet: Fleet, node: Node): Promise<void> {
  const { watch, member } = node;
  const isSeen = await observeServer(watch, watchingOf(fleet));
  if (fleet.signal.aborted) return;
  node.failures = isSeen ? 0 : node.failures + 1;
  const isPatient =
    node.health === 'up' && isTimeout(watch.failure) && node.failures <= fleetDefaults.toleratedTimeouts;
  const health = isSeen || isPatient ? 'up' : 'down';
  if (health !== node.health) {
    const why = health === 'up' ? '' : `: ${messageOf(watch.failure)}`;
    decide(fleet, { kind: 'server', server: member.name, text: `${member.name} is ${health}${why}` });
  }
  const isFirst = node.health === 'unknown';
  const wasUp = node.health === 'up';
  if (health !== node.health)
    node.healthSinceMs = !isFirst
      ? fleet.clock.nowMs()
      : node.before?.health === health
        ? node.before.sinceMs
        : undefined;
  node.health = health;
  // It may come back as another one.
  if (health === 'down') node.checked.clear();
  if (!isSeen) return;
  hearOwnPolicy(fleet, node);
  const present: Record<string, PresentVersion> = {};
  for (const { task } of fleet.tasks) {
    const serving = servingVersionOf(watch, task);
    if (serving === undefined) {
      node.checked.delete(task);
      node.strangers.delete(task);
      continue;
    }
    // Of several versions in memory, as its own policy has them, the one that answered most.
    const version = (choosesVersions(node) && watch.seen?.answered.get(task)?.version) || serving;
    await checkTensors(fleet, node, task, version);
    if (node.strangers.has(task)) continue;
    const before = node.present[task];
    if (wasUp && before !== undefined && before.version !== version)
      tellForeign(fleet, node, `${task} from ${before.version} to ${version}`);
    // What is there at the first look may have been there for long.
    const isOld = before === undefined && isFirst;
    present[task] =
      before?.version === version ? before : { version, ...(isOld ? {} : { sinceMs: fleet.clock.nowMs() }) };
  }
  node.present = present;
}

/** What changed and was not changed from here: a person, or a second orchestrator that will never agree with this one. */
function tellForeign(fleet: Fleet, node: Node, what: string): void {
  const { name } = node.member;
  const nowMs = fleet.clock.nowMs();
  if (choosesVersions(node) || node.change !== undefined) return;
  if (nowMs - (node.toldForeignMs ?? Number.NEGATIVE_INFINITY) < fleetDefaults.foreignPeriodMs) return;
  node.toldForeignMs = nowMs;
  const text = `${what} on ${name} was not switched from here. If another orchestrator has this server, too, each undoes what the other does: end one of them.`;
  decide(fleet, { kind: 'server', server: name, text });
  fleet.logger.warn({ server: name }, text);
}

/** Two who choose versions on one server would undo each other's work for ever: it is left to the one inside it. */
function hearOwnPolicy(fleet: Fleet, node: Node): void {
  const policy = node.watch.scrape?.ownPolicy;
  if (policy === node.ownPolicy) return;
  node.ownPolicy = policy;
  const { name } = node.member;
  const text =
    policy === undefined
      ? `${name} has no policy of its own any more: it is planned like the others.`
      : `${name} has a policy of its own (${policy}): the fleet says which tasks it serves, that policy by which versions.`;
  decide(fleet, { kind: 'server', server: name, text });
}

function isTimeout(failure: unknown): boolean {
  const cause = failure instanceof Error ? failure.cause : undefined;
  return cause instanceof Error && cause.name === 'TimeoutError';
}

/** A task's demand is that of all servers that were seen; its forecast carries over the moment in which one fails. */
function learn(fleet: Fleet): void {
  const nowMs = fleet.clock.nowMs();
  const seen = [...fleet.nodes.values()].filter(
    ({ watch, failures }) => failures === 0 && watch.seen !== undefined,
  );
  if (seen.length === 0) return;
  for (const [task, demand] of fleet.demand) {
    const demandRps = seen.reduce((sum, { watch }) => sum + (watch.seen!.demandRps.get(task) ?? 0), 0);
    demand.history.push({ atMs: nowMs, demandRps });
    demand.memory = learnDemand(demand.memory, demand.history.items());
  }
}
