import { parentPort, workerData } from 'node:worker_threads';
import { readModel } from '../../graph/onnx/read.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import { singlePrecision } from '../../transform/passes/single-precision.ts';
import { serveJob } from '../worker-job.ts';
import { maskEquivalence, type Verification, type VerifyProgress } from './mask-equivalence.ts';
import type { VerifyInput } from './verify.ts';

// The worker thread of `verify`. Shape arithmetic is folded first, as pruning does; 16-bit floats are compared in float32,
// because their rounding is coarser than what the comparison looks for.
await serveJob<VerifyInput, VerifyProgress, Verification>(
  parentPort,
  workerData,
  async ({ input, isStopRequested, emit }) => {
    const { model, delivered, ...options } = input;
    const read = (bytes: Uint8Array) => singlePrecision(readModel(bytes));
    return maskEquivalence(foldConstants(read(model)), {
      ...options,
      ...(delivered && { delivered: { ...delivered, model: read(delivered.model) } }),
      isStopRequested,
      onProgress: emit,
    });
  },
);
