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

/** Metrics in Prometheus' text format. */
export function cloudMetricsText({ spool, shipper, opinion }: CloudSide): string {
  const lines: string[] = [];
  const metric = (name: string, type: 'counter' | 'gauge', help: string, values: Record<string, number>) => {
    lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
    for (const [labels, value] of Object.entries(values)) lines.push(`${name}${labels} ${value}`);
  };
  if (spool !== undefined) {
    const { kept, droppedBusy, droppedOld, bytes } = spool.counts;
    metric('bonsai_samples_kept_total', 'counter', 'Samples of low confidence written to the spool', {
      '': kept,
    });
    metric('bonsai_samples_dropped_total', 'counter', 'Samples dropped, by why', {
      '{reason="busy"}': droppedBusy,
      '{reason="limit"}': droppedOld,
    });
    metric('bonsai_samples_spool_bytes', 'gauge', 'Bytes of samples that lie here', { '': bytes });
  }
  if (shipper !== undefined) {
    metric('bonsai_samples_shipped_total', 'counter', 'Samples that arrived in the bucket', {
      '': shipper.shipped,
    });
    metric('bonsai_samples_store_up', 'gauge', 'Whether the last try to ship went well', {
      '': shipper.isReachable ? 1 : 0,
    });
  }
  if (opinion !== undefined) {
    const { taken, failed, late, skipped } = opinion.counts;
    metric('bonsai_second_opinions_total', 'counter', 'Answers of low confidence, by what became of asking', {
      '{outcome="taken"}': taken,
      '{outcome="failed"}': failed,
      '{outcome="late"}': late,
      '{outcome="skipped"}': skipped,
    });
  }
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}

/** Writes what waits and lets go of files and connections. */
export async function closeCloudSide({ spool, shipper }: CloudSide): Promise<void> {
  await spool?.flush();
  await shipper?.stop();
}
