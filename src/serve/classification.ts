import { elementCount, elementsOf, isNumeric } from '../base/tensor.ts';
import { datatypeOf } from '../repository/datatypes.ts';
import type { TensorSpec } from '../repository/types.ts';
import type { InferAnswer } from './data-plane.ts';
import { InvalidRequestError } from './errors.ts';
import type { NamedTensor } from './input-check.ts';
import type { ServedModel } from './served-model.ts';

/**
 * An answer with classes in place of the scores where they are wanted.
 * @param classes how many, by output
 * @throws InvalidRequestError for outputs that hold no scores
 */
export function withClasses(
  model: ServedModel,
  classes: ReadonlyMap<string, number>,
  answer: InferAnswer,
): InferAnswer {
  if (classes.size === 0) return answer;
  const live = model.liveVersions.find((entry) => entry.version === answer.version);
  const labels = model.stored?.manifest?.classes;
  const outputs = answer.outputs.map((tensor) => {
    const count = classes.get(tensor.name);
    if (count === undefined) return tensor;
    const spec = live?.outputs.find(({ name }) => name === tensor.name) ?? tensor;
    return topClasses(tensor, spec, count, labels ?? model.stored?.labels?.get(tensor.name) ?? []);
  });
  return { ...answer, outputs };
}

/** The parameter `classification` of an output. @throws InvalidRequestError */
export function classCountOf(value: unknown, where: string): number {
  const count = typeof value === 'bigint' ? Number(value) : value;
  if (typeof count === 'number' && Number.isSafeInteger(count) && count > 0) return count;
  throw new InvalidRequestError(`${where}: 'classification' must be an integer, 1 or more`);
}

/** As C's `%f`, which is how Triton writes a score. */
const DECIMALS = 6;

/**
 * The classes of highest score, best first, as the classification extension writes them: `score:index` or
 * `score:index:label`. Equal scores go by index; NaN comes last.
 * @param scores shape [rows, …] where the network's output has an open first size, else one row of any shape
 * @param count classes wanted; fewer are given where there are fewer
 * @param labels by index; beyond them classes have no label
 * @returns strings of shape [rows, classes], or [classes]
 * @throws InvalidRequestError for elements that are no scores
 */
export function topClasses(
  scores: NamedTensor,
  spec: TensorSpec,
  count: number,
  labels: readonly string[],
): NamedTensor {
  const { dtype, shape, name } = scores;
  if (!isNumeric(dtype) || dtype === 'float16' || dtype === 'bfloat16' || dtype === 'bool') {
    throw new InvalidRequestError(
      `output '${name}': classes cannot be given for ${datatypeOf(dtype)}; ask for the tensor itself`,
    );
  }
  const isBatch = spec.shape.length > 1 && spec.shape[0] === -1;
  const rows = isBatch ? shape[0]! : 1;
  const width = rows === 0 ? 0 : elementCount(shape) / rows;
  const classes = Math.min(count, width);
  const elements = elementsOf(scores);
  const isFloat = dtype === 'float32' || dtype === 'float64';
  const strings: Uint8Array[] = [];
  for (let row = 0; row < rows; row++) {
    const order = Array.from({ length: width }, (_, i) => i);
    const scoreOf = (i: number) => elements[row * width + i]!;
    order.sort((a, b) => descending(scoreOf(a), scoreOf(b)) || a - b);
    for (const index of order.slice(0, classes)) {
      const score = scoreOf(index);
      const text = isFloat ? Number(score).toFixed(DECIMALS) : String(score);
      const label = labels[index] === undefined ? '' : `:${labels[index]}`;
      strings.push(Buffer.from(`${text}:${index}${label}`));
    }
  }
  return {
    name,
    dtype: 'string',
    shape: isBatch ? [rows, classes] : [classes],
    bytes: new Uint8Array(0),
    strings,
  };
}

function descending(a: number | bigint, b: number | bigint): number {
  if (a > b) return -1;
  if (a < b) return 1;
  return Number(Number.isNaN(a)) - Number(Number.isNaN(b)); // Equal, or one of them is no number.
}
