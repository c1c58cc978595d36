import { SERVER_VERSION } from '../metadata.ts';
import type { ModelMesh } from '../model-mesh.ts';
import { GrpcError, STATUS } from './errors.ts';

/** Status of a RuntimeStatusResponse. */
export const RUNTIME_STATUS = { STARTING: 0, READY: 1 } as const;

/** Loads run at low priority beside the requests; two would only take turns. */
const MAX_LOADING_CONCURRENCY = 1;

/** A large network on a busy CPU takes tens of seconds. */
const LOADING_TIMEOUT_MS = 120_000;

/** For those whose size is not known yet: three times a network of 33 MB. */
const DEFAULT_MODEL_BYTES = 100_000_000;

/** The field of these requests that names the model is their first. */
const METHODS = ['ModelInfer', 'ModelMetadata', 'ModelReady'].map(
  (name) => `inference.GRPCInferenceService/${name}`,
);

/** @throws GrpcError UNIMPLEMENTED where the server was not started for it */
export function meshOf(mesh: ModelMesh | undefined): ModelMesh {
  if (mesh !== undefined) return mesh;
  throw new GrpcError(
    STATUS.UNIMPLEMENTED,
    'the service mmesh.ModelRuntime is not offered; start the server with --modelmesh-models',
  );
}

/** The JSON of a RuntimeStatusResponse. ModelMesh asks when it starts, and believes that nothing is loaded: so it is made. */
export async function runtimeStatus(mesh: ModelMesh, isReady: boolean): Promise<unknown> {
  if (isReady) await mesh.purge();
  return {
    status: isReady ? RUNTIME_STATUS.READY : RUNTIME_STATUS.STARTING,
    capacityInBytes: String(mesh.capacityBytes),
    maxLoadingConcurrency: MAX_LOADING_CONCURRENCY,
    modelLoadingTimeoutMs: LOADING_TIMEOUT_MS,
    defaultModelSizeInBytes: String(DEFAULT_MODEL_BYTES),
    runtimeVersion: SERVER_VERSION,
    methodInfos: Object.fromEntries(METHODS.map((method) => [method, { idInjectionPath: [1] }])),
  };
}

/** The JSON of the answers that say a size. */
export function sizeAnswer(bytes: number): unknown {
  return { sizeInBytes: String(bytes) };
}
