import { type MetricText, metricsTextOf } from '../../../base/metrics-text.ts';
import { gauge, recordMetrics } from '../../fleet/fleet-metrics.ts';
import { viewOf } from './publish.ts';
import type { FleetState } from './reconcile.ts';

/**
 * What autoscalers and dashboards may want to know of fleets, in Prometheus' text format: what an orchestrator of one fleet
 * tells, with the fleet's name, and how many servers each pool should have.
 */
export function metricsOf(states: ReadonlyMap<string, FleetState>): string {
  const byName = new Map<string, MetricText>();
  for (const state of states.values()) {
    const { namespace = '', name: fleet } = state.fleet.metadata;
    const { wanted, record } = viewOf(state);
    const replicas = gauge(
      'bonsai_fleet_wanted_replicas',
      'Servers of a pool that the demand needs: with the quickest versions (demand), with the most accurate ones (accuracy)',
      [...wanted].flatMap(([pool, { forDemand, forAccuracy }]) => [
        [{ pool, for: 'demand' }, forDemand],
        [{ pool, for: 'accuracy' }, forAccuracy],
      ]),
    );
    for (const metric of [replicas, ...(record === undefined ? [] : recordMetrics(record))]) {
      const series = metric.series.map(({ labels, value }) => ({
        labels: { namespace, fleet, ...labels },
        value,
      }));
      const before = byName.get(metric.name)?.series ?? [];
      byName.set(metric.name, { ...metric, series: [...before, ...series] });
    }
  }
  return metricsTextOf([...byName.values()].filter(({ series }) => series.length > 0));
}
