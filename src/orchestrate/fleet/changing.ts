import { BonsaiError, messageOf } from '../../base/errors.ts';
import { type FleetChange, nextChanges } from '../../policy/placement/changes.ts';
import { described, servingVersionOf } from '../watch.ts';
import { applyRoutes } from './routing.ts';
import { decide, type Fleet, fleetDefaults, type Node } from './state.ts';
import { checkTensors } from './strangers.ts';

/** Whether demand is known well enough to switch by it. */
function isLearned({ demand }: Fleet): boolean {
  return [...demand.values()].every(
    ({ history, isRestored }) => isRestored || history.items().length >= fleetDefaults.learningSamples,
  );
}

/** Begins the changes that may begin now. */
export function begin(fleet: Fleet): void {
  const state = fleet.state!;
  const nowMs = fleet.clock.nowMs();
  const isReady = isLearned(fleet);
  const leaving = unloadsOf(fleet);
  const planned = nextChanges(state, fleet.plan!, [...underWay(fleet), ...leaving])
    .filter((change) => !fleet.failed.has(keyOf(change)))
    .flatMap((change): FleetChange[] => {
      if (isReady) return [change];
      // Nobody serves it: anything is better than to wait, and the quickest version is safe at any demand.
      if (change.kind !== 'load' || isServed(fleet, change.task)) return [];
      const versions = state.tasks.find(({ task }) => task === change.task)!.versions;
      const quickest = versions.reduce((a, b) => (b.cpuSeconds < a.cpuSeconds ? b : a));
      return [{ ...change, version: quickest.version }];
    });
  const changes = [...leaving, ...planned];
  if (changes.length === 0) return;
  for (const change of changes) {
    const node = fleet.nodes.get(change.server)!;
    node.change = change;
    node.watch.lastChangeMs = nowMs;
    if (change.kind !== 'unload')
      node.watch.pending.set(change.task, { kind: 'switch', task: change.task, toVersion: change.version });
    decide(fleet, {
      kind: 'begin',
      server: change.server,
      task: change.task,
      text: `${textOf(change)}: ${change.reason}.`,
    });
  }
  const acting = performAll(fleet, changes).finally(() => fleet.acting.delete(acting));
  fleet.acting.add(acting);
}

function isServed({ nodes }: Fleet, task: string): boolean {
  for (const { health, present } of nodes.values())
    if (health === 'up' && present[task] !== undefined) return true;
  return false;
}

/** What is served of tasks that left the fleet is let go, on each server one at a time. */
function unloadsOf({ nodes, leaving, failed }: Fleet): FleetChange[] {
  if (leaving.size === 0) return [];
  return [...nodes.values()].flatMap(({ member, watch, health, change }): FleetChange[] => {
    if (health !== 'up' || !member.canLoad || change !== undefined) return [];
    const unloads = [...leaving].flatMap((task): FleetChange[] => {
      const fromVersion = servingVersionOf(watch, task);
      if (fromVersion === undefined) return [];
      const reason = `${task} is not in the fleet's description any more`;
      return [{ kind: 'unload', server: member.name, task, fromVersion, reason }];
    });
    return unloads.filter((unload) => !failed.has(keyOf(unload))).slice(0, 1);
  });
}

/** Our own changes, and what servers do on their own account. */
function underWay({ nodes, tasks }: Fleet): { server: string; task: string }[] {
  return [...nodes.values()].flatMap(({ member: { name }, change, watch, health }) => {
    if (change !== undefined) return [{ server: name, task: change.task }];
    if (health !== 'up') return [];
    return tasks
      .filter(({ task }) => watch.scrape?.loading.has(task) && servingVersionOf(watch, task) === undefined)
      .map(({ task }) => ({ server: name, task }));
  });
}

