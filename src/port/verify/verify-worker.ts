import { parentPort, workerData } from 'node:worker_threads';
import { readModel } from '../../graph/onnx/read.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import { serveJob } from '../worker-job.ts';
import { maskEquivalence, type Verification, type VerifyProgress } from './mask-equivalence.ts';
import type { VerifyInput } from './verify.ts';

// The worker thread of `verify`. Shape arithmetic is folded first, as pruning does.
await serveJob<VerifyInput, VerifyProgress, Verification>(
  parentPort,
  workerData,
  async ({ input, isStopRequested, emit }) => {
    const { model, delivered, ...options } = input;
    return maskEquivalence(foldConstants(readModel(model)), {
      ...options,
      ...(delivered && { delivered: { ...delivered, model: readModel(delivered.model) } }),
      isStopRequested,
      onProgress: emit,
    });
  },
);
