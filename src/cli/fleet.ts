import { Command } from 'commander';
import { systemClock } from '../base/clock.ts';
import { BonsaiError } from '../base/errors.ts';
import { isHeld, readLease } from '../orchestrate/fleet/lease.ts';
import { type FleetRecord, readFleetRecord, type ServerRecord } from '../orchestrate/fleet/record.ts';
import { alignedTable } from '../report/table.ts';
import { processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { readFleetFile } from './fleet-file.ts';
import { jsonOption } from './options.ts';
import { decisionLine, leasePathOf } from './orchestrate-fleet.ts';
import { parseInteger } from './parse.ts';

/** Decisions shown. */
const DEFAULT_DECISIONS = 10;

export function fleetCommand(): Command {
  const fleet = new Command('fleet').description('Look at a fleet that is orchestrated.').addHelpText(
    'after',
    `
Example:
  $ bonsai fleet status fleet.yaml
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
      const record = await readFleetRecord(file.state);
      if (record === undefined) {
        throw new BonsaiError(
          'missing_file',
          `There is no state of this fleet yet (${file.state}). Start it: bonsai orchestrate ${path}`,
        );
      }
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
  return fleet;
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
    balancer.error === undefined
      ? `Balancer: ${balancer.kind}.`
      : `Balancer: ${balancer.kind}, in trouble: ${balancer.error}`,
    '',
    alignedTable([HEADINGS, ...record.servers.flatMap(rowsOf)], (column) => TEXT_COLUMNS.includes(column)),
    ...record.servers.flatMap(({ name, trouble }) => (trouble === undefined ? [] : [`${name}: ${trouble}`])),
    ...(record.decisions.length > 0 ? ['', ...record.decisions.map(decisionLine)] : []),
  ].join('\n');
}

const HEADINGS = ['server', 'health', 'CPU', 'task', 'version', 'planned', 'weight', 'req/s', 'under way'];
const TEXT_COLUMNS = [0, 1, 3, 8];

function rowsOf(server: ServerRecord): string[][] {
  const { name, health, cpus, utilization, change = '', tasks } = server;
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
