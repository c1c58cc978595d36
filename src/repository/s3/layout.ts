import { InvalidArgumentError } from '../../base/errors.ts';
import { checkTaskName, checkVersion } from '../names.ts';

/**
 * Where things lie in a bucket, relative to the prefix:
 *
 *     TASK/bonsai.json                what the family is; written last, and only if it still is the one that was read
 *     TASK/objects/DIGEST.onnx        each network under its SHA-256, so that none ever changes
 *     TASK/publishing/NAME            claims of publishers, for stores that know no conditional writes
 *     TASK/steps/NAME                 finished steps of a porting that several share; of no use once the family is whole
 *
 * On demand also Triton's layout, as copies: TASK/config.pbtxt, TASK/labels.txt and TASK/VERSION/model.onnx.
 */
export function manifestKey(task: string): string {
  return `${checkTaskName(task)}/bonsai.json`;
}

/** @param digest SHA-256, as manifests have it */
export function networkKey(task: string, digest: string): string {
  return `${networksPrefix(task)}${digest}.onnx`;
}

export function networksPrefix(task: string): string {
  return `${checkTaskName(task)}/objects/`;
}

export function claimsPrefix(task: string): string {
  return `${checkTaskName(task)}/publishing/`;
}

/** @param name of a file that workers leave for each other; it comes from a digest */
export function stepKey(task: string, name: string): string {
  if (!/^[a-z0-9][a-z0-9.-]*$/.test(name))
    throw new InvalidArgumentError(
      `"${name}" is no name of a step; expected small letters, digits, "-" and ".".`,
    );
  return `${stepsPrefix(task)}${name}`;
}

export function stepsPrefix(task: string): string {
  return `${checkTaskName(task)}/steps/`;
}

/** A file of Triton's layout. */
export function tritonKey(task: string, file: string): string {
  return `${checkTaskName(task)}/${file}`;
}

export function tritonNetworkKey(task: string, version: number): string {
  return `${checkTaskName(task)}/${checkVersion(version)}/model.onnx`;
}
