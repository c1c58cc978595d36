import { workerUrl } from '../../base/worker-url.ts';
import { type Model, withGraph } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import type { Split } from '../data/data-module.ts';
import { examplesOf, type GatherOptions } from '../importance/gather.ts';
import { statisticsForm } from '../importance/statistics-form.ts';
import { runJob } from '../worker-job.ts';

export type ReestimateOptions = Pick<
  GatherOptions,
  'seed' | 'batch' | 'batches' | 'threads' | 'block' | 'signal'
>;

/**
 * Measures the running means and variances of every BatchNormalization anew, as the plain average over mini-batches
 * of forward passes in training form; weights stay as they are. Channels that are gone have shifted what the layers
 * behind them see, so this repairs much of the accuracy that pruning costs, before any fine-tuning.
 * Source: NNCF's batch-norm adaptation; Li et al. 2020, "EagleEye", section 3.3.
 * @param split examples of the network's own input size, best of the training split
 * @returns the network itself where it has no BatchNormalization
 * @throws InvalidArgumentError for an empty split or a batch that is not a positive integer
 * @throws BonsaiError `shape_mismatch` where images do not fit, `unsupported` for networks that cannot be trained,
 *   `aborted`
 */
export async function reestimateBatchNorm(
  model: Model,
  split: Split,
  options: ReestimateOptions,
): Promise<Model> {
  if (!hasBatchNorm(model)) return model;
  const form = statisticsForm(model);
  const examples = await examplesOf(form, split, options);
  const { threads = 1, block } = options;
  const averages = await runJob<BatchNormJob, never, BatchNormAverages>(
    workerUrl(import.meta.url, 'batch-norm-worker'),
    { model: writeModel(form.network), ...examples, threads, block },
    { signal: options.signal },
  );
  const initializers = new Map(model.graph.initializers);
  for (const [name, values] of averages) {
    const old = initializers.get(name);
    if (old !== undefined) initializers.set(name, { ...old, bytes: new Uint8Array(values.buffer) });
  }
  return withGraph(model, { ...model.graph, initializers });
}

/** Whether a network has running averages at all. */
export function hasBatchNorm(model: Model): boolean {
  return model.graph.nodes.some((node) => node.opType === 'BatchNormalization');
}

/** What the worker is given. */
export interface BatchNormJob {
  /** ONNX bytes. */
  readonly model: Uint8Array;
  /** Whole mini-batches. */
  readonly split: Split;
  readonly batch: number;
  readonly threads: number;
  readonly block?: number;
}

/** New values of running means and variances, by the initialiser's name. */
export type BatchNormAverages = ReadonlyMap<string, Float32Array>;
