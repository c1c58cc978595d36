import { Command } from 'commander';
import { systemClock } from '../base/clock.ts';
import { BonsaiError } from '../base/errors.ts';
import { isHeld, readLease } from '../orchestrate/fleet/lease.ts';
import { differencesOf, NO_OVERRIDES, withDrained } from '../orchestrate/fleet/overrides.ts';
import { changeFleetOverrides, readFleetOverrides } from '../orchestrate/fleet/overrides-file.ts';
import { type FleetRecord, readFleetRecord, type ServerRecord } from '../orchestrate/fleet/record.ts';
import { alignedTable } from '../report/table.ts';
import { type Context, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { checkServerName } from './fleet-control.ts';
import { readFleetFile, serverNameOf } from './fleet-file.ts';
import { jsonOption } from './options.ts';
import { decisionLine, leasePathOf, overridesPathOf } from './orchestrate-fleet.ts';
import { parseInteger } from './parse.ts';

/** Decisions shown. */
const DEFAULT_DECISIONS = 10;

export function fleetCommand(): Command {
  const fleet = new Command('fleet')
    .description('Look at a fleet that is orchestrated, and empty its servers.')
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai fleet status fleet.yaml
  $ bonsai fleet drain edge-2 fleet.yaml
  $ bonsai fleet undrain edge-2 fleet.yaml
${EXIT_CODE_HELP}`,
    );
  fleet
    .command('status')
    .description('servers, tasks, versions, weights, health, and the latest decisions with their reasons')
    .argument('[file]', "the fleet's file", 'fleet.yaml')
    .option('--decisions <n>', 'how many decisions to show', parseInteger(0, 200), DEFAULT_DECISIONS)
    .addOption(jsonOption())
    .action(async (path: string, options: { json?: boolean; decisions: number }) => {
      const context = processContext(options);
      const file = await readFleetFile(path);
      const saved = await readFleetRecord(file.state);
      if (saved === undefined) {
        throw new BonsaiError(
          'missing_file',
          `There is no state of this fleet yet (${file.state}). Start it: bonsai orchestrate ${path}`,
        );
      }
      // What was set since, and counts from the orchestrator's next look on.
      const record = { ...saved, overrides: await readFleetOverrides(overridesPathOf(file)) };
      const lease = await readLease(leasePathOf(file));
      const orchestrator = lease !== undefined && isHeld(lease, systemClock) ? lease : undefined;
      const decisions = options.decisions === 0 ? [] : record.decisions.slice(-options.decisions);
      context.result(
        {
          orchestrator: orchestrator && {
            pid: orchestrator.pid,
            host: orchestrator.host,
            term: orchestrator.term,
          },
          ...record,
          decisions,
        },
        statusText({ ...record, decisions }, orchestrator, systemClock.epochMs()),
      );
    });
  for (const isDrained of [true, false]) {
    fleet
      .command(isDrained ? 'drain' : 'undrain')
      .description(
        isDrained
          ? 'empty a server: no more requests, and its tasks move to others; lasts until undrain'
          : 'take a drained server back',
      )
      .argument('<server>', 'its name')
      .argument('[file]', "the fleet's file", 'fleet.yaml')
      .addOption(jsonOption())
      .action((server: string, path: string, options: { json?: boolean }) =>
        drain(server, path, isDrained, processContext(options)),
      );
  }
  return fleet;
}

/** Writes it beside the fleet's state, where whoever orchestrates finds it: now, or at the next start. */
async function drain(server: string, path: string, isDrained: boolean, context: Context): Promise<void> {
  const file = await readFleetFile(path);
  checkServerName(file.servers.map(serverNameOf), server);
  const { drained } = await changeFleetOverrides(
    overridesPathOf(file),
    (before) => withDrained(before, server, isDrained),
    context.clock,
  );
  const lease = await readLease(leasePathOf(file));
  const isOrchestrated = lease !== undefined && isHeld(lease, context.clock);
  context.result(
    { server, isDrained, drained, isOrchestrated },
    `${server} is ${isDrained ? 'drained' : 'taken back'}${
      isOrchestrated
        ? `: process ${lease.pid} on ${lease.host} acts on it at its next look.`
        : '. Nobody orchestrates this fleet: that counts from the next start on.'
    }`,
  );
}

/** The state as a person reads it. */
export function statusText(
  record: FleetRecord,
  orchestrator: { readonly pid: number; readonly host: string } | undefined,
  nowMs: number,
): string {
  const ageS = ((nowMs - record.savedMs) / 1000).toFixed(0);
  const { plan, balancer } = record;
  return [
    orchestrator === undefined
      ? `Nobody orchestrates this fleet; its last state is ${ageS} s old. Servers and balancer go on as they were.`
      : `Orchestrated by process ${orchestrator.pid} on ${orchestrator.host}; state of ${ageS} s ago.`,
    plan.reason,
    ...plan.unplaced.map(({ task, reason }) => `${task} is not placed: ${reason}.`),
    ...Object.entries(plan.unservedRps).map(
      ([task, rps]) => `${task}: ${rps.toFixed(1)} req/s are more than its servers can carry.`,
    ),
    ...byHandOf(record),
    balancer.error === undefined
      ? `Balancer: ${balancer.kind}.`
      : `Balancer: ${balancer.kind}, in trouble: ${balancer.error}`,
    '',
    alignedTable([HEADINGS, ...record.servers.flatMap(rowsOf)], (column) => TEXT_COLUMNS.includes(column)),
    ...record.servers.flatMap(({ name, ownPolicy }) =>
      ownPolicy === undefined ? [] : [`${name}: its own policy (${ownPolicy}) chooses versions.`],
    ),
    ...record.servers.flatMap(({ name, trouble }) => (trouble === undefined ? [] : [`${name}: ${trouble}`])),
    ...(record.decisions.length > 0 ? ['', ...record.decisions.map(decisionLine)] : []),
  ].join('\n');
}

/** What people have set, a line each. */
function byHandOf({ overrides = NO_OVERRIDES }: FleetRecord): string[] {
  return differencesOf(NO_OVERRIDES, overrides).map((sentence) => `By hand: ${sentence}`);
}

const HEADINGS = ['server', 'health', 'CPU', 'task', 'version', 'planned', 'weight', 'req/s', 'under way'];
const TEXT_COLUMNS = [0, 1, 3, 8];

function rowsOf(server: ServerRecord): string[][] {
  const { name, cpus, utilization, change = '', tasks } = server;
  const health = server.isDrained ? `${server.health}, drained` : server.health;
  const cpu = utilization === undefined ? '?' : `${(100 * utilization).toFixed(0)} % of ${cpus}`;
  const empty = { task: '–', version: undefined, plannedVersion: undefined, weight: 0, demandRps: 0 };
  return (tasks.length > 0 ? tasks : [empty]).map((task, i) => [
    i === 0 ? name : '',
    i === 0 ? health : '',
    i === 0 ? cpu : '',
    task.task,
    String(task.version ?? '–'),
    String(task.plannedVersion ?? '–'),
    String(task.weight),
    task.demandRps.toFixed(1),
    i === 0 ? change : '',
  ]);
}