/** Never rejects. */
async function performAll(fleet: Fleet, changes: readonly FleetChange[]): Promise<void> {
  const nodes = changes.map(({ server }) => fleet.nodes.get(server)!);
  // Weights go down before anything is touched.
  const isRouted = await applyRoutes(fleet).then(
    () => true,
    () => false,
  );
  await Promise.all(changes.map((change, i) => perform(fleet, nodes[i]!, change, isRouted)));
}

async function perform(fleet: Fleet, node: Node, change: FleetChange, isRouted: boolean): Promise<void> {
  const { clock, signal } = fleet;
  const { watch } = node;
  const { server, task } = change;
  const beginMs = clock.nowMs();
  const about = { server, task };
  try {
    signal.throwIfAborted();
    if (change.kind === 'unload' || change.kind === 'replace') {
      if (!isRouted) throw new Error('the balancer still sends requests there');
      if (watch.server.unload === undefined) throw new Error(`${server} cannot unload`);
      await fleet.sleep(fleetDefaults.drainMs + (fleet.options.balancer?.staleMs ?? 0), signal);
      signal.throwIfAborted();
      await watch.server.unload(task, signal);
      finish(fleet, node, task, undefined);
    }
    if (change.kind !== 'unload') {
      await watch.server.switchVersion(task, change.version, signal);
      // What failed before fails no more in a row.
      for (const about of [
        { server, task, version: change.version },
        { server, task },
      ])
        fleet.blocked.delete(JSON.stringify(about));
      await checkTensors(fleet, node, task, change.version);
      if (!node.strangers.has(task)) finish(fleet, node, task, change.version);
    }
    const tookS = ((clock.nowMs() - beginMs) / 1000).toFixed(1);
    decide(fleet, { kind: 'done', ...about, text: `${textOf(change)} took ${tookS} s.` });
  } catch (error) {
    if (signal.aborted) return;
    fleet.failed.set(keyOf(change), clock.nowMs());
    if (change.kind !== 'unload') block(fleet, change, error);
    fleet.logger.error({ ...about, ...described(error) }, messageOf(error));
    decide(fleet, { kind: 'failed', ...about, text: `${textOf(change)} failed: ${messageOf(error)}` });
  } finally {
    watch.pending.delete(task);
    node.change = undefined;
  }
}

/** Leaves a version alone that could not be loaded; a task that the server does not have, by all of its versions. */
function block(
  fleet: Fleet,
  { server, task, version }: Exclude<FleetChange, { readonly kind: 'unload' }>,
  error: unknown,
): void {
  const isMissing = error instanceof BonsaiError && error.code === 'model_not_found';
  const about = { server, task, ...(!isMissing && { version }) };
  const key = JSON.stringify(about);
  const times = (fleet.blocked.get(key)?.times ?? 0) + 1;
  const waitMs = Math.min(fleetDefaults.blockedMs * 2 ** (times - 1), fleetDefaults.longestBlockedMs);
  fleet.blocked.set(key, { ...about, untilMs: fleet.clock.nowMs() + waitMs, times });
}

/** What a change brought, until the next look shows it. */
function finish({ clock }: Fleet, { watch, present }: Node, task: string, version: number | undefined): void {
  const atMs = clock.nowMs();
  const versions = version === undefined ? [] : [version];
  watch.done.set(task, { change: { kind: 'reside', task, versions }, atMs });
  if (version === undefined) delete present[task];
  else present[task] = { version, sinceMs: atMs };
}

export function textOf(change: FleetChange): string {
  const { kind, server, task } = change;
  switch (kind) {
    case 'load':
      return `load ${task} ${change.version} on ${server}`;
    case 'switch':
    case 'replace':
      return `${kind} ${task} ${change.fromVersion} -> ${change.version} on ${server}`;
    case 'unload':
      return `unload ${task} ${change.fromVersion} from ${server}`;
    default:
      return kind satisfies never;
  }
}

function keyOf(change: FleetChange): string {
  return JSON.stringify([
    change.kind,
    change.server,
    change.task,
    change.kind === 'unload' ? 0 : change.version,
  ]);
}
