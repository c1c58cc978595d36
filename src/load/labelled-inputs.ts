import { BITS_PER_ELEMENT, type DType } from '../base/dtype.ts';
import { InvalidArgumentError } from '../base/errors.ts';
import { permutation, type Random } from '../base/random.ts';
import { elementCount } from '../base/tensor.ts';

/** Real inputs with their right answers, packed as a request carries them. */
export interface LabelledInputs {
  /** The name of the network's input, `image` for Bonsai's own. */
  readonly inputName: string;
  /** The name of the output whose largest element is the answer, `logits` for Bonsai's own. */
  readonly outputName: string;
  readonly dtype: DType;
  /** The shape of one item without the batch dimension, e.g. [1, 28, 28]. */
  readonly itemShape: readonly number[];
  /** All items one after another, little-endian: `labels.length` × the bytes of one item. */
  readonly bytes: Uint8Array;
  /** The class of each item. */
  readonly labels: ArrayLike<number>;
}

/** The bytes of one item. @throws InvalidArgumentError if the inputs are empty or their parts disagree. */
export function itemByteLength(inputs: LabelledInputs): number {
  const bits = BITS_PER_ELEMENT[inputs.dtype];
  if (bits < 8) {
    throw new InvalidArgumentError(
      `Labelled inputs of dtype ${inputs.dtype} cannot be sent as binary tensors.`,
    );
  }
  const length = (elementCount(inputs.itemShape) * bits) / 8;
  const count = inputs.labels.length;
  if (count === 0) throw new InvalidArgumentError('There are no labelled inputs to send; give at least one.');
  if (inputs.bytes.byteLength !== count * length) {
    throw new InvalidArgumentError(
      `${count} inputs of shape [${inputs.itemShape.join(', ')}] (${inputs.dtype}) take ${count * length} bytes, got ${inputs.bytes.byteLength}.`,
    );
  }
  return length;
}

/**
 * Which item each of `requests` requests carries: every item once in a random order, then again in another
 * one, so that any stretch of requests is a fair sample and no item is favoured.
 */
export function cycledOrder(items: number, requests: number, random: Random): Uint32Array {
  const order = new Uint32Array(requests);
  for (let start = 0; start < requests; start += items) {
    order.set(permutation(items, random).subarray(0, requests - start), start);
  }
  return order;
}
