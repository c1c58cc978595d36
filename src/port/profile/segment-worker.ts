import { parentPort, workerData } from 'node:worker_threads';
import { systemClock } from '../../base/clock.ts';
import { BonsaiError } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import { Session } from '../../engine/session.ts';
import { serveJob } from '../worker-job.ts';
import type { SegmentEvent, SegmentOrder } from './latency-table.ts';
import { seededInput } from './seeded-input.ts';
import { threadWaitMs } from './thread-wait.ts';

/** The thread that `measureSegments` starts: runs small networks one after the other, tells of each, ends. */
await serveJob<SegmentOrder, SegmentEvent, true>(
  parentPort,
  workerData,
  async ({ input, isStopRequested, emit }) => {
    for (const [index, model] of input.models.entries()) {
      if (isStopRequested())
        throw new BonsaiError('aborted', `Stopped after ${index} of ${input.models.length} measurements.`);
      emit({ index, ms: await measure(model, input) });
    }
    return true;
  },
);

/** The fastest of several runs, which is what the work takes when nothing disturbs it; NaN where it cannot run alone. */
async function measure(model: Uint8Array, order: SegmentOrder): Promise<number> {
  let session: Session;
  try {
    session = await Session.create(model, { intraOpThreads: order.threads });
  } catch (error) {
    if (error instanceof BonsaiError && error.code === 'load_failed') return Number.NaN;
    throw error;
  }
  try {
    const random = seededRandom(order.seed);
    const feeds = Object.fromEntries(session.inputs.map((info) => [info.name, seededInput(info, random)]));
    let best = Number.POSITIVE_INFINITY;
    const endMs = systemClock.nowMs() + order.budgetMs;
    for (let run = 0; run < order.minRuns || systemClock.nowMs() < endMs; run++) {
      // The wait is read within the time taken: it then never exceeds it, and what reading costs is part of an empty
      // call's time as well, which is subtracted.
      const startMs = systemClock.nowMs();
      const waitedMs = threadWaitMs();
      await session.run(feeds);
      const lostMs = threadWaitMs() - waitedMs;
      const ms = systemClock.nowMs() - startMs - lostMs;
      if (ms < best) best = ms;
    }
    return best;
  } catch (error) {
    // A segment that the random inputs do not suit (an index out of range) is left to the calibration.
    if (error instanceof BonsaiError && error.code === 'engine_failure') return Number.NaN;
    throw error;
  } finally {
    await session.release();
  }
}
