import { parentPort, workerData } from 'node:worker_threads';
import { systemClock } from '../../base/clock.ts';
import { BonsaiError } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import type { Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { serveJob } from '../worker-job.ts';
import type { ComparisonOrder } from './compare-latency.ts';
import { seededInput } from './seeded-input.ts';

/** The thread that `compareLatency` starts: runs the networks in turns, answers once, ends. */
await serveJob<ComparisonOrder, never, Float64Array[]>(parentPort, workerData, ({ input, isStopRequested }) =>
  measure(input, isStopRequested),
);

async function measure(order: ComparisonOrder, isStopRequested: () => boolean): Promise<Float64Array[]> {
  const networks: { session: Session; feeds: Record<string, Tensor>; latenciesMs: Float64Array }[] = [];
  try {
    for (const model of order.models) {
      const session = await Session.create(model, { intraOpThreads: order.threads });
      const random = seededRandom(order.seed);
      const inputs = session.inputs.map((info) => [info.name, seededInput(info, random, order.shapes)]);
      networks.push({
        session,
        feeds: Object.fromEntries(inputs),
        latenciesMs: new Float64Array(order.runs),
      });
    }
    for (let run = -order.warmup; run < order.runs; run++) {
      if (isStopRequested()) {
        throw new BonsaiError(
          'aborted',
          `Comparing was stopped after ${Math.max(run, 0)} of ${order.runs} runs.`,
        );
      }
      for (const { session, feeds, latenciesMs } of networks) {
        // A thread cannot be given a clock (functions do not cross), and what is measured here is real time.
        const startMs = systemClock.nowMs();
        await session.run(feeds);
        if (run >= 0) latenciesMs[run] = systemClock.nowMs() - startMs;
      }
    }
    return networks.map(({ latenciesMs }) => latenciesMs);
  } finally {
    for (const { session } of networks) await session.release();
  }
}
