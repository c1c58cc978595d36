import { InvalidRequestError } from './errors.ts';
import type { LiveVersion } from './live-version.ts';
import type { ModelRegistry } from './model-registry.ts';
import type { ServedModel } from './served-model.ts';

/**
 * Statistics of one model, of one of its versions, or of all.
 * @throws InvalidRequestError for a model or version that is not loaded: 400, unlike elsewhere, as Triton's clients know it
 */
export function modelStatistics(models: ModelRegistry, name?: string, version?: number): unknown {
  const chosen = name === undefined ? [...models.models.values()] : [models.models.get(name)];
  const stats: unknown[] = [];
  for (const model of chosen) {
    if (model === undefined) throw new InvalidRequestError(`requested model '${name}' is not available`);
    for (const live of model.liveVersions) {
      if (version === undefined || live.version === version) stats.push(statisticsOf(model, live));
    }
  }
  if (name !== undefined && stats.length === 0) {
    throw new InvalidRequestError(`requested model version is not available for model '${name}'`);
  }
  return { model_stats: stats };
}

const NOTHING = { count: 0, ns: 0 };

function statisticsOf(model: ServedModel, live: LiveVersion): unknown {
  const s = live.statistics;
  return {
    name: model.name,
    version: String(live.version),
    last_inference: s.lastInferenceEpochMs,
    inference_count: s.inferenceCount,
    execution_count: s.executionCount,
    inference_stats: {
      success: s.success,
      fail: s.fail,
      queue: s.queue,
      compute_input: s.computeInput,
      compute_infer: s.computeInfer,
      compute_output: s.computeOutput,
      cache_hit: NOTHING,
      cache_miss: NOTHING,
    },
    response_stats: {},
    batch_stats: [...s.batches].map(([batch_size, compute_infer]) => ({
      batch_size,
      compute_input: { count: compute_infer.count, ns: 0 },
      compute_infer,
      compute_output: { count: compute_infer.count, ns: 0 },
    })),
    memory_usage: [{ type: 'CPU', id: 0, byte_size: live.memoryBytes }],
  };
}
