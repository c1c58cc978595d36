import { BonsaiError } from '../../base/errors.ts';
import { InvalidRequestError } from '../errors.ts';
import type { ModelRegistry } from '../model-registry.ts';
import { loadModel } from '../rest/repository.ts';
import type {
  ModelRepositoryParameter,
  RepositoryIndexRequest,
  RepositoryModelLoadRequest,
  RepositoryModelUnloadRequest,
} from './inference_pb.ts';

/** The index, of all models or of the ready ones, as the JSON of a RepositoryIndexResponse. */
export async function repositoryIndex(
  models: ModelRegistry,
  request: RepositoryIndexRequest,
): Promise<unknown> {
  const entries = await models.index();
  return { models: request.ready ? entries.filter(({ state }) => state === 'READY') : entries };
}

/** Loads a model, as REST's load does: `config` is a string there and here, files are bytes here and base64 there. */
export async function loadFromRepository(
  models: ModelRegistry,
  request: RepositoryModelLoadRequest,
  slots: number,
): Promise<void> {
  refuseRepositoryName(request.repositoryName);
  const parameters = Object.entries(request.parameters).map(([name, parameter]) => [
    name,
    parameterText(name, parameter),
  ]);
  await loadModel(models, request.modelName, { parameters: Object.fromEntries(parameters) }, slots);
}

export async function unloadFromRepository(
  models: ModelRegistry,
  request: RepositoryModelUnloadRequest,
): Promise<void> {
  refuseRepositoryName(request.repositoryName);
  await models.unload(request.modelName);
}

function parameterText(name: string, { parameterChoice }: ModelRepositoryParameter): string {
  if (name.startsWith('file:')) {
    if (parameterChoice.case === 'bytesParam') return Buffer.from(parameterChoice.value).toString('base64');
    throw new InvalidRequestError(`parameter '${name}' must be bytes_param`);
  }
  if (parameterChoice.case === 'stringParam') return parameterChoice.value;
  throw new InvalidRequestError(`parameter '${name}' must be string_param`);
}

function refuseRepositoryName(name: string): void {
  if (name === '') return;
  throw new BonsaiError('unsupported', "'repository_name' specification is not supported");
}
