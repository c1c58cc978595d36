import { parentPort, workerData } from 'node:worker_threads';
import { systemClock } from '../../base/clock.ts';
import { BonsaiError } from '../../base/errors.ts';
import { seededRandom } from '../../base/random.ts';
import type { Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { serveJob } from '../worker-job.ts';
import { type ComparisonOrder, turnRuns } from './compare-latency.ts';
import { seededInput } from './seeded-input.ts';
import { threadWaitMs } from './thread-wait.ts';

/** The thread that `compareLatency` starts: runs the networks in turns, answers once, ends. */
await serveJob<ComparisonOrder, never, Float64Array[]>(parentPort, workerData, ({ input, isStopRequested }) =>
  measure(input, isStopRequested),
);

async function measure(order: ComparisonOrder, isStopRequested: () => boolean): Promise<Float64Array[]> {
  const networks: Contestant[] = [];
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
    // A thread cannot be given a clock (functions do not cross), and what is measured here is real time.
    const runTimed = async ({ session, feeds }: Contestant) => {
      const waitedMs = order.undisturbed ? threadWaitMs() : 0;
      const startMs = systemClock.nowMs();
      await session.run(feeds);
      const endMs = systemClock.nowMs();
      return endMs - startMs - (order.undisturbed ? threadWaitMs() - waitedMs : 0);
    };
    for (let run = -order.warmup; run < order.runs; ) {
      const end = Math.min(run + turnRuns, run < 0 ? 0 : order.runs);
      for (const network of networks) {
        for (let at = run - 1; at < end; at++) {
          if (isStopRequested()) {
            throw new BonsaiError(
              'aborted',
              `Comparing was stopped after ${Math.max(run, 0)} of ${order.runs} runs.`,
            );
          }
          const latencyMs = await runTimed(network);
          if (at >= Math.max(run, 0)) network.latenciesMs[at] = latencyMs;
        }
      }
      run = end;
    }
    return networks.map(({ latenciesMs }) => latenciesMs);
  } finally {
    for (const { session } of networks) await session.release();
  }
}

interface Contestant {
  readonly session: Session;
  readonly feeds: Record<string, Tensor>;
  readonly latenciesMs: Float64Array;
}
