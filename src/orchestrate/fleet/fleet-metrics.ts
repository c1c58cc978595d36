import { type MetricText, metricsTextOf } from '../../base/metrics-text.ts';
import type { FleetDecision, FleetRecord } from './record.ts';

const DECISION_KINDS = [
  ...['plan', 'begin', 'done', 'failed', 'server', 'balancer', 'members', 'override'],
] as const satisfies readonly FleetDecision['kind'][];

/** What an orchestrator of a fleet tells Prometheus: its last record, and the decisions since it started. */
export interface FleetMetrics {
  /** @param record undefined: another one orchestrates now, whose figures are the ones to look at */
  update(record: FleetRecord | undefined): void;
  count(decision: FleetDecision): void;
  /** In Prometheus' text format. */
  text(): string;
}

export function fleetMetrics(): FleetMetrics {
  let last: FleetRecord | undefined;
  const counts = new Map<FleetDecision['kind'], number>(DECISION_KINDS.map((kind) => [kind, 0]));
  return {
    update(record) {
      last = record;
    },
    count({ kind }) {
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
    },
    text: () =>
      metricsTextOf([
        gauge('bonsai_fleet_active', 'Whether this orchestrator holds the lease of the fleet', [
          [{}, last === undefined ? 0 : 1],
        ]),
        {
          name: 'bonsai_fleet_decisions_total',
          type: 'counter',
          help: 'Decisions since the start by kind; failed: a change of versions that could not be made',
          series: [...counts].map(([kind, value]) => ({ labels: { kind }, value })),
        },
        ...(last === undefined ? [] : recordMetrics(last)),
      ]),
  };
}

type Series = readonly (readonly [labels: Record<string, string>, value: number])[];

/** A gauge of some series. */
export function gauge(name: string, help: string, series: Series): MetricText {
  return { name, type: 'gauge', help, series: series.map(([labels, value]) => ({ labels, value })) };
}

/** What the record of a fleet says, as gauges. */
export function recordMetrics({ servers, tasks, plan, balancer }: FleetRecord): MetricText[] {
  const placed = servers.flatMap(({ name, tasks }) => tasks.map((task) => ({ server: name, ...task })));
  return [
    gauge(
      'bonsai_fleet_server_up',
      'Whether the server answers',
      servers.map(({ name, health }) => [{ server: name }, health === 'up' ? 1 : 0]),
    ),
    gauge(
      'bonsai_fleet_server_cpu_utilization',
      'CPU used by the server over its CPU budget, in the last period',
      servers.flatMap(({ name, utilization }) =>
        utilization === undefined ? [] : [[{ server: name }, utilization] as const],
      ),
    ),
    gauge(
      'bonsai_fleet_serving_version',
      'The version of the model that serves on the server',
      placed.flatMap(({ server, task, version }) =>
        version === undefined ? [] : [[{ server, model: task }, version] as const],
      ),
    ),
    gauge(
      'bonsai_fleet_routing_weight',
      'Weight that the balancer gives the server for requests of the model; 0 while it changes versions',
      placed.map(({ server, task, weight }) => [{ server, model: task }, weight]),
    ),
    gauge(
      'bonsai_fleet_demand_rps',
      'Requests per second of the model that the plan reckons with',
      tasks.map(({ task, demandRps }) => [{ model: task }, demandRps]),
    ),
    gauge(
      'bonsai_fleet_unserved_rps',
      'Requests per second of the model that are more than its servers can carry',
      tasks.map(({ task }) => [{ model: task }, plan.unservedRps[task] ?? 0]),
    ),
    gauge(
      'bonsai_fleet_unplaced',
      'Whether the plan found no server for the model',
      tasks.map(({ task }) => [{ model: task }, plan.unplaced.some((one) => one.task === task) ? 1 : 0]),
    ),
    gauge('bonsai_fleet_plan_utilization', 'CPU that the plan takes over the CPU that there is', [
      [{}, plan.utilization],
    ]),
    gauge(
      'bonsai_fleet_plan_accuracy_ratio',
      'Mean normalised accuracy of the plan; none while no request is served',
      plan.accuracy === undefined ? [] : [[{}, plan.accuracy]],
    ),
    gauge('bonsai_fleet_balancer_up', 'Whether the balancer took the last routes', [
      [{}, balancer.error === undefined ? 1 : 0],
    ]),
  ];
}
