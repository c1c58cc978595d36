import { parentPort, workerData } from 'node:worker_threads';
import { systemClock } from '../../base/clock.ts';
import { byteLengthOf } from '../../base/dtype.ts';
import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { type Random, seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, isNumeric, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import type { ValueInfo } from '../../graph/model.ts';
import { serveJob } from '../worker-job.ts';
import type { LatencyOrder } from './latency.ts';

/** The thread that `profileLatency` starts: runs one network again and again, answers once, ends. */
await serveJob<LatencyOrder, never, Float64Array>(parentPort, workerData, ({ input, isStopRequested }) =>
  measure(input, isStopRequested),
);

async function measure(order: LatencyOrder, isStopRequested: () => boolean): Promise<Float64Array> {
  const session = await Session.create(order.model, { intraOpThreads: order.threads });
  try {
    const random = seededRandom(order.seed);
    const feeds = Object.fromEntries(
      session.inputs.map((info) => [info.name, inputFor(info, order, random)]),
    );
    for (let run = 0; run < order.warmup; run++) await session.run(feeds);
    const latenciesMs = new Float64Array(order.runs);
    // A thread cannot be given a clock (functions do not cross), and what is measured here is real time.
    for (let run = 0; run < order.runs; run++) {
      if (isStopRequested())
        throw new BonsaiError('aborted', `Profiling was stopped after ${run} of ${order.runs} runs.`);
      const startMs = systemClock.nowMs();
      await session.run(feeds);
      latenciesMs[run] = systemClock.nowMs() - startMs;
    }
    return latenciesMs;
  } finally {
    await session.release();
  }
}

/** Uniform values in [0, 1) for floats, as images have; zeros for everything else (indices are valid at 0). */
function inputFor(info: ValueInfo, order: LatencyOrder, random: Random): Tensor {
  const { name, type } = info;
  const shape =
    order.shapes?.[name] ??
    (type?.shape ?? []).map((dim, axis) => (typeof dim !== 'number' && axis === 0 ? 1 : dim));
  const sizes = shape.map((size) => {
    if (typeof size === 'number') return size;
    throw new InvalidArgumentError(
      `Input "${name}" has the shape [${shape.join(', ')}]; give its sizes in \`shapes\`.`,
    );
  });
  const count = elementCount(sizes);
  if (type?.dtype === 'float32')
    return float32Tensor(
      sizes,
      Float32Array.from({ length: count }, () => random.uniform()),
    );
  if (type !== undefined && isNumeric(type.dtype)) {
    return { dtype: type.dtype, shape: sizes, bytes: new Uint8Array(byteLengthOf(type.dtype, count)) };
  }
  throw new InvalidArgumentError(
    `Input "${name}" is of type ${type?.dtype ?? 'unknown'}, which profiling cannot fill.`,
  );
}
