import { byteLengthOf } from '../base/dtype.ts';
import { InvalidArgumentError } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';
import { elementCount, isNumeric } from '../base/tensor.ts';
import type { LabelledInputs } from '../load/labelled-inputs.ts';
import type { TaskManifest } from '../repository/types.ts';

/** Different inputs, so that nothing can be answered from a cache of one; a handful costs no memory. */
export const SEEDED_ITEMS = 16;

/**
 * Inputs for measuring a task whose data are not at hand: uniform values in [0, 1) for floats, zeros for everything
 * else. The labels mean nothing.
 * @throws InvalidArgumentError for several inputs, or sizes that only data can tell
 */
export function seededInputs(
  task: Pick<TaskManifest, 'task' | 'inputs' | 'outputs'>,
  seed: number,
): LabelledInputs {
  const [input, ...others] = task.inputs;
  const output = task.outputs.find(({ dtype }) => dtype === 'float32');
  const itemShape = input?.shape.slice(1) ?? [];
  if (input === undefined || output === undefined || others.length > 0 || itemShape.includes(-1)) {
    const shapes = task.inputs.map(({ name, dtype, shape }) => `${name} ${dtype} [${shape.join(', ')}]`);
    throw new InvalidArgumentError(
      `Inputs can be made up for tasks of one input of known sizes and a float32 output; "${task.task}" takes ` +
        `${shapes.join(', ') || 'nothing'}.`,
    );
  }
  if (!isNumeric(input.dtype)) {
    throw new InvalidArgumentError(`Inputs of type ${input.dtype} cannot be made up.`);
  }
  const count = SEEDED_ITEMS * elementCount(itemShape);
  const bytes = new Uint8Array(byteLengthOf(input.dtype, count));
  if (input.dtype === 'float32') {
    const random = seededRandom(seed).fork('inputs');
    new Float32Array(bytes.buffer).set(Float32Array.from({ length: count }, () => random.uniform()));
  }
  return {
    inputName: input.name,
    outputName: output.name,
    dtype: input.dtype,
    itemShape,
    bytes,
    labels: new Uint8Array(SEEDED_ITEMS),
  };
}
