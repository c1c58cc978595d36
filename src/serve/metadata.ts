import { datatypeOf } from '../repository/datatypes.ts';
import type { Target, TensorSpec } from '../repository/types.ts';
import type { ServedModel } from './served-model.ts';

/**
 * What the server says of itself. Only what it does is advertised. `target`, which the protocol does not know, is
 * what it runs on, so that profiles measured over the network are kept for the right hardware.
 */
export function serverMetadata(target: Target): unknown {
  return {
    name: 'bonsai',
    version: SERVER_VERSION,
    extensions: [
      'classification',
      'model_repository',
      'model_repository(unload_dependents)',
      'schedule_policy',
      'model_configuration',
      'binary_tensor_data',
      'parameters',
      'statistics',
    ],
    target,
  };
}

/** The version of the protocol's server side; the package's. */
export const SERVER_VERSION = '0.1.0';

/** @throws ModelNotFoundError, VersionNotFoundError, NotReadyError */
export function modelMetadata(model: ServedModel, version: number | undefined): unknown {
  const live = model.resolve(version);
  const versions =
    version === undefined ? model.liveVersions.map((entry) => String(entry.version)) : [String(version)];
  return {
    name: model.name,
    versions,
    platform: 'onnxruntime_onnx',
    inputs: live.inputs.map(tensorMetadata),
    outputs: live.outputs.map(tensorMetadata),
  };
}

function tensorMetadata({ name, dtype, shape }: TensorSpec): unknown {
  return { name, datatype: datatypeOf(dtype), shape };
}
