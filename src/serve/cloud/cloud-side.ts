import { type MetricText, metricsTextOf } from '../../base/metrics-text.ts';
import { verdictsOf } from './confidence.ts';
import type { Review } from './reviewed-plane.ts';
import type { SampleShipper } from './sample-shipper.ts';
import type { SampleSpool } from './sample-spool.ts';
import type { SecondOpinion } from './second-opinion.ts';

/** What is done with answers that a classifier is not sure of; each part may be absent. */
export interface CloudSide {
  readonly spool?: SampleSpool;
  readonly shipper?: SampleShipper;
  readonly opinion?: SecondOpinion;
}

/** Collects and asks. A sample is kept with what the local network said of it, whatever others say. */
export function reviewOf({ spool, opinion }: CloudSide): Review {
  return (request, answer, elapsedMs) => {
    const verdicts = verdictsOf(answer.outputs);
    if (verdicts === undefined) return answer;
    spool?.offer(request, answer, verdicts);
    return opinion?.review(request, answer, verdicts, elapsedMs) ?? answer;
  };
}

/** Metrics in Prometheus' text format; nothing where no part is there. */
export function cloudMetricsText({ spool, shipper, opinion }: CloudSide): string {
  const metrics: MetricText[] = [];
  const add = (name: string, type: MetricText['type'], help: string, series: MetricText['series']) =>
    metrics.push({ name, type, help, series });
  const one = (value: number): MetricText['series'] => [{ labels: {}, value }];
  if (spool !== undefined) {
    const { kept, droppedBusy, droppedOld, droppedUnwritten, bytes } = spool.counts;
    add('bonsai_samples_kept_total', 'counter', 'Samples of low confidence written to the spool', one(kept));
    add('bonsai_samples_dropped_total', 'counter', 'Samples dropped, by why', [
      { labels: { reason: 'busy' }, value: droppedBusy },
      { labels: { reason: 'limit' }, value: droppedOld },
      { labels: { reason: 'unwritten' }, value: droppedUnwritten },
    ]);
    add('bonsai_samples_spool_bytes', 'gauge', 'Bytes of samples that lie here', one(bytes));
  }
  if (shipper !== undefined) {
    const { shipped, isReachable } = shipper;
    add('bonsai_samples_shipped_total', 'counter', 'Samples that arrived in the bucket', one(shipped));
    add(
      'bonsai_samples_store_up',
      'gauge',
      'Whether the last try to ship went well',
      one(isReachable ? 1 : 0),
    );
  }
  if (opinion !== undefined) {
    add(
      'bonsai_second_opinions_total',
      'counter',
      'Answers of low confidence, by what became of asking',
      Object.entries(opinion.counts).map(([outcome, value]) => ({ labels: { outcome }, value })),
    );
  }
  return metricsTextOf(metrics);
}

/** Writes what waits and lets go of files and connections. */
export async function closeCloudSide({ spool, shipper }: CloudSide): Promise<void> {
  await spool?.flush();
  await shipper?.stop();
}
