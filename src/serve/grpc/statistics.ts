import type { ModelRegistry } from '../model-registry.ts';
import { modelStatistics } from '../model-statistics.ts';
import type { ModelStatisticsRequest } from './inference_pb.ts';
import { versionOf } from './version.ts';

/** Statistics of one model, of one of its versions, or of all, as the JSON of a ModelStatisticsResponse. */
export function statisticsResponse(models: ModelRegistry, request: ModelStatisticsRequest): unknown {
  return request.name === ''
    ? modelStatistics(models)
    : modelStatistics(models, request.name, versionOf(request.version));
}
