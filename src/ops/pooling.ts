import { elementCount, float32Tensor } from '../base/tensor.ts';
import { intAttribute, intsAttribute } from '../graph/attributes.ts';
import type { Dim, Node, ValueType } from '../graph/model.ts';
import { freezeInputs, passOverSpace } from './channels.ts';
import { compound, defineCompound } from './compound.ts';
import { requiredType } from './dims.ts';
import { reshape } from './emit.ts';
import { ShapeError } from './errors.ts';
import { defineOp, type ShapeContext } from './op.ts';
import { integersAt } from './partial.ts';
import { outputSizes, transposedAttributes, type Windows, windowsOf } from './windows.ts';

/** The largest value under each window; padding counts as −∞. The second output, if asked for, says where it was. */
export const MaxPool = defineOp({
  schema: { name: 'MaxPool', since: [1, 8, 10, 11, 12, 22], inputs: [1, 1], outputs: [1, 2] },
  shape: pooled,
  gradient(context) {
    const {
      build,
      node,
      dy: [dy],
    } = context;
    if (dy === undefined || !context.needs(0)) return [];
    const shape = context.xShape(0);
    // The forward node may not have asked for the positions, so they are computed here: flat indices into x.
    const positions = build.ops(
      'MaxPool',
      [context.x(0)],
      { ...Object.fromEntries(node.attributes), storage_order: 0 },
      { outputs: 2, name: 'maxpool_positions' },
    )[1]!;
    const zeros = build.op('Expand', [build.scalar(0), build.ints([elementCount(shape)])]);
    // Windows may overlap: several outputs add up at one position.
    const flat = build.op(
      'ScatterElements',
      [zeros, reshape(build, positions, [-1]), reshape(build, dy, [-1])],
      { axis: 0, reduction: 'add' },
    );
    return [reshape(build, flat, shape)];
  },
  coupling: (context) => {
    // Positions are counted through all channels of a sample, so that they change when channels go.
    if (context.node.outputs[1]) freezeInputs(context, 'MaxPool tells positions that count these channels');
    else passOverSpace(context);
  },
});

/** The mean under each window; padding counts as zeros if `count_include_pad` is 1 and is left out otherwise. */
export const AveragePool = defineOp({
  schema: { name: 'AveragePool', since: [1, 7, 10, 11, 19, 22], inputs: [1, 1], outputs: [1, 1] },
  shape: pooled,
  gradient(context) {
    const {
      build,
      node,
      dy: [dy],
    } = context;
    if (dy === undefined || !context.needs(0)) return [];
    return [compound(build, 'AveragePoolGradient', [dy, context.x(0)], Object.fromEntries(node.attributes))];
  },
  coupling: passOverSpace,
});

/** (dy, x) → dx, of the shape of x, whose values are not used; the attributes are those of AveragePool. */
export const AveragePoolGradient = defineCompound({
  schema: { name: 'AveragePoolGradient', inputs: 2, outputs: 1 },
  shape: ({ inputs: [, x] }) => [x ?? { dtype: 'float32' }],
  expand({ node, build, x, xShape }) {
    const [input, output] = [xShape(1), xShape(0)];
    const windows = windowsOf(node, input.slice(2));
    const planes = input[0]! * input[1]!;
    const ones = new Float32Array(elementCount(windows.kernel)).fill(1);
    const shares = build.op('Mul', [x(0), build.constant(inverseCounts(node, windows, input, output))]);
    const spread = build.op(
      'ConvTranspose',
      [
        reshape(build, shares, [planes, 1, ...output.slice(2)]),
        build.constant(float32Tensor([1, 1, ...windows.kernel], ones)),
      ],
      { ...transposedAttributes(windows, input.slice(2), output.slice(2)) },
    );
    return [reshape(build, spread, input)];
  },
});

/** (Σ |x|^p)^(1/p) under each window. */
export const LpPool = defineOp({
  schema: { name: 'LpPool', since: [1, 2, 11, 18, 22], inputs: [1, 1], outputs: [1, 1] },
  shape: pooled,
  coupling: passOverSpace,
});

/**
 * Puts values back where MaxPool found them, zeros elsewhere. The positions count through all channels, so that none
 * may go. With a stated output size the shape is that, else what MaxPool's input must have been.
 */
export const MaxUnpool = defineOp({
  schema: { name: 'MaxUnpool', since: [9, 11, 22], inputs: [2, 3], outputs: [1, 1] },
  shape: (context) => {
    const { node, inputs } = context;
    const { dtype, shape } = requiredType(node, inputs, 0);
    if (shape === undefined) return [{ dtype }];
    if (node.inputs[2]) return [{ dtype, shape: integersAt(context, 2) ?? shape.map(() => null) }];
    const rank = shape.length - 2;
    const kernel = intsAttribute(node, 'kernel_shape', []);
    const strides = intsAttribute(node, 'strides', new Array<number>(rank).fill(1));
    const pads = intsAttribute(node, 'pads', new Array<number>(2 * rank).fill(0));
    const spatial = shape.slice(2).map((size, i): Dim => {
      if (typeof size !== 'number') return null;
      return (size - 1) * strides[i]! + kernel[i]! - pads[i]! - pads[i + rank]!;
    });
    return [{ dtype, shape: [shape[0]!, shape[1]!, ...spatial] }];
  },
  coupling: (context) => freezeInputs(context, 'MaxUnpool reads positions that count these channels'),
});

function pooled({ node, inputs: [x] }: ShapeContext): ValueType[] {
  const dtype = x?.dtype ?? 'float32';
  if (intsAttribute(node, 'kernel_shape') === undefined)
    throw new ShapeError(node, 0, 'has no kernel_shape to go with');
  const shape =
    x?.shape === undefined ? undefined : [x.shape[0]!, x.shape[1]!, ...outputSizes(node, x.shape.slice(2))];
  return node.outputs.map((_, i) => ({ dtype: i === 0 ? dtype : 'int64', shape }));
}

/** 1 / (number of positions averaged) for each output position, shape [1, 1, spatial…]. */
function inverseCounts(node: Node, windows: Windows, input: readonly number[], output: readonly number[]) {
  const withPadding = intAttribute(node, 'count_include_pad', 0) !== 0;
  // The count is a product over the axes; what lies beyond the end padding (ceil_mode) never counts.
  let counts = [1];
  for (const [axis, size] of input.slice(2).entries()) {
    const [low, high] = withPadding ? [-windows.padsBegin[axis]!, size + windows.padsEnd[axis]!] : [0, size];
    const along = Array.from({ length: output[axis + 2]! }, (_, y) => {
      const start = y * windows.strides[axis]! - windows.padsBegin[axis]!;
      const seen = Array.from(
        { length: windows.kernel[axis]! },
        (_, i) => start + i * windows.dilations[axis]!,
      );
      return seen.filter((position) => position >= low && position < high).length;
    });
    counts = counts.flatMap((count) => along.map((other) => count * other));
  }
  return float32Tensor(
    [1, 1, ...output.slice(2)],
    counts.map((count) => 1 / count),
  );
}
