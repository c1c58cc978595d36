import { hasConsistentSize, type Tensor } from '../base/tensor.ts';
import { datatypeOf } from '../repository/datatypes.ts';
import type { TensorSpec } from '../repository/types.ts';
import { InvalidRequestError } from './errors.ts';

export interface NamedTensor extends Tensor {
  readonly name: string;
}

/** What a network takes and gives. */
export interface Signature {
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
}

/**
 * The inputs in the network's order.
 * @param outputs names of the outputs wanted; undefined: all
 * @throws InvalidRequestError naming what does not fit
 */
export function orderedInputs(
  model: string,
  inputs: readonly NamedTensor[],
  outputs: readonly string[] | undefined,
  network: Signature,
): readonly NamedTensor[] {
  for (const { name } of inputs) checkInputName(name, network.inputs, model);
  for (const name of outputs ?? []) {
    if (!network.outputs.some((spec) => spec.name === name)) {
      throw new InvalidRequestError(
        `unexpected inference output '${name}' for model '${model}'; it gives ${namesOf(network.outputs)}`,
      );
    }
  }
  return network.inputs.map((spec) => {
    const given = inputs.filter((input) => input.name === spec.name);
    if (given.length !== 1) {
      const problem = given.length === 0 ? 'is missing' : 'is given more than once';
      throw new InvalidRequestError(`input '${spec.name}' of model '${model}' ${problem}`);
    }
    checkTensor(given[0]!, spec, model);
    return given[0]!;
  });
}

/** A name is checked before anything else of an input: whatever is wrong with its data may come from there. */
export function checkInputName(name: string, specs: readonly TensorSpec[], model: string): void {
  if (specs.some((spec) => spec.name === name)) return;
  throw new InvalidRequestError(
    `unexpected inference input '${name}' for model '${model}'; it takes ${namesOf(specs)}`,
  );
}

function namesOf(specs: readonly TensorSpec[]): string {
  return specs.map((spec) => `'${spec.name}'`).join(', ');
}

function checkTensor(tensor: NamedTensor, spec: TensorSpec, model: string): void {
  const where = `input '${tensor.name}' of model '${model}'`;
  if (tensor.dtype !== spec.dtype) {
    throw new InvalidRequestError(
      `${where} is ${datatypeOf(tensor.dtype)}, expected ${datatypeOf(spec.dtype)}`,
    );
  }
  const fits =
    tensor.shape.length === spec.shape.length &&
    spec.shape.every((size, axis) => size === -1 || size === tensor.shape[axis]);
  if (!fits) {
    throw new InvalidRequestError(
      `${where} has shape [${tensor.shape.join(',')}], expected [${spec.shape.join(',')}]`,
    );
  }
  if (!hasConsistentSize(tensor)) {
    throw new InvalidRequestError(
      `${where} has ${tensor.bytes.byteLength} bytes, which is not what shape [${tensor.shape.join(',')}] takes`,
    );
  }
}

/** How many examples a request brings: the open first size of its first input. */
export function rowsOf(inputs: readonly Tensor[], specs: readonly TensorSpec[]): number {
  return specs[0]?.shape[0] === -1 ? Math.max(1, inputs[0]?.shape[0] ?? 1) : 1;
}
