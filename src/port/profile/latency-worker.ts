import { parentPort, workerData } from 'node:worker_threads';
import { systemClock } from '../../base/clock.ts';
import { BonsaiError } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import { Session } from '../../engine/session.ts';
import { serveJob } from '../worker-job.ts';
import type { LatencyOrder } from './latency.ts';
import { seededInput } from './seeded-input.ts';
import { threadWaitMs } from './thread-wait.ts';

/** The thread that `profileLatency` starts: runs one network again and again, answers once, ends. */
await serveJob<LatencyOrder, never, Float64Array>(parentPort, workerData, ({ input, isStopRequested }) =>
  measure(input, isStopRequested),
);

async function measure(order: LatencyOrder, isStopRequested: () => boolean): Promise<Float64Array> {
  const session = await Session.create(order.model, { intraOpThreads: order.threads });
  try {
    const random = seededRandom(order.seed);
    const feeds = Object.fromEntries(
      session.inputs.map((info) => [info.name, seededInput(info, random, order.shapes)]),
    );
    for (let run = 0; run < order.warmup; run++) await session.run(feeds);
    const latenciesMs = new Float64Array(order.runs);
    // A thread cannot be given a clock (functions do not cross), and what is measured here is real time.
    for (let run = 0; run < order.runs; run++) {
      if (isStopRequested())
        throw new BonsaiError('aborted', `Profiling was stopped after ${run} of ${order.runs} runs.`);
      const waitedMs = order.undisturbed ? threadWaitMs() : 0;
      const startMs = systemClock.nowMs();
      await session.run(feeds);
      const endMs = systemClock.nowMs();
      latenciesMs[run] = endMs - startMs - (order.undisturbed ? threadWaitMs() - waitedMs : 0);
    }
    return latenciesMs;
  } finally {
    await session.release();
  }
}
