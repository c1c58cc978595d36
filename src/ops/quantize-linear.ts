import { DTYPES } from '../base/dtype.ts';
import { elementCount, float32Tensor, floatsOf, isNumeric, numbersOf, type Tensor } from '../base/tensor.ts';
import { intAttribute } from '../graph/attributes.ts';
import type { Node } from '../graph/model.ts';
import { requiredType } from './dims.ts';
import { labelledAxes } from './label-tensor.ts';
import { type CouplingContext, defineOp } from './op.ts';

/** round(x / scale) + zero point, saturated: one scale for all, one for each position of `axis`, or one for each block. */
export const QuantizeLinear = defineOp({
  schema: { name: 'QuantizeLinear', since: [10, 13, 19, 21, 23], inputs: [2, 3], outputs: [1, 1] },
  shape: ({ node, inputs }) => {
    const { shape } = requiredType(node, inputs, 0);
    const stated = DTYPES[intAttribute(node, 'output_dtype', 0) - 1]; // ONNX counts its types from 1.
    return [{ dtype: inputs[2]?.dtype ?? stated ?? 'uint8', shape }];
  },
  coupling: couple,
});

/** (x − zero point) · scale. */
export const DequantizeLinear = defineOp({
  schema: { name: 'DequantizeLinear', since: [10, 13, 19, 21, 23], inputs: [2, 3], outputs: [1, 1] },
  shape: ({ node, inputs }) => [
    { dtype: requiredType(node, inputs, 1).dtype, shape: requiredType(node, inputs, 0).shape },
  ],
  coupling: couple,
});

/** Channels pass; where each has a scale and a zero point of its own, these are sliced with them. */
function couple(context: CouplingContext): void {
  const { node } = context;
  const labels = context.labels(0);
  if (labels === undefined) return;
  const scale = context.xShape(1);
  if (scale === undefined || !scale.every((size) => typeof size === 'number')) {
    context.freeze(labels.data, `meets scales of ${node.opType} whose number is unknown`);
    return;
  }
  if (elementCount(scale) === 1) {
    context.produce(0, labels);
    return;
  }
  if (intAttribute(node, 'block_size', 0) > 0) {
    context.freeze(labels.data, `${node.opType} has a scale for each block of these channels`);
    return;
  }
  const axes = labelledAxes(labels);
  const axis = scaleAxis(node, labels.shape.length, scale.map(Number));
  if (axis !== undefined && axes.includes(axis)) {
    const parameters = node.inputs[2] ? [1, 2] : [1];
    if (axes.length > 1 || !parameters.every((input) => context.isParameter(input))) {
      context.freeze(labels.data, `${node.opType} has scales of these channels that cannot be sliced`);
      return;
    }
    for (const input of parameters) context.bind(input, 0, labels.data);
  }
  context.produce(0, labels);
}

/**
 * The values that a DequantizeLinear makes of stored integers; undefined where they have no plain form here (4-bit and
 * 8-bit float types, a scale for each block, scales that are not float32).
 */
export function dequantized(node: Node, x: Tensor, scale: Tensor, zeroPoint?: Tensor): Tensor | undefined {
  const isPlain =
    isNumeric(x.dtype) && scale.dtype === 'float32' && intAttribute(node, 'block_size', 0) === 0;
  const axis = scaleAxis(node, x.shape.length, scale.shape);
  if (!isPlain || (axis !== undefined && scale.shape[0] !== x.shape[axis])) return undefined;
  const scales = floatsOf(scale);
  const zeros = zeroPoint === undefined ? scales.map(() => 0) : numbersOf(zeroPoint);
  const inner = axis === undefined ? 1 : elementCount(x.shape.slice(axis + 1));
  const values = Float32Array.from(numbersOf(x), (value, i) => {
    const at = axis === undefined ? 0 : Math.floor(i / inner) % scales.length;
    return (value - zeros[at]!) * scales[at]!;
  });
  return float32Tensor(x.shape, values);
}

/** The axis that has a scale for each of its positions; undefined where one scale is for all. */
export function scaleAxis(node: Node, rank: number, scale: readonly number[]): number | undefined {
  if (elementCount(scale) === 1) return undefined;
  const axis = intAttribute(node, 'axis', DEFAULT_AXIS);
  return axis < 0 ? axis + rank : axis;
}

/** ONNX's default: the channels. */
export const DEFAULT_AXIS = 1;
