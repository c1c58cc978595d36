import { parentPort, workerData } from 'node:worker_threads';
import { BonsaiError } from '../../base/errors.ts';
import { float32Tensor, floatsOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import type { Range } from '../../transform/quantize/integers.ts';
import { batchOf } from '../data/batch.ts';
import { serveJob } from '../worker-job.ts';
import { CALIBRATION_BATCH, type CalibrationInput, type CalibrationProgress } from './calibrate.ts';
import { entropyRange, HISTOGRAM_BINS } from './entropy.ts';
import { percentileRange } from './percentile.ts';

// The worker thread of `calibrate`.
await serveJob<CalibrationInput, CalibrationProgress, Range[]>(
  parentPort,
  workerData,
  async ({ input, isStopRequested, emit }) => {
    const { outputs, split, method } = input;
    const session = await Session.create(input.model, { intraOpThreads: input.threads });
    const fixed = session.inputs[0]?.type?.shape?.[0];
    const batch = typeof fixed === 'number' ? fixed : CALIBRATION_BATCH;
    if (split.count < batch && typeof fixed === 'number') {
      throw new BonsaiError(
        'shape_mismatch',
        `The network takes ${fixed} images at once; ${split.count} are too few to calibrate it.`,
      );
    }
    // Of a network with a fixed batch, a rest of images is left out.
    const count = typeof fixed === 'number' ? split.count - (split.count % fixed) : split.count;
    const passes = method === 'min-max' ? 1 : 2;
    let done = 0;

    /** Runs all examples and shows every value of every observed output. */
    const observe = async (see: (output: number, values: Float32Array) => void) => {
      for (let from = 0; from < count; from += batch) {
        if (isStopRequested()) throw new BonsaiError('aborted', 'Stopped on request.');
        const indices = Array.from({ length: Math.min(batch, count - from) }, (_, i) => from + i);
        const { images, shape } = batchOf(input, split, indices);
        const results = await session.run(
          { [session.inputNames[0]!]: float32Tensor(shape, images) },
          outputs,
        );
        for (const [i, name] of outputs.entries()) see(i, floatsOf(results[name]!));
        done += indices.length;
        emit({ done, total: passes * count });
      }
    };

    const wholes = outputs.map(() => ({ min: Number.POSITIVE_INFINITY, max: Number.NEGATIVE_INFINITY }));
    await observe((i, values) => {
      const whole = wholes[i]!;
      let { min, max } = whole;
      for (const value of values) {
        if (!Number.isFinite(value)) {
          throw new BonsaiError(
            'shape_mismatch',
            `The network computes values that are not finite ("${outputs[i]}"); they have no range.`,
          );
        }
        if (value < min) min = value;
        if (value > max) max = value;
      }
      Object.assign(whole, { min, max });
    });
    if (method === 'min-max') return wholes;

    const isEntropy = method === 'entropy';
    const histograms = wholes.map(() => new Float64Array(HISTOGRAM_BINS));
    await observe((i, values) => {
      const counts = histograms[i]!;
      const { min, max } = wholes[i]!;
      const last = HISTOGRAM_BINS - 1;
      if (isEntropy) {
        const perBin = HISTOGRAM_BINS / Math.max(Math.abs(min), Math.abs(max));
        for (const value of values) {
          if (value !== 0) counts[Math.min(Math.floor(Math.abs(value) * perBin), last)]!++;
        }
      } else if (max > min) {
        const perBin = HISTOGRAM_BINS / (max - min);
        for (const value of values) counts[Math.min(Math.floor((value - min) * perBin), last)]!++;
      }
    });
    return wholes.map((whole, i) =>
      isEntropy
        ? entropyRange(histograms[i]!, whole)
        : percentileRange(histograms[i]!, whole, input.percentile),
    );
  },
);
