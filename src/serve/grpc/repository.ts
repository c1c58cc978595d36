import { BonsaiError } from '../../base/errors.ts';
import { InvalidRequestError } from '../errors.ts';
import { checkLoadParameter, FILE_PREFIX, type LoadParameters, loadModel } from '../load-request.ts';
import type { ModelRegistry } from '../model-registry.ts';
import type {
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

/** Loads a model; of its parameters, `config` is a string and files are bytes. */
export async function loadFromRepository(
  models: ModelRegistry,
  request: RepositoryModelLoadRequest,
  slots: number,
): Promise<void> {
  refuseRepositoryName(request.repositoryName);
  await loadModel(models, request.modelName, loadParametersOf(request), slots);
}

export async function unloadFromRepository(
  models: ModelRegistry,
  request: RepositoryModelUnloadRequest,
): Promise<void> {
  refuseRepositoryName(request.repositoryName);
  await models.unload(request.modelName);
}

/** @throws InvalidRequestError */
function loadParametersOf({ parameters }: RepositoryModelLoadRequest): LoadParameters {
  let config: string | undefined;
  const files = new Map<string, Uint8Array>();
  for (const [name, { parameterChoice }] of Object.entries(parameters)) {
    checkLoadParameter(name);
    if (name.startsWith(FILE_PREFIX)) {
      if (parameterChoice.case !== 'bytesParam')
        throw new InvalidRequestError(`parameter '${name.slice(0, 80)}' must be bytes_param`);
      files.set(name.slice(FILE_PREFIX.length), parameterChoice.value);
    } else {
      if (parameterChoice.case !== 'stringParam')
        throw new InvalidRequestError(`parameter '${name}' must be string_param`);
      config = parameterChoice.value;
    }
  }
  return { config, files };
}

function refuseRepositoryName(name: string): void {
  if (name === '') return;
  throw new BonsaiError('unsupported', "'repository_name' specification is not supported");
}
