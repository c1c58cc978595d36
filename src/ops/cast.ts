import { DTYPES, type DType } from '../base/dtype.ts';
import { BonsaiError } from '../base/errors.ts';
import { halfNumbers, isHalf } from '../base/half.ts';
import { elementCount, isNumeric, numbersOf, type Tensor } from '../base/tensor.ts';
import { describeNode, intAttribute } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';
import { passLabels } from './broadcast.ts';
import { requiredType } from './dims.ts';
import { defineOp } from './op.ts';
import { completed, elementsAt } from './partial.ts';
import { MAX_DATA_ELEMENTS } from './strided.ts';

/** Another element type. Differentiable between floating types only. */
export const Cast = defineOp({
  schema: { name: 'Cast', since: [6, 9, 13, 19, 21], inputs: [1, 1], outputs: [1, 1] },
  shape: ({ node, inputs }) => [{ dtype: targetOf(node), shape: requiredType(node, inputs, 0).shape }],
  // The graph's gradients are float32, as its parameters are.
  gradient: ({ node, dy }) => [targetOf(node) === 'float32' ? dy[0] : undefined],
  coupling: passLabels,
  fold: (context) => {
    const x = elementsAt(context, 0);
    const dtype = targetOf(context.node);
    const convert = CONVERSIONS[dtype];
    if (convert === undefined) return undefined;
    if (x === undefined) return convertedData(context.constant(0), dtype, convert);
    const elements = x.elements.map((element) =>
      typeof element === 'number' ? convert(element) : dtype === 'bool' ? null : element,
    );
    return { dtype, shape: x.shape, elements };
  },
});

/** Stored data, as weights that a file keeps in half precision to be smaller; undefined where there is none, or too much. */
function convertedData(
  tensor: Tensor | undefined,
  dtype: DType,
  convert: (value: number) => number,
): Tensor | undefined {
  if (tensor === undefined || !isNumeric(tensor.dtype)) return undefined;
  if (elementCount(tensor.shape) > MAX_DATA_ELEMENTS) return undefined;
  const numbers = isHalf(tensor.dtype)
    ? Array.from(halfNumbers({ ...tensor, dtype: tensor.dtype }))
    : numbersOf(tensor);
  return completed({ dtype, shape: tensor.shape, elements: numbers.map(convert) });
}

/** How shape arithmetic converts; other types are left to the engine. */
const CONVERSIONS: Partial<Record<DType, (value: number) => number>> = {
  int64: Math.trunc,
  int32: (value) => Math.trunc(value) | 0,
  float32: Math.fround,
  float64: (value) => value,
  bool: (value) => (value === 0 ? 0 : 1),
};

function targetOf(node: Node): DType {
  const to = intAttribute(node, 'to', 0);
  const dtype = DTYPES[to - 1]; // The list has ONNX's order, which counts from 1.
  if (dtype === undefined) {
    throw new BonsaiError(
      'invalid_graph',
      `${describeNode(node)}: attribute "to" is ${to}, which is no element type.`,
    );
  }
  return dtype;
}
