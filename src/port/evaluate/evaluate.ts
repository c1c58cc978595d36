import { BonsaiError, InvalidArgumentError } from '../../base/errors.ts';
import { workerUrl } from '../../base/worker-url.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import type { Dataset, Split } from '../data/data-module.ts';
import { runJob } from '../worker-job.ts';
import type { Evaluation } from './classify.ts';

export interface EvaluateOptions {
  /** Threads of one inference. Default 1. */
  readonly threads?: number;
  /** Examples of one inference; the last one takes what is left. */
  readonly batch?: number;
  readonly signal?: AbortSignal;
}

/** Enough to keep the kernels busy, little enough to stay within a CPU's caches for small images. */
export const EVALUATION_BATCH = 64;

/**
 * Counts a classifier's right answers on a split, in a worker thread.
 * @param model a network with one image input [N, C, H, W], as a graph or as ONNX bytes
 * @param split examples of the network's own input size
 * @throws BonsaiError `shape_mismatch` where images and network do not fit, `load_failed`, `aborted`
 */
export async function evaluate(
  model: Model | Uint8Array,
  split: Split,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  const batch = options.batch ?? EVALUATION_BATCH;
  if (!Number.isInteger(batch) || batch < 1) {
    throw new InvalidArgumentError(`The batch is ${batch}, expected a positive integer.`);
  }
  const input: EvaluationInput = {
    model: model instanceof Uint8Array ? model : writeModel(model),
    split,
    threads: options.threads ?? 1,
    batch,
  };
  return runJob<EvaluationInput, never, Evaluation>(workerUrl(import.meta.url, 'evaluate-worker'), input, {
    signal: options.signal,
  });
}

export interface EvaluationInput {
  readonly model: Uint8Array;
  readonly split: Split;
  readonly threads: number;
  readonly batch: number;
}

/**
 * [C, H, W] of a network's image input.
 * @throws BonsaiError `shape_mismatch` where there is no such input
 */
export function imageShapeOf(shape: readonly unknown[] | undefined): Dataset['shape'] {
  const sizes = shape?.slice(1) ?? [];
  if (shape?.length !== 4 || !sizes.every((size) => typeof size === 'number' && size > 0)) {
    throw new BonsaiError(
      'shape_mismatch',
      `The network's input should be images [N, C, H, W] of a fixed size, the file gives [${shape?.join(', ') ?? ''}].`,
    );
  }
  return sizes as [number, number, number]; // Three sizes, each just checked to be a number.
}
