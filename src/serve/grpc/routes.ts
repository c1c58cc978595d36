import {
  type DescMessage,
  fromBinary,
  fromJson,
  type JsonValue,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import { messageOf } from '../../base/errors.ts';
import { InvalidRequestError } from '../errors.ts';
import { modelMetadata, serverMetadata } from '../metadata.ts';
import type { Call } from './call.ts';
import { modelConfigResponse } from './config.ts';
import { GrpcError, STATUS } from './errors.ts';
import { frameOf } from './framing.ts';
import { checkedStatus } from './health.ts';
import { HealthCheckRequestSchema, HealthCheckResponseSchema } from './health_pb.ts';
import { decodeInfer, encodeInfer } from './infer.ts';
import { readInferMessage } from './infer-message.ts';
import {
  ModelConfigRequestSchema,
  ModelConfigResponseSchema,
  ModelMetadataRequestSchema,
  ModelMetadataResponseSchema,
  ModelReadyRequestSchema,
  ModelReadyResponseSchema,
  ModelStatisticsRequestSchema,
  ModelStatisticsResponseSchema,
  RepositoryIndexRequestSchema,
  RepositoryIndexResponseSchema,
  RepositoryModelLoadRequestSchema,
  RepositoryModelLoadResponseSchema,
  RepositoryModelUnloadRequestSchema,
  RepositoryModelUnloadResponseSchema,
  ServerLiveRequestSchema,
  ServerLiveResponseSchema,
  ServerMetadataRequestSchema,
  ServerMetadataResponseSchema,
  ServerReadyRequestSchema,
  ServerReadyResponseSchema,
} from './inference_pb.ts';
import { meshOf, runtimeStatus, sizeAnswer } from './model-runtime.ts';
import {
  LoadModelRequestSchema,
  LoadModelResponseSchema,
  ModelSizeRequestSchema,
  ModelSizeResponseSchema,
  PredictModelSizeRequestSchema,
  PredictModelSizeResponseSchema,
  RuntimeStatusRequestSchema,
  RuntimeStatusResponseSchema,
  UnloadModelRequestSchema,
  UnloadModelResponseSchema,
} from './model-runtime_pb.ts';
import { loadFromRepository, repositoryIndex, unloadFromRepository } from './repository.ts';
import type { GrpcContext } from './server.ts';
import { statisticsResponse } from './statistics.ts';
import { versionOf } from './version.ts';

/** Takes the one message of a call and gives the framed one of its answer. */
export type UnaryHandler = (
  context: GrpcContext,
  message: Uint8Array,
  call: Call,
) => Buffer | Promise<Buffer>;

/** What a path leads to. `admin` methods need the administrator's token. */
export type Route =
  | { readonly kind: 'unary'; readonly access: 'open' | 'inference' | 'admin'; readonly handle: UnaryHandler }
  | { readonly kind: 'stream_infer' | 'watch' };

const INFERENCE = '/inference.GRPCInferenceService/';
const MESH = '/mmesh.ModelRuntime/';
const HEALTH = '/grpc.health.v1.Health/';

/** Methods of the protocol that are not offered, and what to do instead. */
const NOT_OFFERED: ReadonlyMap<string, string> = new Map([
  ...[
    'SystemSharedMemoryStatus',
    'SystemSharedMemoryRegister',
    'SystemSharedMemoryUnregister',
    'CudaSharedMemoryStatus',
    'CudaSharedMemoryRegister',
    'CudaSharedMemoryUnregister',
  ].map((name) => [INFERENCE + name, 'shared memory is not offered; send the data'] as const),
  [`${INFERENCE}TraceSetting`, 'the trace extension is not offered'] as const,
  [`${INFERENCE}LogSettings`, 'the logging extension is not offered'] as const,
]);

const ROUTES: ReadonlyMap<string, Route> = new Map<string, Route>([
  [`${INFERENCE}ModelInfer`, { kind: 'unary', access: 'inference', handle: infer }],
  [`${INFERENCE}ModelStreamInfer`, { kind: 'stream_infer' }],
  [
    `${INFERENCE}ServerLive`,
    unary('open', ServerLiveRequestSchema, ServerLiveResponseSchema, () => ({ live: true })),
  ],
  [
    `${INFERENCE}ServerReady`,
    unary('open', ServerReadyRequestSchema, ServerReadyResponseSchema, (_, { isReady }) => ({
      ready: isReady(),
    })),
  ],
  [
    `${INFERENCE}ModelReady`,
    unary('open', ModelReadyRequestSchema, ModelReadyResponseSchema, ({ name, version }, { models }) => {
      const model = models.get(name);
      const wanted = versionOf(version);
      return {
        ready:
          wanted === undefined ? model.isReady : model.liveVersions.some((live) => live.version === wanted),
      };
    }),
  ],
  [
    `${INFERENCE}ServerMetadata`,
    unary('inference', ServerMetadataRequestSchema, ServerMetadataResponseSchema, (_, { target }) =>
      serverMetadata(target),
    ),
  ],
  [
    `${INFERENCE}ModelMetadata`,
    unary(
      'inference',
      ModelMetadataRequestSchema,
      ModelMetadataResponseSchema,
      ({ name, version }, { models }) => modelMetadata(models.get(name), versionOf(version)),
    ),
  ],
  [
    `${INFERENCE}ModelConfig`,
    unary(
      'inference',
      ModelConfigRequestSchema,
      ModelConfigResponseSchema,
      ({ name, version }, { models, slots }) =>
        modelConfigResponse(models.get(name), versionOf(version), slots),
    ),
  ],
  [
    `${INFERENCE}ModelStatistics`,
    unary('inference', ModelStatisticsRequestSchema, ModelStatisticsResponseSchema, (request, { models }) =>
      statisticsResponse(models, request),
    ),
  ],
  [
    `${INFERENCE}RepositoryIndex`,
    unary('inference', RepositoryIndexRequestSchema, RepositoryIndexResponseSchema, (request, { models }) =>
      repositoryIndex(models, request),
    ),
  ],
  [
    `${INFERENCE}RepositoryModelLoad`,
    unary(
      'admin',
      RepositoryModelLoadRequestSchema,
      RepositoryModelLoadResponseSchema,
      async (request, { models, slots }) => {
        await loadFromRepository(models, request, slots);
        return {};
      },
    ),
  ],
  [
    `${INFERENCE}RepositoryModelUnload`,
    unary(
      'admin',
      RepositoryModelUnloadRequestSchema,
      RepositoryModelUnloadResponseSchema,
      async (request, { models }) => {
        await unloadFromRepository(models, request);
        return {};
      },
    ),
  ],
  [
    `${MESH}loadModel`,
    unary(
      'admin',
      LoadModelRequestSchema,
      LoadModelResponseSchema,
      async ({ modelId, modelPath }, { mesh }) => sizeAnswer(await meshOf(mesh).load(modelId, modelPath)),
    ),
  ],
  [
    `${MESH}unloadModel`,
    unary('admin', UnloadModelRequestSchema, UnloadModelResponseSchema, async ({ modelId }, { mesh }) => {
      await meshOf(mesh).unload(modelId);
      return {};
    }),
  ],
  [
    `${MESH}predictModelSize`,
    unary(
      'admin',
      PredictModelSizeRequestSchema,
      PredictModelSizeResponseSchema,
      async ({ modelPath }, { mesh }) => sizeAnswer(await meshOf(mesh).predict(modelPath)),
    ),
  ],
  [
    `${MESH}modelSize`,
    unary('admin', ModelSizeRequestSchema, ModelSizeResponseSchema, ({ modelId }, { mesh }) =>
      sizeAnswer(meshOf(mesh).sizeOf(modelId)),
    ),
  ],
  [
    `${MESH}runtimeStatus`,
    unary('admin', RuntimeStatusRequestSchema, RuntimeStatusResponseSchema, (_, { mesh, isReady }) =>
      runtimeStatus(meshOf(mesh), isReady()),
    ),
  ],
  [
    `${HEALTH}Check`,
    unary('open', HealthCheckRequestSchema, HealthCheckResponseSchema, ({ service }, { isReady }) => ({
      status: checkedStatus(service, isReady()),
    })),
  ],
  [`${HEALTH}Watch`, { kind: 'watch' }],
]);

/** Finds what a path means. @throws GrpcError UNIMPLEMENTED */
export function routeOf(path: string): Route {
  const route = ROUTES.get(path);
  if (route !== undefined) return route;
  throw new GrpcError(
    STATUS.UNIMPLEMENTED,
    NOT_OFFERED.get(path) ?? `unknown method ${path.slice(0, MAX_SHOWN_LENGTH)}`,
  );
}

/** Longer paths are cut in messages. */
const MAX_SHOWN_LENGTH = 120;

function infer({ models, plane }: GrpcContext, message: Uint8Array, call: Call): Promise<Buffer> {
  const decoded = decodeInfer(models, plane, readInferMessage(message), call.remainingMs());
  const submission = plane.submit(decoded.request);
  call.onCancel = () => submission.cancel();
  return submission.answer.then((answer) => encodeInfer(decoded, answer));
}

/** A handler whose answer is given in the JSON of the response's message. */
function unary<I extends DescMessage, O extends DescMessage>(
  access: 'open' | 'inference' | 'admin',
  requestSchema: I,
  responseSchema: O,
  handle: (request: MessageShape<I>, context: GrpcContext) => unknown,
): Route {
  return {
    kind: 'unary',
    access,
    handle: async (context, message) => {
      const answer = await handle(decode(requestSchema, message), context);
      // The shapes are those of the protocol in both its forms; what one has and the other has not is left out.
      const json = answer as JsonValue;
      return frameOf(toBinary(responseSchema, fromJson(responseSchema, json, { ignoreUnknownFields: true })));
    },
  };
}

/** @throws InvalidRequestError for bytes that are no such message */
export function decode<S extends DescMessage>(schema: S, message: Uint8Array): MessageShape<S> {
  try {
    return fromBinary(schema, message);
  } catch (cause) {
    throw new InvalidRequestError(`the message is no ${schema.typeName}: ${messageOf(cause)}`, { cause });
  }
}
