import { InvalidArgumentError } from '../base/errors.ts';
import type { LabelledInputs } from '../load/labelled-inputs.ts';
import { batchOf } from '../port/data/batch.ts';
import type { Dataset, Split } from '../port/data/data-module.ts';
import type { TaskManifest } from '../repository/types.ts';

/**
 * A split's images as requests for a task: the pixels in [0, 1] that the task's first input takes.
 * @throws InvalidArgumentError if the task's input has another shape or type than the images
 */
export function labelledInputs(dataset: Dataset, split: Split, task: TaskManifest): LabelledInputs {
  const [input] = task.inputs;
  const [output] = task.outputs;
  if (input === undefined || output === undefined) {
    throw new InvalidArgumentError(`The task "${task.task}" has no input or no output.`);
  }
  const itemShape = input.shape.slice(1);
  const fits =
    itemShape.length === 3 && itemShape.every((size, axis) => size === -1 || size === dataset.shape[axis]);
  if (!fits || input.dtype !== 'float32') {
    throw new InvalidArgumentError(
      `The images of ${dataset.name} are float32 [${dataset.shape.join(', ')}]; the task "${task.task}" takes ` +
        `${input.dtype} [${itemShape.join(', ')}]. Give the data that the network was trained on.`,
    );
  }
  const { images, labels } = batchOf(
    dataset,
    split,
    Array.from({ length: split.count }, (_, i) => i),
  );
  return {
    inputName: input.name,
    outputName: output.name,
    dtype: 'float32',
    itemShape: dataset.shape,
    bytes: new Uint8Array(images.buffer, images.byteOffset, images.byteLength),
    labels,
  };
}
