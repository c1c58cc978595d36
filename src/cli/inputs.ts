import { InvalidArgumentError } from '../base/errors.ts';
import { elementCount } from '../base/tensor.ts';
import type { LabelledInputs } from '../load/labelled-inputs.ts';
import { batchOf } from '../port/data/batch.ts';
import type { Dataset, Split } from '../port/data/data-module.ts';
import { loadExamples } from '../port/data/examples.ts';
import type { TaskManifest } from '../repository/types.ts';

/** Bytes of requests that are held ready: all 10,000 images of CIFAR-10's test files, 445 of 224×224. */
export const REQUEST_BYTES = 2 ** 28;

/**
 * A split's images as requests for a task: the pixels in [0, 1] that the task's first input takes. Of a split that is
 * larger than `maxBytes`, evenly spaced examples, so that each class keeps its share.
 * @throws BonsaiError `corrupt_dataset` for an image that does not decode; InvalidArgumentError if the task's input has another shape or type than the images
 */
export async function labelledInputs(
  dataset: Dataset,
  split: Split,
  task: TaskManifest,
  maxBytes = REQUEST_BYTES,
): Promise<LabelledInputs> {
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
  const most = Math.max(1, Math.floor(maxBytes / (elementCount(dataset.shape) * FLOAT_BYTES)));
  const count = Math.min(most, split.count);
  const spaced = Uint32Array.from({ length: count }, (_, i) => Math.floor((i * split.count) / count));
  const examples = await loadExamples(split, spaced, dataset.shape);
  const { images, labels } = batchOf(
    dataset,
    examples,
    Uint32Array.from(spaced, (_, i) => i),
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

const FLOAT_BYTES = 4;
