import { viewOf } from './publish.ts';
import type { FleetState } from './reconcile.ts';

/** What autoscalers and dashboards may want to know of fleets, in Prometheus' text format. */
export function metricsOf(states: ReadonlyMap<string, FleetState>): string {
  const lines = new Map<string, string[]>(Object.keys(HELP).map((name) => [name, []]));
  for (const state of states.values()) {
    const { namespace = '', name } = state.fleet.metadata;
    const view = viewOf(state);
    const add = (metric: keyof typeof HELP, own: Readonly<Record<string, string>>, value: number) =>
      lines.get(metric)!.push(`${metric}{${labelsText({ namespace, fleet: name, ...own })}} ${value}`);
    for (const [pool, { forDemand, forAccuracy }] of view.wanted) {
      add('bonsai_fleet_wanted_replicas', { pool, for: 'demand' }, forDemand);
      add('bonsai_fleet_wanted_replicas', { pool, for: 'accuracy' }, forAccuracy);
    }
    const { record } = view;
    if (record === undefined) continue;
    for (const health of ['up', 'down', 'unknown'])
      add(
        'bonsai_fleet_servers',
        { health },
        record.servers.filter((server) => server.health === health).length,
      );
    add('bonsai_fleet_planned_utilization_ratio', {}, record.plan.utilization);
    add('bonsai_fleet_planned_accuracy_ratio', {}, record.plan.accuracy);
    for (const { task, demandRps } of record.tasks) {
      add('bonsai_fleet_demand_requests_per_second', { task }, demandRps);
      add('bonsai_fleet_unserved_requests_per_second', { task }, record.plan.unservedRps[task] ?? 0);
    }
  }
  return [...lines]
    .filter(([, own]) => own.length > 0)
    .map(
      ([name, own]) =>
        `# HELP ${name} ${HELP[name as keyof typeof HELP]}\n# TYPE ${name} gauge\n${own.join('\n')}\n`,
    )
    .join('');
}

const HELP = {
  bonsai_fleet_wanted_replicas:
    'Servers of a pool that the demand needs: with the quickest versions (demand), with the most accurate ones (accuracy).',
  bonsai_fleet_servers: 'Servers of a fleet by health.',
  bonsai_fleet_planned_utilization_ratio: 'CPU planned over CPU there is.',
  bonsai_fleet_planned_accuracy_ratio: 'Normalised accuracy that is planned.',
  bonsai_fleet_demand_requests_per_second: 'Demand of a task that is planned for.',
  bonsai_fleet_unserved_requests_per_second: 'Demand of a task beyond what its servers can carry.',
} as const;

function labelsText(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([name, value]) => `${name}="${value.replace(/[\\"\n]/g, (c) => (c === '\n' ? '\\n' : `\\${c}`))}"`)
    .join(',');
}
